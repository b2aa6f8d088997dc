//! Registration's look at a model: what the file declares, and by which recipe the engine can load and
//! run it. The recipe goes into the manifest, so that a device does the same.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use muster_proto::code::Code;
use muster_proto::manifest::{Load, Measured, Tensor, Tolerance};
use muster_proto::report;
use tract_onnx::pb::ModelProto;

use super::guard::Fault;
use super::json::GivenSample;
use super::model::{self, Model, Node};
use super::onnx::{self, Declared};
use super::synthetic::synthetic_inputs;
use super::{batch, probe};

mod ladder;

pub use ladder::Batching;

/// What registration knows of a model.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The ONNX file, or a folder that holds exactly one.
    pub path: &'a Path,
    /// Shapes that the operator gave, by input name. They are obeyed, not tried.
    pub input_shapes: &'a BTreeMap<String, Vec<u64>>,
    /// The golden samples that the operator gave, if any.
    pub samples: &'a [GivenSample],
    /// How batches are to be run.
    pub batching: Batching,
}

/// A model that the engine has loaded and run.
#[derive(Debug)]
pub struct Imported {
    /// The file that was loaded.
    pub entry: PathBuf,
    /// How it was loaded.
    pub load: Load,
    /// The loaded model, whose inputs and outputs are what a caller may send and gets.
    pub model: Model,
    /// How often each operator occurs.
    pub operators: BTreeMap<String, u64>,
    /// How many parameters the model has.
    pub parameters: u64,
    /// Files beside the entry that hold weights, by their paths from its folder. They belong to the bundle.
    pub external_files: Vec<String>,
}

impl Imported {
    /// What the manifest says of the measurements; `probe` is that of the golden samples.
    pub fn measured(&self, probe: &report::Probe) -> Measured {
        Measured {
            operators: self.operators.clone(),
            parameters: self.parameters,
            memory_bytes: self.model.memory_bytes(),
            inference_us: probe.inference_us,
            load_us: probe.load_us,
        }
    }
}

/// Why a model cannot be registered. A retry with the same model and arguments cannot help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, is not ONNX, or the engine cannot run it.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A folder was given that does not hold exactly one ONNX file.
    #[error("{folder} holds {found} files that end in .onnx: name the one to load")]
    NoEntry {
        /// The folder.
        folder: PathBuf,
        /// How many ONNX files lie in it.
        found: usize,
    },
    /// A shape was given that the declaration does not allow.
    #[error("--input-shape {name}: {reason}")]
    ShapeInvalid {
        /// The input.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Sizes are left open by the file, and the engine needs them.
    #[error(
        "the engine cannot load {path} while sizes are open: {}. Give `--input-shape {hint}` with numbers, or golden samples",
        open.join(", ")
    )]
    Undetermined {
        /// The file.
        path: PathBuf,
        /// The inputs with their declared shapes.
        open: Vec<String>,
        /// The argument that would settle it, `?` for each open size.
        hint: String,
    },
    /// The model loads but fails on the golden sample, or on made-up inputs where there is none.
    #[error("{path} loads, but cannot be run on {on}: {reason}")]
    CannotRun {
        /// The file.
        path: PathBuf,
        /// What it was run on.
        on: String,
        /// What went wrong.
        reason: String,
    },
    /// A golden sample has other inputs than the model.
    #[error("sample {sample:?} does not fit the model: {source}")]
    SampleInvalid {
        /// The sample.
        sample: String,
        /// What does not fit.
        source: model::Error,
    },
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::Model(error) => error.code(),
            Error::NoEntry { .. } | Error::ShapeInvalid { .. } | Error::SampleInvalid { .. } => Code::BadRequest,
            Error::Undetermined { .. } | Error::CannotRun { .. } => Code::ModelUnsupported,
        }
    }
}

