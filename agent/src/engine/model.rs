//! A loaded model: one optimised plan that all threads share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_proto::code::Code;
use muster_proto::manifest::{Dim, Dtype, Load, Tensor, TensorSpec};
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{IntoTValue, TVec};

use super::batch::{self, Batch};
use super::guard::{Fault, guard};
use super::onnx;
use super::plan::{self, Plan};
use super::tensor;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read. A retry may help.
    #[error("{path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not ONNX, or not whole. A retry cannot help.
    #[error("{path} is not an ONNX model: {reason}")]
    NotOnnx {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine cannot run the model as it is. A retry cannot help.
    #[error("the engine cannot run {path}{}: {reason}", at(node))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The node at which it failed, where the engine said.
        node: Option<Node>,
        /// What the engine said.
        reason: String,
    },
    /// An input is missing, unknown, or of another dtype or shape. A retry with the same cannot help.
    #[error("input {name:?}: wanted {wanted}, got {got}")]
    InputInvalid {
        /// The input.
        name: String,
        /// What the model takes.
        wanted: String,
        /// What came.
        got: String,
    },
    /// The model failed on inputs that fit its declaration. A retry with the same cannot help.
    #[error("inference failed{}: {reason}", at(node))]
    Failed {
        /// The node at which it failed, where the engine said.
        node: Option<Node>,
        /// What the engine said.
        reason: String,
    },
}

/// A node of a model, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name in the file.
    pub name: String,
    /// Its operator, empty where the engine did not say.
    pub operator: String,
}

fn at(node: &Option<Node>) -> String {
    match node {
        Some(Node { name, operator }) if operator.is_empty() => format!(" at node {name:?}"),
        Some(Node { name, operator }) => format!(" at node {name:?} ({operator})"),
        None => String::new(),
    }
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::Read { .. } => Code::StoreFailed,
            Error::NotOnnx { .. } => Code::ModelInvalid,
            Error::Unsupported { .. } => Code::ModelUnsupported,
            Error::InputInvalid { .. } => Code::InputInvalid,
            Error::Failed { .. } => Code::InferenceFailed,
        }
    }

    /// What `fault` means for the model of `proto` at `path`.
    pub(super) fn unsupported(path: &Path, proto: Option<&ModelProto>, fault: &Fault) -> Self {
        let in_file = |name: &str| proto.and_then(|proto| onnx::find_node(proto, name));
        let unknown = |name: &str| Node { name: name.to_owned(), operator: String::new() };
        let node = fault.node().map(|name| in_file(name).unwrap_or_else(|| unknown(name)));
        Error::Unsupported { path: path.to_owned(), node, reason: fault.reason().to_owned() }
    }

    fn failed(fault: &Fault) -> Self {
        let node = fault.node().map(|name| Node { name: name.to_owned(), operator: String::new() });
        Error::Failed { node, reason: fault.reason().to_owned() }
    }
}

/// A loaded model.
///
/// Threads share it: each run has a state of its own, made for it and dropped after it on the same
/// thread. States are not kept, for two reasons seen in tract 0.23.9: the state of a recurrent layer
/// would carry over into the next request, and kernels keep scratch space per state *and thread*, which
/// only a drop on that thread frees. Making a state costs nothing that could be measured, because a
/// thread's scratch space itself is used again.
#[derive(Debug)]
pub struct Model {
    plan: Arc<Plan>,
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    batch: Batch,
    memory_bytes: u64,
    load_time: Duration,
}

impl Model {
    /// Loads and optimises the ONNX file at `entry` as `recipe` says; external data lies beside it.
    pub fn load(entry: &Path, recipe: &Load) -> Result<Self, Error> {
        let started = Instant::now();
        let proto = onnx::read(entry)?;
        let declared = onnx::declaration(&proto);
        let plan = plan::build_once(proto, folder_of(entry), recipe)
            // The protobuf is gone by then, so it is read once more for the failing node's operator.
            .map_err(|fault| Error::unsupported(entry, onnx::read(entry).ok().as_ref(), &fault))?;
        Self::new(plan, &declared, recipe, started.elapsed()).map_err(|fault| Error::unsupported(entry, None, &fault))
    }

    /// [`Model::load`] of a file that is read already and used again.
    pub(super) fn build(entry: &Path, proto: &ModelProto, recipe: &Load) -> Result<Self, Fault> {
        let started = Instant::now();
        let plan = plan::build(proto, folder_of(entry), recipe)?;
        Self::new(plan, &onnx::declaration(proto), recipe, started.elapsed())
    }

