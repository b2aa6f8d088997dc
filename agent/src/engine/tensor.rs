//! Between the tensors of `muster_proto` and tract's.

use muster_proto::manifest::{Dtype, Tensor};
use tract_onnx::prelude::{DatumType, Tensor as TractTensor, TractResult};
use tract_onnx::tract_core::internal::{SymbolValues, TDim, format_err};

#[cfg(target_endian = "big")]
compile_error!("tensors travel little-endian and are copied to and from tract as they are");

/// tract's name for `dtype`.
pub(super) fn datum_of(dtype: Dtype) -> DatumType {
    match dtype {
        Dtype::Bool => DatumType::Bool,
        Dtype::U8 => DatumType::U8,
        Dtype::U16 => DatumType::U16,
        Dtype::U32 => DatumType::U32,
        Dtype::U64 => DatumType::U64,
        Dtype::I8 => DatumType::I8,
        Dtype::I16 => DatumType::I16,
        Dtype::I32 => DatumType::I32,
        Dtype::I64 => DatumType::I64,
        Dtype::F16 => DatumType::F16,
        Dtype::F32 => DatumType::F32,
        Dtype::F64 => DatumType::F64,
    }
}

/// Our name for `datum`. Sizes that tract computes from shapes (`TDim`) are whole numbers to us, and
/// quantised numbers are what they are stored as. None for text and the like.
pub(super) fn dtype_of(datum: DatumType) -> Option<Dtype> {
    Some(match datum {
        DatumType::Bool => Dtype::Bool,
        DatumType::U8 | DatumType::QU8(_) => Dtype::U8,
        DatumType::U16 => Dtype::U16,
        DatumType::U32 => Dtype::U32,
        DatumType::U64 => Dtype::U64,
        DatumType::I8 | DatumType::QI8(_) => Dtype::I8,
        DatumType::I16 => Dtype::I16,
        DatumType::I32 | DatumType::QI32(_) => Dtype::I32,
        DatumType::I64 | DatumType::TDim => Dtype::I64,
        DatumType::F16 => Dtype::F16,
        DatumType::F32 => Dtype::F32,
        DatumType::F64 => Dtype::F64,
        DatumType::String | DatumType::Blob => return None,
    })
}

/// A tract tensor of `shape` with a copy of the little-endian `data`, whose length has to fit.
pub(super) fn to_tract(dtype: Dtype, shape: &[usize], data: &[u8]) -> TractResult<TractTensor> {
    let mut tensor = TractTensor::zero_dt(datum_of(dtype), shape)?;
    let bytes = tensor.as_bytes_mut();
    if bytes.len() != data.len() {
        return Err(format_err!("{} bytes for a tensor of {} bytes", data.len(), bytes.len()));
    }
    if dtype == Dtype::Bool {
        // A bool of any other bit pattern is undefined behaviour in tract.
        bytes.iter_mut().zip(data).for_each(|(to, from)| *to = u8::from(*from != 0));
    } else {
        bytes.copy_from_slice(data);
    }
    Ok(tensor)
}

/// A copy of a tract tensor. A size that tract left as an expression, because it is an output by itself,
/// is computed from `symbols`.
pub(super) fn from_tract(tensor: &TractTensor, symbols: &SymbolValues) -> TractResult<Tensor> {
    let datum = tensor.datum_type();
    let dtype = dtype_of(datum).ok_or_else(|| format_err!("an output of type {datum:?} cannot be passed on"))?;
    let shape = tensor.shape().iter().map(|dim| *dim as u64).collect();
    let plain = tensor.try_as_plain_ram()?;
    let data = if datum == DatumType::TDim {
        let sizes = plain.as_slice::<TDim>()?.iter().map(|size| size.eval(symbols).to_i64());
        sizes.collect::<Result<Vec<i64>, _>>()?.into_iter().flat_map(i64::to_le_bytes).collect()
    } else {
        tensor.as_bytes().to_vec()
    };
    Ok(Tensor::new(dtype, shape, data)?)
}

#[cfg(test)]
mod tests {
    use tract_onnx::tract_core::internal::{SymbolScope, tensor1};

    use super::*;

    #[test]
    fn every_dtype_survives_the_way_to_tract_and_back() {
        for dtype in Dtype::ALL {
            let data: Vec<u8> = (0..6 * dtype.size()).map(|n| (n % 2) as u8).collect();
            let there = to_tract(*dtype, &[2, 3], &data).expect("fits");
            assert_eq!(dtype_of(there.datum_type()), Some(*dtype));
            let back = from_tract(&there, &SymbolValues::default()).expect("has a dtype");
            assert_eq!(back, Tensor::new(*dtype, vec![2, 3], data).expect("fits"));
        }
    }

    #[test]
    fn odd_booleans_become_true() {
        let odd = to_tract(Dtype::Bool, &[3], &[0, 2, 255]).expect("fits");
        let back = from_tract(&odd, &SymbolValues::default()).expect("bool");
        assert_eq!(back.data(), [0, 1, 1]);
    }

    #[test]
    fn sizes_become_whole_numbers_and_text_is_refused() {
        let scope = SymbolScope::default();
        let n = scope.sym("N");
        let sizes = tensor1(&[TDim::from(7), TDim::from(n.clone()) * 2 - 1]);
        let none = SymbolValues::default();
        assert!(from_tract(&sizes, &none).is_err());
        let read = from_tract(&sizes, &SymbolValues::default().with(&n, 3)).expect("sizes");
        assert_eq!((read.dtype(), read.to_f64()), (Dtype::I64, vec![7.0, 5.0]));
        assert!(from_tract(&tensor1(&["text".to_owned()]), &none).is_err());
        assert!(to_tract(Dtype::F32, &[2], &[0; 4]).is_err());
    }
}