/// Finds the recipe by which the engine loads the model and runs it once.
///
/// The first rung of the ladder that does both is taken.
pub fn inspect(request: &Request) -> Result<Imported, Error> {
    let entry = entry_of(request.path)?;
    let proto = onnx::read(&entry)?;
    let onnx::Declaration { inputs, outputs, .. } = onnx::declaration(&proto);
    check_shapes(request.input_shapes, &inputs)?;
    // What a script is to make inputs of says nothing yet.
    let sample = request.samples.iter().find(|sample| !sample.inputs.is_empty());
    check_samples(request.samples, &inputs)?;

    let shapes = ladder::shapes(&inputs, &outputs, request.input_shapes, sample.map(|s| &s.inputs), request.batching);
    let (mut load_fault, mut run_error) = (None, None);
    for recipe in ladder::recipes(shapes, onnx::has_value_info(&proto)) {
        let model = match Model::build(&entry, &proto, &recipe) {
            Ok(model) => model,
            Err(fault) => {
                // No recipe helps where an operator is missing.
                if let Some(node) = onnx::unknown_operator(&proto) {
                    return Err(missing_operator(entry, node).into());
                }
                load_fault = Some(fault);
                continue;
            }
        };
        match trial(&entry, &proto, &recipe, &model, sample) {
            Ok(()) => {
                let (operators, parameters) = (onnx::operators(&proto), onnx::parameters(&proto));
                let external_files = onnx::external_files(&proto).into_iter().collect();
                return Ok(Imported { entry, load: recipe, model, operators, parameters, external_files });
            }
            Err(error) => run_error = Some(error),
        }
    }
    Err(failure(entry, &proto, &inputs, request, load_fault, run_error))
}

fn missing_operator(path: PathBuf, node: Node) -> model::Error {
    model::Error::Unsupported { path, node: Some(node), reason: "the engine has no such operator".into() }
}

/// The ONNX file that `path` is or holds.
fn entry_of(path: &Path) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let unreadable = |source| model::Error::Read { path: path.to_owned(), source };
    let mut found = Vec::new();
    for file in std::fs::read_dir(path).map_err(unreadable)? {
        let file = file.map_err(unreadable)?.path();
        if file.extension().is_some_and(|end| end.eq_ignore_ascii_case("onnx")) {
            found.push(file);
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([entry]) => Ok(entry),
        Err(found) => Err(Error::NoEntry { folder: path.to_owned(), found: found.len() }),
    }
}

fn check_shapes(given: &BTreeMap<String, Vec<u64>>, inputs: &[Declared]) -> Result<(), Error> {
    for (name, shape) in given {
        let invalid = |reason: String| Err(Error::ShapeInvalid { name: name.clone(), reason });
        let Some(input) = inputs.iter().find(|input| input.name == *name) else {
            let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
            return invalid(format!("the model has no such input, but {}", names.join(", ")));
        };
        let fits = |declared: &Vec<onnx::DeclaredDim>| {
            let same =
                |(declared, size): (&onnx::DeclaredDim, &u64)| declared.fixed().is_none_or(|fixed| fixed == *size);
            declared.len() == shape.len() && declared.iter().zip(shape).all(same)
        };
        if !input.shape.as_ref().is_none_or(fits) || shape.contains(&0) {
            return invalid(format!("{shape:?} does not fit the declared {}", dims(input)));
        }
    }
    Ok(())
}

fn check_samples(samples: &[GivenSample], inputs: &[Declared]) -> Result<(), Error> {
    for sample in samples.iter().filter(|sample| sample.request.is_none() || !sample.inputs.is_empty()) {
        let missing = inputs.iter().find(|input| !sample.inputs.contains_key(&input.name));
        let unknown = sample.inputs.keys().find(|name| !inputs.iter().any(|input| input.name == **name));
        let (name, wanted, got) = match (missing, unknown) {
            (Some(input), _) => (input.name.clone(), dims(input), "nothing"),
            (None, Some(name)) => (name.clone(), "an input of the model".to_owned(), "an unknown name"),
            (None, None) => continue,
        };
        let source = model::Error::InputInvalid { name, wanted, got: got.into() };
        return Err(Error::SampleInvalid { sample: sample.name.clone(), source });
    }
    Ok(())
}