    fn new(plan: Arc<Plan>, declared: &onnx::Declaration, recipe: &Load, load_time: Duration) -> Result<Self, Fault> {
        let specs = |facts: Vec<plan::PlanFact>, declared: &[onnx::Declared]| {
            let named = declared.iter().zip(facts);
            named.map(|(declared, fact)| spec(&declared.name, fact)).collect::<Result<Vec<_>, Fault>>()
        };
        let mut inputs = specs(plan::inputs(&plan)?, &declared.inputs)?;
        let mut outputs = specs(plan::outputs(&plan)?, &declared.outputs)?;
        if inputs.len() != declared.inputs.len() || outputs.len() != declared.outputs.len() {
            return Err(Fault::new("the plan has other inputs or outputs than the file"));
        }
        let one = |spec: &TensorSpec| spec.shape.first() == Some(&Dim::Fixed(1));
        let planned_for_one = inputs.iter().all(|spec| recipe.input_shapes.contains_key(&spec.name) && one(spec));
        let batch = match batch::declared_batch(&declared.inputs, &declared.outputs) {
            Some(name) if planned_for_one && outputs.iter().all(one) => Batch::Items(name),
            _ => Batch::Whole,
        };
        if let Batch::Items(name) = &batch {
            for spec in inputs.iter_mut().chain(&mut outputs) {
                spec.shape[0] = Dim::Symbol(name.clone());
            }
        }
        let memory_bytes = plan::memory_bytes(&plan, declared.stored_bytes)?;
        Ok(Self { plan, inputs, outputs, batch, memory_bytes, load_time })
    }

    /// The inputs in the file's order, as they are accepted: a symbol stands where any size is.
    pub fn inputs(&self) -> &[TensorSpec] {
        &self.inputs
    }

    /// The outputs in the file's order.
    pub fn outputs(&self) -> &[TensorSpec] {
        &self.outputs
    }

    /// How much memory the loaded model takes, estimated from its plan, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// How long loading and optimising took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// The dimension that all inputs and outputs begin with, where it may have any size.
    pub fn batch_dimension(&self) -> Option<&str> {
        match self.inputs.first().map(|spec| spec.shape.as_slice()) {
            Some([Dim::Symbol(name), ..]) if self.all_begin_with(name) => Some(name),
            _ => None,
        }
    }

    /// Whether items of a batch are run one after another.
    pub(super) fn runs_item_by_item(&self) -> bool {
        matches!(self.batch, Batch::Items(_))
    }

