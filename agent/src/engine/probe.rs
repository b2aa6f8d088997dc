//! The probe: runs golden samples through a loaded model and holds the outputs against the recorded
//! ones.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use muster_proto::manifest::{Dtype, Hook, Sample, ScriptedSample, Tensor, Tolerance};
use muster_proto::report;

use super::Model;
use super::script::Scored;

mod json;

/// What a probe found.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeOutcome {
    /// What is reported.
    pub probe: report::Probe,
    /// The first difference; none where every sample passed.
    pub mismatch: Option<Mismatch>,
}

/// The first difference between what a sample records and what the model gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Mismatch {
    /// The sample's name.
    pub sample: String,
    /// The output's name; empty where the sample could not be run.
    pub output: String,
    /// What differs.
    pub difference: Difference,
}

/// How an output differs from its record.
#[derive(Debug, Clone, PartialEq)]
pub enum Difference {
    /// An element is further off than the tolerance allows.
    Value {
        /// Its place in row-major order.
        index: usize,
        /// What is recorded.
        want: f64,
        /// What the model gave.
        got: f64,
    },
    /// The dtype or the shape is another.
    Form {
        /// What is recorded.
        want: String,
        /// What the model gave.
        got: String,
    },
    /// The model has no such output.
    NoSuchOutput,
    /// The sample records no output at all, so it proves nothing.
    NothingRecorded,
    /// A part of the script's answer is another.
    Answer {
        /// Where it stands, as a JSON pointer (RFC 6901).
        at: String,
        /// What is recorded.
        want: String,
        /// What the script gave.
        got: String,
    },
    /// The model or the script failed on the sample.
    Failed(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sample {:?}", self.sample)?;
        if !self.output.is_empty() {
            write!(f, ", output {:?}", self.output)?;
        }
        match &self.difference {
            Difference::Value { index, want, got } => write!(f, ", element {index}: wanted {want}, got {got}"),
            Difference::Form { want, got } => write!(f, ": wanted {want}, got {got}"),
            Difference::Answer { at, want, got } => write!(f, ", {at:?} of the answer: wanted {want}, got {got}"),
            Difference::NoSuchOutput => write!(f, ": the model has no such output"),
            Difference::NothingRecorded => write!(f, ": it records no output"),
            Difference::Failed(reason) => write!(f, ": {reason}"),
        }
    }
}

/// Runs `samples` through `model`, all of them, even after a difference.
///
/// Floats pass where `|got − want| ≤ absolute + relative × |want|`, and NaN equals NaN. Whole numbers
/// and booleans pass where `|got − want| ≤ absolute`: a relative part would let a wrong class pass.
pub fn run(model: &Model, samples: &[Sample], tolerance: Tolerance) -> ProbeOutcome {
    judge(model, samples.len(), |index, largest| {
        let sample = &samples[index];
        let (outputs, took) = timed(model, &sample.inputs);
        (sample.name.as_str(), took, outputs.and_then(|got| compare_outputs(&sample.outputs, &got, tolerance, largest)))
    })
}

/// [`run`] with the script before and after the model: what it makes of a sample's request, and of the outputs, has to
/// be what is recorded, by the same tolerance.
pub fn run_scored(scored: &Scored, samples: &[ScriptedSample], tolerance: Tolerance) -> ProbeOutcome {
    judge(scored.model, samples.len(), |index, largest| {
        let ScriptedSample { sample, request, answer } = &samples[index];
        let inputs = match (scored.script, request) {
            (Some(script), Some(request)) if script.has(Hook::Preprocess) => {
                let made = script.preprocess(request.as_bytes(), &scored.wanted(), &scored.patience());
                made.map_err(failed).and_then(|made| {
                    compare_outputs(&sample.inputs, &made, tolerance, largest)
                        .map_err(|(name, difference)| (format!("preprocess: {name}"), difference))?;
                    Ok(made)
                })
            }
            _ => Ok(sample.inputs.clone()),
        };
        let (outputs, took) = match inputs {
            Ok(inputs) => timed(scored.model, &inputs),
            Err(found) => (Err(found), Duration::ZERO),
        };
        let found = outputs.and_then(|got| {
            compare_outputs(&sample.outputs, &got, tolerance, largest)?;
            let Some(script) = scored.script.filter(|script| script.has(Hook::Postprocess)) else { return Ok(()) };
            let made = script.postprocess(&got, scored.transforms, &scored.patience()).map_err(failed)?;
            let Some(want) = answer else { return Ok(()) };
            let read = |json: &[u8]| serde_json::from_slice(json).map_err(failed);
            json::compare(&read(want.as_bytes())?, &read(&made)?, tolerance)
                .map_err(|difference| ("postprocess".to_owned(), difference))
        });
        (sample.name.as_str(), took, found)
    })
}

