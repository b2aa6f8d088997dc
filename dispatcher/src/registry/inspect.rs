//! What the devices' own engine says of a model: how it loads, what it takes, whether it gives what it should.
//! Blocks for as long as that takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use muster_agent::engine::import::{self, Batching, Imported};
use muster_agent::engine::json::{GivenSample, parse_samples};
use muster_agent::engine::script::{self, Scored, Script};
use muster_agent::engine::{self, Model, probe, synthetic_inputs, transforms};
use muster_proto::code::Code;
use muster_proto::id::FilePath;
use muster_proto::manifest::{
    self, Load, Measured, OutputsFrom, Sample, ScriptedSample, Tensor, TensorSpec, Tolerance, Transforms,
};
use muster_proto::wire;

use super::Error;
use crate::app::view::{RegistrationScript, SampleFile};

/// Runs this often to measure: the first run of a model is slower than the others.
const MEASURED_RUNS: usize = 5;

/// What is to be looked at.
pub struct Asked {
    /// The file to load.
    pub entry: PathBuf,
    /// The folder of all files.
    pub folder: PathBuf,
    /// All files.
    pub files: Vec<FilePath>,
    /// Shapes that the operator gave.
    pub input_shapes: BTreeMap<String, Vec<u64>>,
    /// Samples that the operator gave.
    pub samples: Option<SampleFile>,
    /// The declared steps before and after the model.
    pub transforms: Transforms,
    /// How far outputs may differ.
    pub tolerance: Tolerance,
    /// The scoring script.
    pub script: Option<RegistrationScript>,
}

/// What was found.
pub struct Found {
    /// The engine's name.
    pub engine: &'static str,
    /// The engine's version.
    pub engine_version: &'static str,
    /// How the model was loaded.
    pub load: Load,
    /// The same in words.
    pub load_notes: Vec<String>,
    /// Its inputs.
    pub inputs: Vec<TensorSpec>,
    /// Its outputs.
    pub outputs: Vec<TensorSpec>,
    /// The encoded golden samples.
    pub samples_bytes: Vec<u8>,
    /// How many there are.
    pub samples: u32,
    /// Where their outputs come from.
    pub outputs_from: OutputsFrom,
    /// The largest difference between a given output and the engine's.
    pub max_abs_error: Option<f32>,
    /// What was measured.
    pub measured: Measured,
    /// The scoring script, with the hooks that it exports.
    pub script: Option<manifest::Script>,
    /// What a person should read.
    pub warnings: Vec<String>,
}

/// Loads and runs the model, and compares what it gives with what it should.
pub fn inspect(asked: &Asked) -> Result<Found, Error> {
    let given = given_samples(asked)?;
    let request = import::Request {
        path: &asked.entry,
        input_shapes: &asked.input_shapes,
        samples: &given,
        batching: Batching::default(),
    };
    let imported = import::inspect(&request)
        .map_err(|error| Error::Refused { code: error.code(), message: plain(&asked.folder, &error.to_string()) })?;
    check_external(&imported, asked)?;
    let model = &imported.model;
    transforms::check(&asked.transforms, model.inputs(), model.outputs()).map_err(Error::Request)?;

    let refused =
        |error: script::Error| Error::Refused { code: error.code(), message: plain(&asked.folder, &error.to_string()) };
    let open = |asked_script: &RegistrationScript| Script::open(&asked.folder, &asked_script.file, asked_script.limits);
    let script = asked.script.as_ref().map(open).transpose().map_err(refused)?;
    let scored = Scored { model, script: script.as_ref(), transforms: &asked.transforms };
    let given = script::with_inputs(&scored, given).map_err(refused)?;

    let mut warnings = Vec::new();
    let golden = golden(asked, model, &given, &mut warnings)?;
    let count = golden.samples.len() as u32;
    let set = script::record(&scored, &given, golden.samples).map_err(refused)?;
    let samples_bytes = wire::encode(&set).map_err(|error| Error::Refused {
        code: error.code(),
        message: format!("the samples are too large: {error}"),
    })?;
    // Now against what is stored, as a device does it, for the measurement.
    let outcome = probe::run_scored(&scored, &repeated(&set.into_samples()), asked.tolerance);
    if let Some(mismatch) = outcome.mismatch {
        let message = match script {
            Some(_) => mismatch.to_string(),
            None => format!("{mismatch}: the model does not give the same answer twice, so no device could prove it"),
        };
        return Err(Error::Refused { code: Code::ProbeMismatch, message });
    }
    let script = asked.script.as_ref().zip(script).map(|(asked, script)| manifest::Script {
        file: asked.file.clone(),
        hooks: script.hooks().to_vec(),
        limits: asked.limits,
    });
    Ok(Found {
        engine: engine::NAME,
        engine_version: engine::VERSION,
        load: imported.load.clone(),
        load_notes: notes(&imported.load, &asked.input_shapes),
        inputs: model.inputs().to_vec(),
        outputs: model.outputs().to_vec(),
        samples_bytes,
        samples: count,
        outputs_from: golden.outputs_from,
        max_abs_error: golden.max_abs_error,
        measured: imported.measured(&outcome.probe),
        script,
        warnings,
    })
}

