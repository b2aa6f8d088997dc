//! The batch dimension: when a model that was planned for one item may be run item by item, and how
//! items are cut out and put together again.

use std::collections::BTreeMap;

use muster_proto::manifest::{Dim, Tensor, TensorSpec};

use super::guard::Fault;
use super::onnx::{Declared, DeclaredDim};

/// The name of a batch dimension to which the exporter gave none.
const UNNAMED: &str = "batch";

/// How a model takes its batch dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Batch {
    /// The model is run once, with the inputs as they are.
    Whole,
    /// The plan is for one item; more are run one after another. Holds the dimension's name.
    Items(String),
}

/// The name of the batch dimension, if the declarations have one: each input and each output begins
/// with a dimension of any size, which the inputs share.
///
/// Outputs may name theirs otherwise (several exporters number every dimension of an output anew), so
/// this is a candidate only: the plan has to give one item for one, and registration compares.
pub(super) fn declared_batch(inputs: &[Declared], outputs: &[Declared]) -> Option<String> {
    let first = |declared: &Declared| declared.shape.as_ref()?.first().cloned();
    let of_inputs: Vec<DeclaredDim> = inputs.iter().map(first).collect::<Option<_>>()?;
    let of_outputs: Vec<DeclaredDim> = outputs.iter().map(first).collect::<Option<_>>()?;
    let batch = of_inputs.first()?;
    let any_size = of_outputs.iter().all(|dim| dim.fixed().is_none());
    match batch {
        _ if !any_size || of_inputs.iter().any(|dim| dim != batch) => None,
        DeclaredDim::Named(name) => Some(name.clone()),
        DeclaredDim::Unnamed => Some(UNNAMED.to_owned()),
        DeclaredDim::Fixed(_) => None,
    }
}

/// Item `index` of `count` items: a shape with a leading 1, and its bytes.
pub(super) fn item(tensor: &Tensor, index: usize, count: usize) -> (Vec<usize>, &[u8]) {
    let mut shape: Vec<usize> = tensor.shape().iter().map(|dim| *dim as usize).collect();
    if let Some(first) = shape.first_mut() {
        *first = 1;
    }
    let size = tensor.data().len() / count.max(1);
    (shape, &tensor.data()[index * size..(index + 1) * size])
}

/// One tensor out of tensors that each begin with a 1, or why they do not fit together.
pub(super) fn join(items: &[Tensor]) -> Result<Tensor, String> {
    let first = items.first().ok_or("no items")?;
    if first.shape().first() != Some(&1) {
        return Err(format!("shape {:?} for one item has no batch dimension", first.shape()));
    }
    if let Some(other) = items.iter().find(|t| (t.dtype(), t.shape()) != (first.dtype(), first.shape())) {
        return Err(format!("shapes {:?} and {:?} for two items", first.shape(), other.shape()));
    }
    let mut shape = first.shape().to_vec();
    shape[0] = items.len() as u64;
    let data = items.iter().flat_map(|item| item.data()).copied().collect();
    Tensor::new(first.dtype(), shape, data).map_err(|error| error.to_string())
}

/// The output of no items: its leading dimension is 0, and so are symbols that are not in `sizes`.
pub(super) fn empty(spec: &TensorSpec, sizes: &BTreeMap<&str, u64>) -> Result<Tensor, Fault> {
    let dims = spec.shape.iter().enumerate().map(|(axis, dim)| match dim {
        _ if axis == 0 => 0,
        Dim::Fixed(size) => *size,
        Dim::Symbol(name) => sizes.get(name.as_str()).copied().unwrap_or(0),
    });
    Tensor::new(spec.dtype, dims.collect(), Vec::new()).map_err(|error| Fault::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(dims: &[DeclaredDim]) -> Declared {
        Declared { name: "t".into(), shape: Some(dims.to_vec()) }
    }

    fn named(name: &str) -> DeclaredDim {
        DeclaredDim::Named(name.into())
    }

    #[test]
    fn a_batch_is_what_all_inputs_share_and_all_outputs_begin_with() {
        use DeclaredDim::{Fixed, Unnamed};
        let table = [
            (vec![named("N")], vec![named("N")], Some("N")),
            (vec![named("N"), named("N")], vec![named("Concat_dim_0")], Some("N")),
            (vec![Unnamed], vec![Unnamed], Some("batch")),
            (vec![named("N"), named("M")], vec![named("N")], None),
            (vec![named("N"), Fixed(1)], vec![named("N")], None),
            (vec![named("N")], vec![Fixed(1)], None),
            (vec![Fixed(1)], vec![named("N")], None),
        ];
        for (inputs, outputs, want) in table {
            let specs =
                |dims: &[DeclaredDim]| dims.iter().map(|d| declared(&[d.clone(), Fixed(4)])).collect::<Vec<_>>();
            assert_eq!(declared_batch(&specs(&inputs), &specs(&outputs)).as_deref(), want, "{inputs:?} {outputs:?}");
        }
        assert_eq!(declared_batch(&[declared(&[])], &[declared(&[named("N")])]), None);
        assert_eq!(declared_batch(&[], &[declared(&[named("N")])]), None);
    }

    #[test]
    fn items_are_cut_and_joined() {
        let whole = Tensor::from_f32(vec![3, 2], &[1., 2., 3., 4., 5., 6.]).expect("fits");
        let items: Vec<Tensor> = (0..3)
            .map(|index| {
                let (shape, data) = item(&whole, index, 3);
                let shape = shape.iter().map(|d| *d as u64).collect();
                Tensor::new(whole.dtype(), shape, data.to_vec()).expect("fits")
            })
            .collect();
        assert_eq!(items[1].to_f64(), [3., 4.]);
        assert_eq!(join(&items).expect("join"), whole);
        let longer = Tensor::from_f32(vec![1, 3], &[0.; 3]).expect("fits");
        assert!(join(&[items[0].clone(), longer]).is_err());
        assert!(join(&[Tensor::from_f32(vec![], &[0.]).expect("fits")]).is_err());
    }
}
