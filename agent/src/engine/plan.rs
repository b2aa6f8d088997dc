//! From an ONNX protobuf and a load recipe to tract's optimised plan, and what the plan says of its
//! inputs, outputs and memory.

use std::path::Path;
use std::sync::Arc;

use muster_proto::manifest::{Dim, Load};
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::{
    DatumType, InferenceFact, InferenceModel, InferenceModelExt, IntoRunnable, TractResult, TypedFact, TypedOp,
};
use tract_onnx::tract_core::internal::{SimplePlan, SymbolValues, TDim, format_err};
use tract_onnx::tract_core::ops::konst::Const;

use super::guard::{Fault, guard};

/// What a node takes beside its weights and values.
const NODE_BYTES: u64 = 12 << 10;

/// An optimised plan.
pub(super) type Plan = SimplePlan<TypedFact, Box<dyn TypedOp>>;

/// The shape and dtype of an input or output, as the plan has it.
pub(super) struct PlanFact {
    /// Its dtype in tract.
    pub(super) datum: DatumType,
    /// Its dimensions.
    pub(super) shape: Vec<Dim>,
}

/// Builds the plan of `proto`, whose external files lie in `folder`, as `recipe` says.
pub(super) fn build(proto: &ModelProto, folder: &Path, recipe: &Load) -> Result<Arc<Plan>, Fault> {
    guard(|| optimise(parse(proto, folder, recipe)?))
}

/// [`build`] for when the protobuf is of no more use: it is freed before tract makes its second copy.
pub(super) fn build_once(proto: ModelProto, folder: &Path, recipe: &Load) -> Result<Arc<Plan>, Fault> {
    guard(|| {
        let model = parse(&proto, folder, recipe)?;
        drop(proto);
        optimise(model)
    })
}

fn parse(proto: &ModelProto, folder: &Path, recipe: &Load) -> TractResult<InferenceModel> {
    let loader = tract_onnx::onnx()
        .with_ignore_value_info(recipe.ignore_value_info)
        .with_ignore_output_shapes(recipe.ignore_output_shapes)
        .with_ignore_output_types(recipe.ignore_output_types);
    let parsed = loader.parse(proto, folder.to_str())?;
    if let Some(name) = parsed.unresolved_inputs.first() {
        return Err(format_err!("no node, input or stored tensor gives {name:?}"));
    }
    let mut model = parsed.model;
    for index in 0..model.inputs.len() {
        let outlet = model.inputs[index];
        let Some(shape) = recipe.input_shapes.get(&model.node(outlet.node).name) else { continue };
        let shape: Vec<usize> = shape.iter().map(|dim| usize::try_from(*dim)).collect::<Result<_, _>>()?;
        let declared = model.input_fact(index)?.clone();
        let fact = InferenceFact { datum_type: declared.datum_type, ..InferenceFact::shape(shape) };
        model.set_input_fact(index, fact)?;
    }
    Ok(model)
}

fn optimise(model: InferenceModel) -> TractResult<Arc<Plan>> {
    model.into_optimized()?.into_runnable()
}

/// The inputs of `plan`, in the file's order.
pub(super) fn inputs(plan: &Plan) -> Result<Vec<PlanFact>, Fault> {
    guard(|| plan.model().inputs.iter().map(|outlet| Ok(fact(plan.model().outlet_fact(*outlet)?))).collect())
}

/// The outputs of `plan`, in the file's order.
pub(super) fn outputs(plan: &Plan) -> Result<Vec<PlanFact>, Fault> {
    guard(|| plan.model().outputs.iter().map(|outlet| Ok(fact(plan.model().outlet_fact(*outlet)?))).collect())
}

fn fact(fact: &TypedFact) -> PlanFact {
    let dim = |dim: &TDim| match dim.to_i64() {
        Ok(size) => Dim::Fixed(u64::try_from(size).unwrap_or(0)),
        Err(_) => Dim::Symbol(dim.to_string()),
    };
    PlanFact { datum: fact.datum_type, shape: fact.shape.iter().map(dim).collect() }
}

/// The sizes that inputs of `shapes` give to the plan's symbols.
pub(super) fn symbol_values(plan: &Plan, shapes: &[Vec<usize>]) -> TractResult<SymbolValues> {
    let mut values = SymbolValues::default();
    for (outlet, shape) in plan.model().inputs.iter().zip(shapes) {
        for (dim, size) in plan.model().outlet_fact(*outlet)?.shape.iter().zip(shape) {
            if let TDim::Sym(symbol) = dim {
                values.set(symbol, i64::try_from(*size)?);
            }
        }
    }
    Ok(values)
}

/// How much memory a loaded `plan` takes, whose file stores `stored` bytes of tensors: an estimate.
///
/// Weights that kernels have packed are hidden inside tract's operators, so they are taken from the file,
/// and twice, because what loading frees stays with the allocator; to that come the most that values
/// between nodes take at once, with every symbol at 1, and 12 KiB a node. Against the growth of anonymous
/// resident memory of eight real models (0.1 to 11 MB) that was off by -17 % to +27 %.
pub(super) fn memory_bytes(plan: &Plan, stored: u64) -> Result<u64, Fault> {
    guard(|| {
        let model = plan.model();
        let ones = model.symbols.all_symbols().iter().fold(SymbolValues::default(), |values, s| values.with(s, 1));
        let size = |bytes: &TDim| u64::try_from(bytes.eval(&ones).to_i64().unwrap_or(0)).unwrap_or(0);
        let between = model.eval_tmp_memory_usage(plan.order_without_consts(), |node| !node.op_is::<Const>())?;
        let peak = between.iter().map(|(_, bytes)| size(bytes)).max().unwrap_or(0);
        Ok(stored.saturating_mul(2).saturating_add(peak).saturating_add(NODE_BYTES * model.nodes.len() as u64))
    })
}
