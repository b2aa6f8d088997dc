//! Elements in the protocol's typed lists, to a tensor's bytes and back. Narrow numbers lie in wider lists, so
//! each is checked.

use muster_proto::manifest::{Dtype, Tensor};

use super::proto::InferTensorContents;

/// Reads `elements` elements of `dtype`. The error says what is wrong as a sentence that goes on after the
/// tensor's name.
pub fn read(contents: &InferTensorContents, dtype: Dtype, elements: u64) -> Result<Vec<u8>, String> {
    let Some(wanted) = list_of(dtype) else {
        return Err(format!("has no typed form for {}: send raw_input_contents", dtype.oip_name()));
    };
    if let Some((other, _)) = lists(contents).into_iter().find(|(name, length)| *length > 0 && *name != wanted) {
        return Err(format!("has {other}, datatype {} belongs in {wanted}", dtype.oip_name()));
    }
    let got = lists(contents).iter().map(|(_, length)| *length as u64).sum::<u64>();
    if got != elements {
        return Err(format!("has {got} elements in {wanted}, its shape needs {elements}"));
    }
    match dtype {
        Dtype::Bool => Ok(contents.bool_contents.iter().map(|value| u8::from(*value)).collect()),
        Dtype::I8 => narrow(&contents.int_contents, dtype, |v| i8::try_from(v).map(i8::to_le_bytes).ok()),
        Dtype::I16 => narrow(&contents.int_contents, dtype, |v| i16::try_from(v).map(i16::to_le_bytes).ok()),
        Dtype::I32 => narrow(&contents.int_contents, dtype, |v: i32| Some(v.to_le_bytes())),
        Dtype::I64 => narrow(&contents.int64_contents, dtype, |v: i64| Some(v.to_le_bytes())),
        Dtype::U8 => narrow(&contents.uint_contents, dtype, |v| u8::try_from(v).map(u8::to_le_bytes).ok()),
        Dtype::U16 => narrow(&contents.uint_contents, dtype, |v| u16::try_from(v).map(u16::to_le_bytes).ok()),
        Dtype::U32 => narrow(&contents.uint_contents, dtype, |v: u32| Some(v.to_le_bytes())),
        Dtype::U64 => narrow(&contents.uint64_contents, dtype, |v: u64| Some(v.to_le_bytes())),
        Dtype::F32 => narrow(&contents.fp32_contents, dtype, |v: f32| Some(v.to_le_bytes())),
        Dtype::F64 => narrow(&contents.fp64_contents, dtype, |v: f64| Some(v.to_le_bytes())),
        Dtype::F16 => Err("has no typed form".into()),
    }
}

fn narrow<T: Copy + std::fmt::Display, const N: usize>(
    values: &[T],
    dtype: Dtype,
    bytes: impl Fn(T) -> Option<[u8; N]>,
) -> Result<Vec<u8>, String> {
    let mut data = Vec::with_capacity(values.len() * N);
    for (index, value) in values.iter().enumerate() {
        let fits = bytes(*value).ok_or_else(|| format!("has {value} at {index}, which is no {}", dtype.oip_name()))?;
        data.extend_from_slice(&fits);
    }
    Ok(data)
}

/// The elements of `tensor`; none for FP16, which has no list.
pub fn write(tensor: &Tensor) -> Option<InferTensorContents> {
    let data = tensor.data();
    let mut contents = InferTensorContents::default();
    match tensor.dtype() {
        Dtype::Bool => contents.bool_contents = data.iter().map(|byte| *byte != 0).collect(),
        Dtype::I8 => contents.int_contents = each(data, |b| i8::from_le_bytes(b).into()),
        Dtype::I16 => contents.int_contents = each(data, |b| i16::from_le_bytes(b).into()),
        Dtype::I32 => contents.int_contents = each(data, i32::from_le_bytes),
        Dtype::I64 => contents.int64_contents = each(data, i64::from_le_bytes),
        Dtype::U8 => contents.uint_contents = each(data, |b| u8::from_le_bytes(b).into()),
        Dtype::U16 => contents.uint_contents = each(data, |b| u16::from_le_bytes(b).into()),
        Dtype::U32 => contents.uint_contents = each(data, u32::from_le_bytes),
        Dtype::U64 => contents.uint64_contents = each(data, u64::from_le_bytes),
        Dtype::F32 => contents.fp32_contents = each(data, f32::from_le_bytes),
        Dtype::F64 => contents.fp64_contents = each(data, f64::from_le_bytes),
        Dtype::F16 => return None,
    }
    Some(contents)
}

