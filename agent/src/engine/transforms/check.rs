//! Registration's check that declared steps fit the model.

use muster_proto::manifest::{Dim, InputOp, Layout, OutputOp, TensorSpec, Transforms};

use super::MAX_SIDE;
use super::input::{can_cast, channels_of};
use crate::engine::model::describe;

/// What is known of the numbers between two input steps; `None` where any size is possible.
type Known = Vec<Option<u64>>;

/// Checks that every step takes what the step before gives, and that the last input step gives what
/// the model wants. The error names the tensor, the step and what to change.
pub fn check(transforms: &Transforms, inputs: &[TensorSpec], outputs: &[TensorSpec]) -> Result<(), String> {
    for (name, ops) in &transforms.inputs {
        let spec = inputs.iter().find(|spec| spec.name == *name);
        let spec = spec.ok_or_else(|| format!("transforms: {name:?} is not an input of the model"))?;
        check_input(ops, spec).map_err(|text| format!("transforms of input {name:?}: {text}"))?;
    }
    for (name, ops) in &transforms.outputs {
        let spec = outputs.iter().find(|spec| spec.name == *name);
        let spec = spec.ok_or_else(|| format!("transforms: {name:?} is not an output of the model"))?;
        check_output(ops, spec).map_err(|text| format!("transforms of output {name:?}: {text}"))?;
    }
    Ok(())
}

fn check_input(ops: &[InputOp], spec: &TensorSpec) -> Result<(), String> {
    if !ops.is_empty() && !can_cast(spec.dtype) {
        return Err(format!("steps give f32, f16, f64, u8, i8 or i32, and the model wants {}", spec.dtype));
    }
    let is_image = ops.iter().any(|op| {
        matches!(op, InputOp::DecodeImage { .. } | InputOp::Resize { .. } | InputOp::CenterCrop { .. })
            || matches!(op, InputOp::Layout { .. })
    });
    // Without an image step, a caller sends the model's own shape.
    let mut shape: Known = if is_image { vec![None; 3] } else { spec.shape.iter().map(fixed).collect() };
    let mut laid_out = false;
    for (index, op) in ops.iter().enumerate() {
        if laid_out && !matches!(op, InputOp::Scale { .. }) {
            return Err("after layout only scale may follow".into());
        }
        match op {
            InputOp::DecodeImage { .. } if index > 0 => return Err("decode_image has to be the first step".into()),
            InputOp::DecodeImage { color } => shape[2] = Some(channels_of(*color) as u64),
            InputOp::Resize { width, height, .. } | InputOp::CenterCrop { width, height } => {
                if [width, height].into_iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
                    return Err(format!("width and height have to be 1 to {MAX_SIDE}, not {width} and {height}"));
                }
                if matches!(op, InputOp::CenterCrop { .. }) && !crop_fits(&shape, *width, *height) {
                    return Err(format!("center_crop {width} × {height} is larger than the image before it"));
                }
                (shape[0], shape[1]) = (Some(u64::from(*height)), Some(u64::from(*width)));
            }
            InputOp::Scale { factor, offset } => {
                if !factor.is_finite() || !offset.is_finite() {
                    return Err("scale needs finite numbers".into());
                }
            }
            InputOp::Normalize { mean, std } => check_normalize(mean, std, shape.last().copied().flatten())?,
            InputOp::Layout { to } => {
                let (height, width, channels) = (shape[0], shape[1], shape[2]);
                shape = match to {
                    Layout::Nchw => vec![Some(1), channels, height, width],
                    Layout::Nhwc => vec![Some(1), height, width, channels],
                };
                laid_out = true;
            }
        }
    }
    let fits = shape.len() == spec.shape.len() && shape.iter().zip(&spec.shape).all(|(have, want)| may_be(*have, want));
    if fits {
        return Ok(());
    }
    let have: Vec<String> = shape.iter().map(|dim| dim.map_or("?".into(), |size| size.to_string())).collect();
    let hint = if is_image && !laid_out { "; end with layout" } else { "" };
    Err(format!("the steps give [{}], the model wants {}{hint}", have.join(", "), describe(spec)))
}

fn crop_fits(shape: &Known, width: u32, height: u32) -> bool {
    shape[0].is_none_or(|old| u64::from(height) <= old) && shape[1].is_none_or(|old| u64::from(width) <= old)
}

fn check_normalize(mean: &[f32], std: &[f32], channels: Option<u64>) -> Result<(), String> {
    let count = mean.len() as u64;
    if mean.len() != std.len() || channels.is_some_and(|channels| channels != count) {
        let channels = channels.map_or("the number of".into(), |channels| channels.to_string());
        return Err(format!("normalize needs a mean and a std for {channels} channels, not {count} and {}", std.len()));
    }
    if std.iter().any(|std| !std.is_normal()) || mean.iter().any(|mean| !mean.is_finite()) {
        return Err("normalize needs finite means, and stds other than 0".into());
    }
    Ok(())
}

fn check_output(ops: &[OutputOp], spec: &TensorSpec) -> Result<(), String> {
    let width = spec.shape.last().map_or(Some(1), fixed);
    for (index, op) in ops.iter().enumerate() {
        let labels = match op {
            OutputOp::Softmax => continue,
            OutputOp::ArgMax { labels } => labels,
            OutputOp::TopK { k: 0, .. } => return Err("top_k needs a k of 1 or more".into()),
            OutputOp::TopK { labels, .. } => labels,
            OutputOp::Threshold { min, .. } if !min.is_finite() => return Err("threshold needs a finite min".into()),
            OutputOp::Threshold { labels, .. } => labels,
        };
        if index + 1 < ops.len() {
            return Err("arg_max, top_k and threshold have to be the last step".into());
        }
        if !labels.is_empty() && width.is_some_and(|width| width != labels.len() as u64) {
            let width = width.unwrap_or_default();
            return Err(format!("{} labels for {width} values in the last dimension", labels.len()));
        }
    }
    Ok(())
}

fn fixed(dim: &Dim) -> Option<u64> {
    if let Dim::Fixed(size) = dim { Some(*size) } else { None }
}

/// Whether a size that steps give may be one that the model takes.
fn may_be(have: Option<u64>, want: &Dim) -> bool {
    have.is_none_or(|have| fixed(want).is_none_or(|want| have == want))
}
