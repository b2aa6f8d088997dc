//! Tensors as they are stored and sent: a dtype, a shape and row-major little-endian bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! dtypes {
    ($($variant:ident = $name:literal, $oip:literal, $size:literal;)+) => {
        /// An element type.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Dtype {
            $(
                #[doc = concat!("`", $name, "`")]
                #[serde(rename = $name)]
                $variant,
            )+
        }

        impl Dtype {
            /// Every element type.
            pub const ALL: &[Dtype] = &[$(Dtype::$variant),+];

            /// The short name, e.g. `f32`.
            pub fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name,)+ }
            }

            /// The name in the Open Inference Protocol, e.g. `FP32`.
            pub fn oip_name(self) -> &'static str {
                match self { $(Dtype::$variant => $oip,)+ }
            }

            /// The element type with this Open Inference Protocol name.
            pub fn from_oip(name: &str) -> Option<Self> {
                match name { $($oip => Some(Dtype::$variant),)+ _ => None }
            }

            /// Bytes per element.
            pub fn size(self) -> usize {
                match self { $(Dtype::$variant => $size,)+ }
            }
        }

        impl FromStr for Dtype {
            type Err = String;
            fn from_str(name: &str) -> Result<Self, String> {
                match name {
                    $($name => Ok(Dtype::$variant),)+
                    _ => Err(format!("{name:?} is not a dtype; there are {}", [$($name),+].join(", "))),
                }
            }
        }
    };
}

dtypes! {
    Bool = "bool", "BOOL", 1;
    U8 = "u8", "UINT8", 1;
    U16 = "u16", "UINT16", 2;
    U32 = "u32", "UINT32", 4;
    U64 = "u64", "UINT64", 8;
    I8 = "i8", "INT8", 1;
    I16 = "i16", "INT16", 2;
    I32 = "i32", "INT32", 4;
    I64 = "i64", "INT64", 8;
    F16 = "f16", "FP16", 2;
    F32 = "f32", "FP32", 4;
    F64 = "f64", "FP64", 8;
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A tensor. Its bytes always fit its dtype and shape.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawTensor", into = "RawTensor")]
pub struct Tensor {
    dtype: Dtype,
    shape: Vec<u64>,
    data: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct RawTensor {
    dtype: Dtype,
    shape: Vec<u64>,
    #[serde(with = "serde_bytes")]
    data: Vec<u8>,
}

impl From<Tensor> for RawTensor {
    fn from(t: Tensor) -> Self {
        Self { dtype: t.dtype, shape: t.shape, data: t.data }
    }
}

impl TryFrom<RawTensor> for Tensor {
    type Error = TensorError;
    fn try_from(t: RawTensor) -> Result<Self, TensorError> {
        Tensor::new(t.dtype, t.shape, t.data)
    }
}

/// Why bytes are not a tensor of a dtype and shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The shape's product does not fit 64 bits.
    #[error("shape {0:?} is too large")]
    ShapeOverflow(Vec<u64>),
    /// Too many or too few bytes.
    #[error("{dtype} tensor of shape {shape:?} needs {want} bytes, got {got}")]
    Size {
        /// The dtype.
        dtype: Dtype,
        /// The shape.
        shape: Vec<u64>,
        /// Bytes that it needs.
        want: u64,
        /// Bytes that there are.
        got: u64,
    },
}

impl Tensor {
    /// A tensor of row-major little-endian `data`, which has to fit `dtype` and `shape`.
    pub fn new(dtype: Dtype, shape: Vec<u64>, data: Vec<u8>) -> Result<Self, TensorError> {
        let want = byte_len(dtype, &shape).ok_or_else(|| TensorError::ShapeOverflow(shape.clone()))?;
        let got = data.len() as u64;
        if want == got { Ok(Self { dtype, shape, data }) } else { Err(TensorError::Size { dtype, shape, want, got }) }
    }

    /// A tensor of f32 values.
    pub fn from_f32(shape: Vec<u64>, values: &[f32]) -> Result<Self, TensorError> {
        Self::new(Dtype::F32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The dimensions; empty for a scalar.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The elements, row-major, little-endian.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The elements as f64, losing precision above 2⁵³; booleans are 0 and 1.
    pub fn to_f64(&self) -> Vec<f64> {
        macro_rules! read {
            ($t:ty) => {
                self.data
                    .chunks_exact(size_of::<$t>())
                    .map(|c| {
                        let mut bytes = [0u8; size_of::<$t>()];
                        bytes.copy_from_slice(c);
                        <$t>::from_le_bytes(bytes) as f64
                    })
                    .collect()
            };
        }
        match self.dtype {
            Dtype::Bool | Dtype::U8 => read!(u8),
            Dtype::U16 => read!(u16),
            Dtype::U32 => read!(u32),
            Dtype::U64 => read!(u64),
            Dtype::I8 => read!(i8),
            Dtype::I16 => read!(i16),
            Dtype::I32 => read!(i32),
            Dtype::I64 => read!(i64),
            Dtype::F16 => self.data.chunks_exact(2).map(|c| half_to_f64(u16::from_le_bytes([c[0], c[1]]))).collect(),
            Dtype::F32 => read!(f32),
            Dtype::F64 => read!(f64),
        }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {:?}, {} bytes)", self.dtype, self.shape, self.data.len())
    }
}

/// The bytes that a tensor takes, or none where that overflows.
fn byte_len(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(dtype.size() as u64, |product, dim| product.checked_mul(*dim))
}

/// IEEE 754 binary16 to f64.
fn half_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = i32::from((bits >> 10) & 0x1f);
    let fraction = f64::from(bits & 0x3ff);
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_to_fit_dtype_and_shape() {
        assert!(Tensor::new(Dtype::F32, vec![2, 3], vec![0; 24]).is_ok());
        assert!(Tensor::new(Dtype::F32, vec![], vec![0; 4]).is_ok());
        assert!(Tensor::new(Dtype::F32, vec![0, 4], vec![]).is_ok());
        assert!(matches!(
            Tensor::new(Dtype::F32, vec![2, 3], vec![0; 23]),
            Err(TensorError::Size { want: 24, got: 23, .. })
        ));
        let huge = Tensor::new(Dtype::F32, vec![u64::MAX, 2], vec![]);
        assert!(matches!(huge, Err(TensorError::ShapeOverflow(_))));
    }

    #[test]
    fn a_tensor_that_lies_about_its_size_is_not_decoded() {
        let good = Tensor::from_f32(vec![2], &[1.0, 2.0]).expect("fits");
        let mut bytes = postcard::to_stdvec(&good).expect("encodes");
        assert_eq!(postcard::from_bytes::<Tensor>(&bytes).expect("decodes"), good);
        bytes[2] = 3;
        assert!(postcard::from_bytes::<Tensor>(&bytes).is_err());
    }

    #[test]
    fn halves_are_read_exactly() {
        let table = [(0x3c00u16, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0001, 5.960_464_477_539_063e-8), (0, 0.0)];
        for (bits, want) in table {
            assert_eq!(half_to_f64(bits), want);
        }
        assert!(half_to_f64(0x7e00).is_nan());
        assert_eq!(half_to_f64(0xfc00), f64::NEG_INFINITY);
    }
}