fn each<T, const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.chunks_exact(N).filter_map(|bytes| bytes.try_into().ok()).map(value).collect()
}

/// The list that `dtype` belongs in.
fn list_of(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::Bool => "bool_contents",
        Dtype::I8 | Dtype::I16 | Dtype::I32 => "int_contents",
        Dtype::I64 => "int64_contents",
        Dtype::U8 | Dtype::U16 | Dtype::U32 => "uint_contents",
        Dtype::U64 => "uint64_contents",
        Dtype::F32 => "fp32_contents",
        Dtype::F64 => "fp64_contents",
        Dtype::F16 => return None,
    })
}

fn lists(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(values: &[i32]) -> InferTensorContents {
        InferTensorContents { int_contents: values.to_vec(), ..Default::default() }
    }

    fn uints(values: &[u32]) -> InferTensorContents {
        InferTensorContents { uint_contents: values.to_vec(), ..Default::default() }
    }

    #[test]
    fn every_dtype_comes_back_as_it_went() {
        let none = InferTensorContents::default;
        let table = [
            (Dtype::Bool, InferTensorContents { bool_contents: vec![true, false], ..none() }),
            (Dtype::I8, ints(&[-128, 127])),
            (Dtype::I16, ints(&[-32768, 32767])),
            (Dtype::I32, ints(&[i32::MIN, i32::MAX])),
            (Dtype::I64, InferTensorContents { int64_contents: vec![i64::MIN, i64::MAX], ..none() }),
            (Dtype::U8, uints(&[0, 255])),
            (Dtype::U16, uints(&[0, 65535])),
            (Dtype::U32, uints(&[0, u32::MAX])),
            (Dtype::U64, InferTensorContents { uint64_contents: vec![0, u64::MAX], ..none() }),
            (Dtype::F32, InferTensorContents { fp32_contents: vec![-0.0, f32::INFINITY], ..none() }),
            (Dtype::F64, InferTensorContents { fp64_contents: vec![1e300, f64::MIN_POSITIVE], ..none() }),
        ];
        for (dtype, contents) in table {
            let data = read(&contents, dtype, 2).expect("fits");
            let tensor = Tensor::new(dtype, vec![2], data).expect("a tensor");
            assert_eq!(write(&tensor).expect("a list"), contents, "{dtype}");
        }
        let half = Tensor::new(Dtype::F16, vec![1], vec![0, 0x3c]).expect("a tensor");
        assert!(write(&half).is_none());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let both = InferTensorContents { int_contents: vec![1], fp32_contents: vec![1.0], ..Default::default() };
        let table = [
            (ints(&[128]), Dtype::I8, 1, "has 128 at 0, which is no INT8"),
            (ints(&[0, 32768]), Dtype::I16, 2, "has 32768 at 1"),
            (uints(&[256]), Dtype::U8, 1, "has 256 at 0, which is no UINT8"),
            (uints(&[65536]), Dtype::U16, 1, "which is no UINT16"),
            (uints(&[1]), Dtype::I32, 1, "has uint_contents, datatype INT32 belongs in int_contents"),
            (both, Dtype::I32, 1, "has fp32_contents"),
            (ints(&[1, 2]), Dtype::I32, 3, "has 2 elements in int_contents, its shape needs 3"),
            (InferTensorContents::default(), Dtype::F32, 1, "has 0 elements"),
            (uints(&[1]), Dtype::F16, 1, "send raw_input_contents"),
        ];
        for (contents, dtype, elements, words) in table {
            let said = read(&contents, dtype, elements).expect_err(words);
            assert!(said.contains(words), "{said}");
        }
        assert!(read(&InferTensorContents::default(), Dtype::F32, 0).expect("empty").is_empty());
    }
}