/// What was found on one sample: which output differs, and how.
type Found = Result<(), (String, Difference)>;

fn failed(error: impl fmt::Display) -> (String, Difference) {
    (String::new(), Difference::Failed(error.to_string()))
}

type Outputs = BTreeMap<String, Tensor>;

fn timed(model: &Model, inputs: &Outputs) -> (Result<Outputs, (String, Difference)>, Duration) {
    let started = Instant::now();
    let outputs = model.run(inputs).map_err(failed);
    (outputs, started.elapsed())
}

/// Sums up what `each` finds on `count` samples; it gets the largest difference so far.
fn judge<'a>(
    model: &Model,
    count: usize,
    each: impl Fn(usize, &mut f64) -> (&'a str, Duration, Found),
) -> ProbeOutcome {
    let mut times = Vec::with_capacity(count);
    let (mut passed, mut largest, mut first) = (0, 0f64, None);
    for index in 0..count {
        let (sample, took, found) = each(index, &mut largest);
        times.push(took);
        match found {
            Ok(()) => passed += 1,
            Err((output, difference)) => {
                first.get_or_insert(Mismatch { sample: sample.to_owned(), output, difference });
            }
        }
    }
    let probe = report::Probe {
        samples: count as u32,
        passed,
        max_abs_error: largest.min(f64::from(f32::MAX)) as f32,
        load_us: micros(model.load_time()),
        inference_us: micros(median(times)),
    };
    ProbeOutcome { probe, mismatch: first }
}

fn compare_outputs(
    want: &BTreeMap<String, Tensor>,
    got: &BTreeMap<String, Tensor>,
    tolerance: Tolerance,
    largest: &mut f64,
) -> Result<(), (String, Difference)> {
    if want.is_empty() {
        return Err((String::new(), Difference::NothingRecorded));
    }
    // Every output is compared, so that the largest difference is known even after the first.
    let mut first = Ok(());
    for (name, want) in want {
        let found = match got.get(name) {
            Some(got) => compare(want, got, tolerance, largest),
            None => Err(Difference::NoSuchOutput),
        };
        first = first.and(found.map_err(|difference| (name.clone(), difference)));
    }
    first
}

/// Compares two tensors element by element; raises `largest` to the largest absolute difference seen.
pub(super) fn compare(want: &Tensor, got: &Tensor, tolerance: Tolerance, largest: &mut f64) -> Result<(), Difference> {
    if (want.dtype(), want.shape()) != (got.dtype(), got.shape()) {
        let form = |tensor: &Tensor| format!("{} {:?}", tensor.dtype(), tensor.shape());
        return Err(Difference::Form { want: form(want), got: form(got) });
    }
    let relative = match want.dtype() {
        Dtype::F16 | Dtype::F32 | Dtype::F64 => f64::from(tolerance.relative),
        _ => 0.0,
    };
    // 64-bit whole numbers that are one f64 and yet differ are off by 1 or more.
    let wide = matches!(want.dtype(), Dtype::I64 | Dtype::U64) && want.data() != got.data();
    let (want_bytes, got_bytes) = (want.data(), got.data());
    let beyond_f64 = |index: usize| {
        let place = index * 8..index * 8 + 8;
        if wide && want_bytes[place.clone()] != got_bytes[place] { 1.0 } else { 0.0 }
    };
    let mut first = Ok(());
    for (index, (want, got)) in want.to_f64().into_iter().zip(got.to_f64()).enumerate() {
        let error = if want == got || want.is_nan() && got.is_nan() { beyond_f64(index) } else { (got - want).abs() };
        // NaN against a number, and infinity against anything else, are as far off as can be.
        let error = if error.is_nan() { f64::INFINITY } else { error };
        *largest = largest.max(error);
        if error > f64::from(tolerance.absolute) + relative * want.abs() || error.is_infinite() {
            first = first.and(Err(Difference::Value { index, want, got }));
        }
    }
    first
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