    /// Computes all outputs, by name.
    ///
    /// Where the plan is for a batch of one, and each input and output begins with the batch dimension,
    /// a batch of any size is run item by item; a batch of none gives empty outputs without a run.
    /// A panic of the engine is an error of this run alone.
    pub fn run(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, Error> {
        let sizes = self.check(inputs)?;
        let items = self.inputs.first().and_then(|spec| match spec.shape.first() {
            Some(Dim::Symbol(name)) => sizes.get(name.as_str()).copied(),
            _ => None,
        });
        let outputs = match (&self.batch, items) {
            (_, Some(0)) => self.outputs.iter().map(|spec| batch::empty(spec, &sizes)).collect(),
            (Batch::Items(_), Some(count)) if count > 1 => self.run_items(inputs, count as usize),
            _ => self.run_whole(inputs),
        };
        let outputs = outputs.map_err(|fault| Error::failed(&fault))?;
        Ok(self.outputs.iter().map(|spec| spec.name.clone()).zip(outputs).collect())
    }

    fn run_whole(&self, inputs: &BTreeMap<String, Tensor>) -> Result<Vec<Tensor>, Fault> {
        self.run_one(self.inputs.iter().map(|spec| {
            let tensor = &inputs[&spec.name];
            (spec.dtype, tensor.shape().iter().map(|dim| *dim as usize).collect(), tensor.data())
        }))
    }

    fn run_items(&self, inputs: &BTreeMap<String, Tensor>, count: usize) -> Result<Vec<Tensor>, Fault> {
        let mut columns: Vec<Vec<Tensor>> = vec![Vec::with_capacity(count); self.outputs.len()];
        for index in 0..count {
            let outputs = self.run_one(self.inputs.iter().map(|spec| {
                let (shape, data) = batch::item(&inputs[&spec.name], index, count);
                (spec.dtype, shape, data)
            }))?;
            columns.iter_mut().zip(outputs).for_each(|(column, output)| column.push(output));
        }
        let joined = columns.iter().zip(&self.outputs);
        joined.map(|(c, spec)| batch::join(c).map_err(|e| Fault::new(format!("output {:?}: {e}", spec.name)))).collect()
    }

    fn run_one<'a>(&self, inputs: impl Iterator<Item = (Dtype, Vec<usize>, &'a [u8])>) -> Result<Vec<Tensor>, Fault> {
        guard(|| {
            let (mut values, mut shapes) = (TVec::new(), Vec::new());
            for (dtype, shape, data) in inputs {
                values.push(tensor::to_tract(dtype, &shape, data)?.into_tvalue());
                shapes.push(shape);
            }
            let outputs = self.plan.spawn()?.run(values)?;
            let symbols = plan::symbol_values(&self.plan, &shapes)?;
            outputs.iter().map(|value| tensor::from_tract(value, &symbols)).collect()
        })
    }

    /// Checks names, dtypes and shapes; gives the sizes of the symbols.
    pub fn check(&self, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<&str, u64>, Error> {
        let known: BTreeSet<&str> = self.inputs.iter().map(|spec| spec.name.as_str()).collect();
        if let Some(name) = inputs.keys().find(|name| !known.contains(name.as_str())) {
            let wanted = format!("one of {}", known.into_iter().collect::<Vec<_>>().join(", "));
            return Err(Error::InputInvalid { name: name.clone(), wanted, got: "an unknown name".into() });
        }
        let batch = self.batch_dimension();
        let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
        for spec in &self.inputs {
            check_one(spec, inputs.get(&spec.name), batch, &mut sizes)?;
        }
        Ok(sizes)
    }

    fn all_begin_with(&self, symbol: &str) -> bool {
        let begins = |spec: &TensorSpec| matches!(spec.shape.first(), Some(Dim::Symbol(name)) if name == symbol);
        self.inputs.iter().chain(&self.outputs).all(begins)
    }
}

fn check_one<'a>(
    spec: &'a TensorSpec,
    tensor: Option<&Tensor>,
    batch: Option<&str>,
    sizes: &mut BTreeMap<&'a str, u64>,
) -> Result<(), Error> {
    let invalid = |wanted: String, got: String| Err(Error::InputInvalid { name: spec.name.clone(), wanted, got });
    let wanted = describe(spec);
    let Some(tensor) = tensor else { return invalid(wanted, "nothing".into()) };
    let got = format!("{} {:?}", tensor.dtype(), tensor.shape());
    if tensor.dtype() != spec.dtype || tensor.shape().len() != spec.shape.len() {
        return invalid(wanted, got);
    }
    for (want, size) in spec.shape.iter().zip(tensor.shape()) {
        match want {
            Dim::Fixed(fixed) if fixed != size => return invalid(wanted, got),
            Dim::Fixed(_) => {}
            // The other dimensions of a tensor without elements may be anything, up to sizes that no
            // memory holds; only an empty batch has a meaning.
            Dim::Symbol(name) if *size == 0 && batch != Some(name) => {
                return invalid(format!("{wanted} with {name} of 1 or more"), got);
            }
            Dim::Symbol(name) => match sizes.insert(name, *size) {
                Some(before) if before != *size => {
                    return invalid(format!("{wanted} with {name} = {before} as in another input"), got);
                }
                _ => {}
            },
        }
    }
    let no_items = batch.is_some_and(|name| sizes.get(name) == Some(&0));
    if tensor.is_empty() && !no_items && !spec.shape.contains(&Dim::Fixed(0)) {
        return invalid(wanted, got);
    }
    Ok(())
}

/// A spec for messages, e.g. `f32 [N,1,8,8]`.
pub(super) fn describe(spec: &TensorSpec) -> String {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Symbol(name) => name.clone(),
    };
    format!("{} [{}]", spec.dtype, spec.shape.iter().map(dim).collect::<Vec<_>>().join(", "))
}

fn spec(name: &str, fact: plan::PlanFact) -> Result<TensorSpec, Fault> {
    let dtype = tensor::dtype_of(fact.datum)
        .ok_or_else(|| Fault::new(format!("{name:?} is of type {:?}, which cannot be passed on", fact.datum)))?;
    Ok(TensorSpec { name: name.to_owned(), dtype, shape: fact.shape })
}

fn folder_of(entry: &Path) -> &Path {
    entry.parent().unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests;