/// Runs a model once, and where it is run item by item compares that with a plan for two items: rows
/// that depend on one another would come out wrong without any error.
fn trial(
    entry: &Path,
    proto: &ModelProto,
    recipe: &Load,
    model: &Model,
    sample: Option<&GivenSample>,
) -> Result<(), TrialError> {
    let inputs = match sample {
        Some(sample) => sample.inputs.clone(),
        None => synthetic_inputs(model.inputs(), 0).map_err(TrialError::Run)?,
    };
    model.run(&inputs).map_err(|error| match (error, sample) {
        (error @ model::Error::InputInvalid { .. }, Some(_)) => TrialError::Sample(error),
        (error, _) => TrialError::Run(error),
    })?;
    if !model.runs_item_by_item() {
        return Ok(());
    }
    let mut two = recipe.clone();
    two.input_shapes.values_mut().flat_map(|shape| shape.first_mut()).for_each(|items| *items = 2);
    // A plan for two that cannot be loaded or run tells nothing against running one by one.
    let Ok(together) = Model::build(entry, proto, &two) else { return Ok(()) };
    let Some(pair) = pair_of_items(model) else { return Ok(()) };
    let (Ok(want), Ok(got)) = (together.run(&pair), model.run(&pair)) else { return Ok(()) };
    for (name, want) in &want {
        if let Err(difference) = probe::compare(want, &got[name], Tolerance::default(), &mut 0.0) {
            return Err(TrialError::ItemsDepend(format!("output {name:?} of a batch: {difference:?}")));
        }
    }
    Ok(())
}

/// Two different made-up items as one batch.
fn pair_of_items(model: &Model) -> Option<BTreeMap<String, Tensor>> {
    let (a, b) = (synthetic_inputs(model.inputs(), 1).ok()?, synthetic_inputs(model.inputs(), 2).ok()?);
    a.into_iter().map(|(name, one)| Some((name.clone(), batch::join(&[one, b.get(&name)?.clone()]).ok()?))).collect()
}

/// Why a loaded model did not pass its trial.
enum TrialError {
    Sample(model::Error),
    Run(model::Error),
    ItemsDepend(String),
}

fn failure(
    path: PathBuf,
    proto: &ModelProto,
    inputs: &[Declared],
    request: &Request,
    load_fault: Option<Fault>,
    run_error: Option<TrialError>,
) -> Error {
    let on = match request.samples.first() {
        Some(sample) => format!("sample {:?}", sample.name),
        None => "made-up inputs (golden samples may help)".to_owned(),
    };
    match run_error {
        Some(TrialError::Sample(source)) => {
            let sample = request.samples.first().map(|sample| sample.name.clone()).unwrap_or_default();
            return Error::SampleInvalid { sample, source };
        }
        Some(TrialError::Run(error)) => return Error::CannotRun { path, on, reason: error.to_string() },
        Some(TrialError::ItemsDepend(reason)) => {
            let reason = format!(
                "the items of a batch depend on one another, and the engine cannot load it for any batch size ({reason})"
            );
            return Error::CannotRun { path, on, reason };
        }
        None => {}
    }
    let open: Vec<&Declared> = inputs
        .iter()
        .filter(|input| !request.input_shapes.contains_key(&input.name) && request.samples.is_empty())
        .filter(|input| ladder::leading_one(input).is_none())
        .collect();
    if !open.is_empty() {
        let hint = open.iter().map(|input| hint(input)).collect::<Vec<_>>().join(" --input-shape ");
        let open = open.iter().map(|input| format!("input {:?} is {}", input.name, dims(input))).collect();
        return Error::Undetermined { path, open, hint };
    }
    let fault = load_fault.unwrap_or_else(|| Fault::new("no way to load it was left to try"));
    model::Error::unsupported(&path, Some(proto), &fault).into()
}

fn dims(input: &Declared) -> String {
    match &input.shape {
        Some(shape) => format!("[{}]", shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        None => "of any shape".into(),
    }
}

/// The argument that would settle the input's shape, e.g. `image=1x3x?x?`.
fn hint(input: &Declared) -> String {
    let Some(shape) = &input.shape else { return format!("{}=?", input.name) };
    let size = |(axis, dim): (usize, &onnx::DeclaredDim)| match dim.fixed() {
        Some(size) => size.to_string(),
        None if axis == 0 => "1".to_owned(),
        None => "?".to_owned(),
    };
    format!("{}={}", input.name, shape.iter().enumerate().map(size).collect::<Vec<_>>().join("x"))
}

#[cfg(test)]
mod tests;
