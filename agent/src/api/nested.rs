//! Tensors as nested JSON arrays, written without a tree of values.

use muster_proto::manifest::{Dtype, Tensor};
use serde::ser::SerializeSeq;
use serde::{Serialize, Serializer};

/// A tensor, or one part of it, as arrays nested like its shape. NaN and infinities are `null`. Of FP16
/// there is no JSON form: it is refused before.
#[derive(Debug, Clone, Copy)]
pub struct Nested<'a> {
    tensor: &'a Tensor,
    /// How many dimensions are behind.
    level: usize,
    /// The first element's place.
    start: usize,
}

impl<'a> Nested<'a> {
    /// All of `tensor`.
    pub fn whole(tensor: &'a Tensor) -> Self {
        Self { tensor, level: 0, start: 0 }
    }

    /// Its item `index` in the first dimension.
    pub fn item(tensor: &'a Tensor, index: usize) -> Self {
        Self::whole(tensor).inner(index)
    }

    fn inner(self, index: usize) -> Self {
        let below = self.tensor.shape().get(self.level + 1..).unwrap_or_default();
        // The elements exist, so their count fits.
        let step = below.iter().map(|size| *size as usize).product::<usize>();
        Self { level: self.level + 1, start: self.start + index * step, ..self }
    }

    fn element<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let size = self.tensor.dtype().size();
        let bytes = self.tensor.data().get(self.start * size..).unwrap_or_default();
        macro_rules! write {
            ($t:ty, $write:ident) => {
                match bytes.first_chunk() {
                    Some(bytes) => serializer.$write(<$t>::from_le_bytes(*bytes)),
                    None => serializer.serialize_none(),
                }
            };
        }
        match self.tensor.dtype() {
            Dtype::Bool => serializer.serialize_bool(bytes.first().is_some_and(|byte| *byte != 0)),
            Dtype::U8 => write!(u8, serialize_u8),
            Dtype::U16 => write!(u16, serialize_u16),
            Dtype::U32 => write!(u32, serialize_u32),
            Dtype::U64 => write!(u64, serialize_u64),
            Dtype::I8 => write!(i8, serialize_i8),
            Dtype::I16 => write!(i16, serialize_i16),
            Dtype::I32 => write!(i32, serialize_i32),
            Dtype::I64 => write!(i64, serialize_i64),
            Dtype::F16 => serializer.serialize_none(),
            Dtype::F32 => write!(f32, serialize_f32),
            Dtype::F64 => write!(f64, serialize_f64),
        }
    }
}

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(size) = self.tensor.shape().get(self.level) else { return self.element(serializer) };
        let mut array = serializer.serialize_seq(usize::try_from(*size).ok())?;
        for index in 0..*size as usize {
            array.serialize_element(&self.inner(index))?;
        }
        array.end()
    }
}

/// How many numbers of `tensor` JSON has no word for.
pub fn count_nonfinite(tensor: &Tensor) -> u64 {
    let count = match tensor.dtype() {
        Dtype::F32 | Dtype::F64 => tensor.to_f64().iter().filter(|value| !value.is_finite()).count(),
        _ => 0,
    };
    count as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(nested: Nested) -> String {
        serde_json::to_string(&nested).expect("JSON")
    }

    #[test]
    fn arrays_are_nested_like_the_shape() {
        let values = [0.1, -1.5, f32::NAN, 4.0, f32::INFINITY, 6.0];
        let table: [(&[u64], &[f32], &str); 6] = [
            (&[], &values[..1], "0.1"),
            (&[6], &values, "[0.1,-1.5,null,4.0,null,6.0]"),
            (&[2, 3], &values, "[[0.1,-1.5,null],[4.0,null,6.0]]"),
            (&[2, 1, 3], &values, "[[[0.1,-1.5,null]],[[4.0,null,6.0]]]"),
            (&[0, 3], &[], "[]"),
            (&[2, 0], &[], "[[],[]]"),
        ];
        for (shape, values, want) in table {
            let tensor = Tensor::from_f32(shape.to_vec(), values).expect("fits");
            assert_eq!(written(Nested::whole(&tensor)), want);
        }
        let tensor = Tensor::from_f32(vec![2, 3], &values).expect("fits");
        assert_eq!(written(Nested::item(&tensor, 1)), "[4.0,null,6.0]");
        assert_eq!(count_nonfinite(&tensor), 2);
    }

    #[test]
    fn every_dtype_is_written_exactly() {
        let table: [(Dtype, &[u8], &str); 7] = [
            (Dtype::Bool, &[1], "true"),
            (Dtype::U8, &[255], "255"),
            (Dtype::I8, &[255], "-1"),
            (Dtype::U64, &u64::MAX.to_le_bytes(), "18446744073709551615"),
            (Dtype::I64, &i64::MIN.to_le_bytes(), "-9223372036854775808"),
            (Dtype::F64, &0.1f64.to_le_bytes(), "0.1"),
            (Dtype::U16, &[1, 2], "513"),
        ];
        for (dtype, bytes, want) in table {
            let tensor = Tensor::new(dtype, Vec::new(), bytes.to_vec()).expect("fits");
            assert_eq!(written(Nested::whole(&tensor)), want, "{dtype}");
        }
    }
}
