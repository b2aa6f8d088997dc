//! The recipes that registration tries, in order.
//!
//! Measured on tract 0.23.9: 19 of 33 real models load with the shapes that they declare; most others run
//! once their inputs are concrete, and where that ends in "Impossible to unify Sym(batch) with Val(1)",
//! once inner and output shapes of the exporter are ignored. A plan for one item is also the faster
//! one (29 µs against 71 µs on the digits model, and 48 µs an item in batches of 8), so that a model whose
//! only open size is the batch is planned for one.

use std::collections::BTreeMap;

use muster_proto::manifest::{Load, Tensor};

use crate::engine::batch::declared_batch;
use crate::engine::onnx::{Declared, DeclaredDim};

/// Shapes by input name, as in a recipe.
type Shapes = BTreeMap<String, Vec<u64>>;

/// How batches of a model whose batch size is open are to be run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Batching {
    /// Item by item on a plan for one, where that gives the same results.
    #[default]
    ItemByItem,
    /// Together, on a plan that leaves the size open, where the engine can make one.
    Together,
}

/// The input shapes to try, in order: `given` ones always, and for the rest one item, as declared, those
/// of the sample, and 1 for an open leading dimension.
pub(super) fn shapes(
    inputs: &[Declared],
    outputs: &[Declared],
    given: &Shapes,
    sample: Option<&BTreeMap<String, Tensor>>,
    batching: Batching,
) -> Vec<Shapes> {
    let of_sample = |input: &Declared| sample.and_then(|s| s.get(&input.name)).map(|t| t.shape().to_vec());
    let one_item = with(given, inputs, |input| {
        let mut shape = leading_one(input).or_else(|| of_sample(input))?;
        *shape.first_mut()? = 1;
        Some(shape)
    });
    let one_item = one_item.filter(|_| declared_batch(inputs, outputs).is_some());
    let only_batch_open = inputs.iter().all(|input| leading_one(input).is_some());
    let sampled = with(given, inputs, of_sample);
    let ones = with(given, inputs, leading_one);

    let mut order = vec![Some(given.clone()), one_item.clone(), sampled, ones];
    if only_batch_open && batching == Batching::ItemByItem {
        order.insert(0, one_item);
    }
    let mut distinct: Vec<Shapes> = Vec::new();
    for shapes in order.into_iter().flatten() {
        if !distinct.contains(&shapes) {
            distinct.push(shapes);
        }
    }
    distinct
}

/// `given`, completed by `fill` for each input that has an open size; none where `fill` has none.
fn with(given: &Shapes, inputs: &[Declared], fill: impl Fn(&Declared) -> Option<Vec<u64>>) -> Option<Shapes> {
    let mut shapes = given.clone();
    for input in inputs.iter().filter(|input| is_open(input) && !given.contains_key(&input.name)) {
        shapes.insert(input.name.clone(), fill(input)?);
    }
    Some(shapes)
}

fn is_open(input: &Declared) -> bool {
    input.shape.as_ref().is_none_or(|shape| shape.iter().any(|dim| dim.fixed().is_none()))
}

/// The declared shape with 1 for an open leading dimension; none where another one is open.
pub(super) fn leading_one(input: &Declared) -> Option<Vec<u64>> {
    let size = |(axis, dim): (usize, &DeclaredDim)| dim.fixed().or((axis == 0).then_some(1));
    input.shape.as_ref()?.iter().enumerate().map(size).collect()
}

/// Each of `shapes` as declared, then without the exporter's inner shapes, then without its output
/// dtypes, and last without its output shapes, which is also without the dtypes: tract reads them from the
/// same declaration. The last recipe believes least, so that its failure says most.
pub(super) fn recipes(shapes: Vec<Shapes>, has_value_info: bool) -> impl Iterator<Item = Load> {
    shapes.into_iter().flat_map(move |input_shapes| {
        let strict = Load { input_shapes, ..Load::default() };
        let inner = Load { ignore_value_info: true, ..strict.clone() };
        let types = Load { ignore_value_info: has_value_info, ignore_output_types: true, ..strict.clone() };
        let outer = Load { ignore_value_info: has_value_info, ignore_output_shapes: true, ..strict.clone() };
        [Some(strict), has_value_info.then_some(inner), Some(types), Some(outer)].into_iter().flatten()
    })
}
