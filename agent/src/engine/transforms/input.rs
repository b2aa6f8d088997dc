//! Steps before the model.

use std::borrow::Cow;
use std::io::Cursor;

use image::imageops::FilterType;
use image::{DynamicImage, ImageBuffer, ImageError, ImageReader, Limits, Luma, Rgb};
use muster_proto::manifest::{Color, Dtype, Filter, InputOp, Layout, Tensor, TensorSpec};
use tract_onnx::tract_core::internal::tract_data::half::f16;

use super::Error;

/// The largest width or height of an image, in pixels.
pub const MAX_SIDE: u32 = 8192;
/// The most bytes that decoding may take, and the most that the decoded image may as f32.
pub const MAX_BYTES: u64 = 256 << 20;

/// What a caller sent for one input.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// The bytes of an image file.
    Image(&'a [u8]),
    /// Numbers. Where the steps begin with decoding, these are the decoded pixels: height × width ×
    /// channels, 0 to 255.
    Tensor(&'a Tensor),
}

/// Numbers on their way to the model.
struct Numbers {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// Applies `ops` in order and casts the outcome to the dtype of `spec`, with rounding and saturation
/// where that is whole numbers. Without steps, a tensor goes through as it is.
///
/// Images are decoded with 8 bits a channel, without regard to transparency, colour profile or EXIF
/// orientation. Resizing filters over the whole area that a pixel of the result covers, as Pillow does.
pub fn apply_inputs(ops: &[InputOp], source: Source, spec: &TensorSpec) -> Result<Tensor, Error> {
    let (mut numbers, rest) = match (source, ops) {
        (Source::Tensor(tensor), []) => return Ok(tensor.clone()),
        (Source::Image(bytes), [InputOp::DecodeImage { color }, rest @ ..]) => (decode(bytes, *color)?, rest),
        (Source::Image(_), _) => return Err(form("input", "a tensor", "an image: the first step is not decode_image")),
        (Source::Tensor(tensor), [InputOp::DecodeImage { color }, rest @ ..]) => (pixels(tensor, *color)?, rest),
        (Source::Tensor(tensor), all) => (from_tensor(tensor), all),
    };
    for op in rest {
        numbers = apply(op, numbers)?;
    }
    cast(numbers, spec.dtype)
}

fn apply(op: &InputOp, mut numbers: Numbers) -> Result<Numbers, Error> {
    match op {
        InputOp::DecodeImage { .. } => return Err(form("decode_image", "to be the first step", "a later place")),
        InputOp::Resize { width, height, filter } => return resize(numbers, *width, *height, *filter),
        InputOp::CenterCrop { width, height } => return center_crop(&numbers, *width as usize, *height as usize),
        InputOp::Scale { factor, offset } => numbers.values.iter_mut().for_each(|v| *v = *v * factor + offset),
        InputOp::Normalize { mean, std } => normalize(&mut numbers, mean, std)?,
        InputOp::Layout { to } => return layout(numbers, *to),
    }
    Ok(numbers)
}

fn decode(bytes: &[u8], color: Color) -> Result<Numbers, Error> {
    let failed = |error: ImageError| match error {
        ImageError::Limits(error) => Error::TooLarge(error.to_string()),
        other => Error::Image(other.to_string()),
    };
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| Error::Image(error.to_string()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let image = reader.decode().map_err(failed)?;
    let channels = channels_of(color);
    let elements = u64::from(image.width()) * u64::from(image.height()) * channels as u64;
    if elements * 4 > MAX_BYTES {
        let text = format!("{} × {} pixels take over {MAX_BYTES} bytes as f32", image.width(), image.height());
        return Err(Error::TooLarge(text));
    }
    let shape = vec![image.height() as usize, image.width() as usize, channels];
    Ok(Numbers { shape, values: to_values(image, color) })
}

fn to_values(image: DynamicImage, color: Color) -> Vec<f32> {
    let floats = |bytes: Vec<u8>| bytes.into_iter().map(f32::from).collect::<Vec<f32>>();
    match color {
        Color::Gray => floats(image.into_luma8().into_raw()),
        Color::Rgb => floats(image.into_rgb8().into_raw()),
        Color::Bgr => {
            let mut values = floats(image.into_rgb8().into_raw());
            values.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
            values
        }
    }
}

pub(super) fn channels_of(color: Color) -> usize {
    if color == Color::Gray { 1 } else { 3 }
}

/// Pixels that the caller has decoded; a grey image may come without its channel dimension.
fn pixels(tensor: &Tensor, color: Color) -> Result<Numbers, Error> {
    let mut numbers = from_tensor(tensor);
    if color == Color::Gray && numbers.shape.len() == 2 {
        numbers.shape.push(1);
    }
    if numbers.shape.len() != 3 || numbers.shape[2] != channels_of(color) {
        let wanted = format!("an image file, or height × width × {}", channels_of(color));
        return Err(form("decode_image", &wanted, &format!("{:?}", tensor.shape())));
    }
    Ok(numbers)
}

fn from_tensor(tensor: &Tensor) -> Numbers {
    let shape = tensor.shape().iter().map(|dim| *dim as usize).collect();
    Numbers { shape, values: tensor.to_f64().into_iter().map(|value| value as f32).collect() }
}

/// Height, width and channels of an image before `layout`.
fn image_shape(step: &'static str, numbers: &Numbers) -> Result<(usize, usize, usize), Error> {
    match numbers.shape[..] {
        [height, width, channels] if height > 0 && width > 0 && channels > 0 => Ok((height, width, channels)),
        _ => Err(form(step, "an image of height × width × channels", &format!("{:?}", numbers.shape))),
    }
}

fn resize(numbers: Numbers, width: u32, height: u32, filter: Filter) -> Result<Numbers, Error> {
    let (old_height, old_width, channels) = image_shape("resize", &numbers)?;
    if (old_height, old_width) == (height as usize, width as usize) {
        return Ok(numbers);
    }
    let filter = match filter {
        Filter::Nearest => FilterType::Nearest,
        Filter::Triangle => FilterType::Triangle,
        Filter::CatmullRom => FilterType::CatmullRom,
        Filter::Lanczos3 => FilterType::Lanczos3,
    };
    let bad = || form("resize", "an image of 1 or 3 channels", &format!("{:?}", numbers.shape));
    let (w, h) = (u32::try_from(old_width).map_err(|_| bad())?, u32::try_from(old_height).map_err(|_| bad())?);
    // `imageops` takes floats as 0 to 1 and cuts off what lies outside.
    let unit: Vec<f32> = numbers.values.iter().map(|value| value / 255.0).collect();
    let resized = match channels {
        1 => {
            let image: ImageBuffer<Luma<f32>, _> = ImageBuffer::from_raw(w, h, unit).ok_or_else(bad)?;
            image::imageops::resize(&image, width, height, filter).into_raw()
        }
        3 => {
            let image: ImageBuffer<Rgb<f32>, _> = ImageBuffer::from_raw(w, h, unit).ok_or_else(bad)?;
            image::imageops::resize(&image, width, height, filter).into_raw()
        }
        _ => return Err(bad()),
    };
    let values = resized.into_iter().map(|value| value * 255.0).collect();
    Ok(Numbers { shape: vec![height as usize, width as usize, channels], values })
}

/// The middle; where the margins are odd, the smaller half is above and to the left.
fn center_crop(numbers: &Numbers, width: usize, height: usize) -> Result<Numbers, Error> {
    let (old_height, old_width, channels) = image_shape("center_crop", numbers)?;
    if width > old_width || height > old_height {
        let wanted = format!("an image of at least {width} × {height} pixels");
        return Err(form("center_crop", &wanted, &format!("{old_width} × {old_height}")));
    }
    let (top, left) = ((old_height - height) / 2, (old_width - width) / 2);
    let row = |y: usize| {
        let start = (y * old_width + left) * channels;
        &numbers.values[start..start + width * channels]
    };
    let values = (top..top + height).flat_map(row).copied().collect();
    Ok(Numbers { shape: vec![height, width, channels], values })
}

fn normalize(numbers: &mut Numbers, mean: &[f32], std: &[f32]) -> Result<(), Error> {
    let channels = numbers.shape.last().copied().unwrap_or(0);
    if channels == 0 || mean.len() != channels || std.len() != channels {
        let wanted = format!("{} values in the last dimension", mean.len());
        return Err(form("normalize", &wanted, &format!("{:?}", numbers.shape)));
    }
    for pixel in numbers.values.chunks_exact_mut(channels) {
        for ((value, mean), std) in pixel.iter_mut().zip(mean).zip(std) {
            *value = (*value - mean) / std;
        }
    }
    Ok(())
}

fn layout(numbers: Numbers, to: Layout) -> Result<Numbers, Error> {
    let (height, width, channels) = image_shape("layout", &numbers)?;
    if to == Layout::Nhwc {
        return Ok(Numbers { shape: vec![1, height, width, channels], values: numbers.values });
    }
    let mut values = Vec::with_capacity(numbers.values.len());
    for channel in 0..channels {
        values.extend(numbers.values.iter().skip(channel).step_by(channels));
    }
    Ok(Numbers { shape: vec![1, channels, height, width], values })
}

/// Whether [`apply_inputs`] can give this dtype.
pub(super) fn can_cast(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::F64 | Dtype::U8 | Dtype::I8 | Dtype::I32)
}

fn cast(numbers: Numbers, dtype: Dtype) -> Result<Tensor, Error> {
    let values: Cow<[f32]> = numbers.values.into();
    let values = values.iter();
    // `as` rounds towards zero and saturates.
    let data: Vec<u8> = match dtype {
        Dtype::F32 => values.flat_map(|v| v.to_le_bytes()).collect(),
        Dtype::F16 => values.flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::F64 => values.flat_map(|v| f64::from(*v).to_le_bytes()).collect(),
        Dtype::U8 => values.map(|v| v.round() as u8).collect(),
        Dtype::I8 => values.flat_map(|v| (v.round() as i8).to_le_bytes()).collect(),
        Dtype::I32 => values.flat_map(|v| (v.round() as i32).to_le_bytes()).collect(),
        _ => return Err(form("input", "a model input of f32, f16, f64, u8, i8 or i32", dtype.name())),
    };
    let shape: Vec<u64> = numbers.shape.iter().map(|dim| *dim as u64).collect();
    Tensor::new(dtype, shape, data).map_err(|error| form("input", "values that fill the shape", &error.to_string()))
}

fn form(step: &'static str, wanted: &str, got: &str) -> Error {
    Error::Form { step, wanted: wanted.to_owned(), got: got.to_owned() }
}