struct Golden {
    samples: Vec<Sample>,
    outputs_from: OutputsFrom,
    max_abs_error: Option<f32>,
}

/// The outputs that a sample was given with.
fn proved(sample: &GivenSample) -> Option<&BTreeMap<String, Tensor>> {
    sample.outputs.as_ref().filter(|outputs| !outputs.is_empty())
}

fn given_samples(asked: &Asked) -> Result<Vec<GivenSample>, Error> {
    let Some(file) = &asked.samples else { return Ok(Vec::new()) };
    let text = serde_json::to_vec(file).expect("samples are plain data");
    parse_samples(&text).map_err(|error| Error::Refused { code: error.code(), message: format!("samples: {error}") })
}

/// The samples with the outputs that devices have to give: those that were given, and the engine's for the rest.
fn golden(asked: &Asked, model: &Model, given: &[GivenSample], warnings: &mut Vec<String>) -> Result<Golden, Error> {
    let failed = |name: &str, error: &engine::model::Error| Error::Refused {
        code: error.code(),
        message: plain(&asked.folder, &format!("sample {name:?}: {error}")),
    };
    if given.is_empty() {
        warnings.push(
            "NO SAMPLES were given. A made-up input proves only that devices compute what this machine computed, not \
             that it is right: engines can load a model and be wrong. Register with samples that hold the outputs from \
             where the model was trained."
                .into(),
        );
        let name = "synthetic";
        let inputs = synthetic_inputs(model.inputs(), 0).map_err(|error| failed(name, &error))?;
        let outputs = model.run(&inputs).map_err(|error| failed(name, &error))?;
        warn_of_nonfinite(name, &outputs, warnings);
        let samples = vec![Sample { name: name.into(), inputs, outputs }];
        return Ok(Golden { samples, outputs_from: OutputsFrom::Engine, max_abs_error: None });
    }
    let with_outputs: Vec<Sample> = given
        .iter()
        .filter_map(|sample| {
            let outputs = proved(sample)?.clone();
            Some(Sample { name: sample.name.clone(), inputs: sample.inputs.clone(), outputs })
        })
        .collect();
    let mut max_abs_error = None;
    if !with_outputs.is_empty() {
        let outcome = probe::run(model, &with_outputs, asked.tolerance);
        if let Some(mismatch) = outcome.mismatch {
            let message = format!(
                "{mismatch}. The engine that runs on devices gives another answer than where the model was trained \
                 (tolerance: {} absolute, {} relative). Look at the operators involved, or give a wider tolerance if \
                 such a difference does not matter.",
                asked.tolerance.absolute, asked.tolerance.relative
            );
            return Err(Error::Refused { code: Code::ProbeMismatch, message });
        }
        max_abs_error = Some(outcome.probe.max_abs_error);
    }
    let mut samples = Vec::with_capacity(given.len());
    for sample in given {
        let mut outputs = model.run(&sample.inputs).map_err(|error| failed(&sample.name, &error))?;
        warn_of_nonfinite(&sample.name, &outputs, warnings);
        outputs.extend(proved(sample).cloned().unwrap_or_default());
        samples.push(Sample { name: sample.name.clone(), inputs: sample.inputs.clone(), outputs });
    }
    let bare: Vec<&str> = given.iter().filter(|s| proved(s).is_none()).map(|s| s.name.as_str()).collect();
    let outputs_from = if bare.is_empty() { OutputsFrom::Given } else { OutputsFrom::Engine };
    if !bare.is_empty() {
        warnings.push(format!(
            "NO EXPECTED OUTPUTS were given for {}. What devices prove with these samples is only that they compute what \
             this machine computed, not that it is right: engines can load a model and be wrong. Add the outputs from \
             where the model was trained.",
            bare.join(", ")
        ));
    }
    let silent: Vec<&str> = model
        .outputs()
        .iter()
        .map(|spec| spec.name.as_str())
        .filter(|name| with_outputs.iter().any(|s| !s.outputs.contains_key(*name)))
        .collect();
    if bare.is_empty() && !silent.is_empty() {
        warnings.push(format!(
            "The samples do not say what the output {} should be: there, devices are compared with this machine only.",
            silent.join(", ")
        ));
    }
    Ok(Golden { samples, outputs_from, max_abs_error })
}

fn warn_of_nonfinite(sample: &str, outputs: &BTreeMap<String, Tensor>, warnings: &mut Vec<String>) {
    for (name, tensor) in outputs {
        if tensor.to_f64().iter().any(|value| !value.is_finite()) {
            warnings.push(format!("Sample {sample:?}: the output {name:?} holds NaN or infinity."));
        }
    }
}

/// Enough runs for a median that is worth something.
fn repeated(samples: &[ScriptedSample]) -> Vec<ScriptedSample> {
    let times = MEASURED_RUNS.div_ceil(samples.len().max(1));
    std::iter::repeat_n(samples, times).flatten().cloned().collect()
}

/// Weights that the model reads from other files have to be in the bundle, or no device could load it.
fn check_external(imported: &Imported, asked: &Asked) -> Result<(), Error> {
    let base = asked.entry.parent().unwrap_or(&asked.folder);
    for external in &imported.external_files {
        let path = base.join(external);
        let inside = path.strip_prefix(&asked.folder).ok().and_then(Path::to_str);
        if !inside.is_some_and(|inside| asked.files.iter().any(|file| file.as_str() == inside)) {
            let message = format!("the model reads its weights from {external}, which is not among the files: add it");
            return Err(Error::Refused { code: Code::ModelInvalid, message });
        }
    }
    Ok(())
}

fn notes(load: &Load, given: &BTreeMap<String, Vec<u64>>) -> Vec<String> {
    let mut notes = Vec::new();
    for (name, shape) in &load.input_shapes {
        let whose = if given.contains_key(name) { "as given" } else { "chosen here, because the file leaves it open" };
        notes.push(format!("input {name} is loaded with shape {shape:?}, {whose}"));
    }
    for (set, what) in [
        (load.ignore_value_info, "the exporter's shapes of inner values are ignored"),
        (load.ignore_output_shapes, "the declared output shapes are ignored"),
        (load.ignore_output_types, "the declared output types are ignored"),
    ] {
        if set {
            notes.push(format!("{what}, because the engine contradicts them"));
        }
    }
    notes
}

/// A message without the working folder, which means nothing to whoever reads it.
fn plain(folder: &Path, message: &str) -> String {
    let folder = format!("{}/", folder.display());
    message.replace(&folder, "")
}
