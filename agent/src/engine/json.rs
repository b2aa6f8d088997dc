//! Tensors as JSON, and the file of golden samples that an operator writes.
//!
//! A tensor is either nested arrays, whose shape is their nesting, or an object
//! `{"dtype": "f32", "shape": [2, 3], "data": […]}` whose data may be flat. `null` is NaN in float
//! tensors; JSON has no other word for it.

use muster_proto::code::Code;
use muster_proto::manifest::{Dtype, Tensor, TensorSpec};
use serde::ser::{SerializeSeq, SerializeStruct};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tract_onnx::tract_core::internal::tract_data::half::f16;

use super::model::describe;

pub mod dictionary;
pub mod elements;
mod samples;
pub mod whole;

pub use samples::{GivenSample, parse_samples};

/// The deepest nesting of arrays that is read.
const MAX_RANK: usize = 16;

/// Why JSON is not the wanted tensor or sample file. A retry with the same cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A value is none that the tensor can hold.
    #[error("{name}: element {index} is {got}, which is no {dtype}")]
    Element {
        /// The tensor.
        name: String,
        /// The element's place in row-major order.
        index: usize,
        /// The element, cut short.
        got: String,
        /// The tensor's dtype.
        dtype: Dtype,
    },
    /// The JSON has another form than that of a tensor.
    #[error("{name}: {reason}")]
    Form {
        /// The tensor or place.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The text is not JSON.
    #[error("not JSON: {0}")]
    Syntax(String),
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        Code::InputInvalid
    }

    fn form(name: &str, reason: impl Into<String>) -> Self {
        Error::Form { name: name.to_owned(), reason: reason.into() }
    }
}

/// Reads `value` as the tensor of `spec`. Its dtype has to be the spec's; its shape is checked when the
/// model is run, but nested arrays have to have the spec's rank.
pub fn tensor_from_json(value: &Value, spec: &TensorSpec) -> Result<Tensor, Error> {
    let tensor = match value {
        Value::Object(object) => explicit(&spec.name, object, Some(spec.dtype))?,
        nested => {
            let shape = nesting(&spec.name, nested)?;
            if shape.len() != spec.shape.len() {
                let got = format!("wanted {}, got an array nested {} deep", describe(spec), shape.len());
                return Err(Error::form(&spec.name, got));
            }
            filled(&spec.name, spec.dtype, shape, nested)?
        }
    };
    if tensor.dtype() != spec.dtype {
        return Err(Error::form(&spec.name, format!("wanted {}, got {}", describe(spec), tensor.dtype())));
    }
    Ok(tensor)
}

/// The explicit form of `tensor`: its dtype, its shape and its elements, row-major in one flat array.
pub fn tensor_to_json(tensor: &Tensor) -> Value {
    // By way of text, so that an f32 becomes the number that one would write, 0.1, and not its f64
    // value, 0.10000000149011612.
    let text = serde_json::to_string(&Explicit(tensor)).expect("numbers, booleans and null are JSON");
    serde_json::from_str(&text).expect("what was just written is JSON")
}

/// The explicit form of a tensor, written without a detour over [`Value`].
#[derive(Debug, Clone, Copy)]
pub struct Explicit<'a>(pub &'a Tensor);

impl Serialize for Explicit<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Tensor", 3)?;
        object.serialize_field("dtype", &self.0.dtype())?;
        object.serialize_field("shape", self.0.shape())?;
        object.serialize_field("data", &Elements(self.0))?;
        object.end()
    }
}

/// The elements of a tensor as one flat array; NaN and infinities are `null`.
#[derive(Debug, Clone, Copy)]
pub struct Elements<'a>(pub &'a Tensor);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut array = serializer.serialize_seq(Some(self.0.len()))?;
        macro_rules! write {
            ($t:ty, $as_written:expr) => {
                for bytes in self.0.data().chunks_exact(size_of::<$t>()) {
                    let mut own = [0u8; size_of::<$t>()];
                    own.copy_from_slice(bytes);
                    array.serialize_element(&$as_written(<$t>::from_le_bytes(own)))?;
                }
            };
        }
        match self.0.dtype() {
            Dtype::Bool => write!(u8, |v| v != 0),
            Dtype::U8 => write!(u8, u8::from),
            Dtype::U16 => write!(u16, u16::from),
            Dtype::U32 => write!(u32, u32::from),
            Dtype::U64 => write!(u64, u64::from),
            Dtype::I8 => write!(i8, i8::from),
            Dtype::I16 => write!(i16, i16::from),
            Dtype::I32 => write!(i32, i32::from),
            Dtype::I64 => write!(i64, i64::from),
            Dtype::F16 => write!(f16, f16::to_f32),
            Dtype::F32 => write!(f32, f32::from),
            Dtype::F64 => write!(f64, f64::from),
        }
        array.end()
    }
}

/// Reads the explicit form; `dtype` may be left out where `known` has it.
fn explicit(name: &str, object: &Map<String, Value>, known: Option<Dtype>) -> Result<Tensor, Error> {
    if let Some(key) = object.keys().find(|key| !["dtype", "shape", "data"].contains(&key.as_str())) {
        return Err(Error::form(name, format!("unknown key {key:?}; a tensor has dtype, shape and data")));
    }
    let dtype = match (object.get("dtype"), known) {
        (Some(Value::String(text)), _) => {
            text.parse().or_else(|e: String| Dtype::from_oip(text).ok_or(e)).map_err(|e| Error::form(name, e))?
        }
        (None, Some(known)) => known,
        _ => return Err(Error::form(name, "dtype has to be a text such as \"f32\"")),
    };
    let shape = object.get("shape").and_then(Value::as_array);
    let shape: Option<Vec<u64>> = shape.and_then(|dims| dims.iter().map(Value::as_u64).collect());
    let shape = shape.ok_or_else(|| Error::form(name, "shape has to be an array of whole numbers"))?;
    let data = object.get("data").ok_or_else(|| Error::form(name, "data is missing"))?;
    let nested = nesting(name, data)?;
    if nested.len() > 1 && nested != shape {
        return Err(Error::form(name, format!("data is nested as {nested:?}, shape says {shape:?}")));
    }
    let flat = filled(name, dtype, nested, data)?;
    let (elements, bytes) = (flat.len(), flat.data().to_vec());
    Tensor::new(dtype, shape.clone(), bytes)
        .map_err(|_| Error::form(name, format!("{elements} elements do not fill shape {shape:?}")))
}

/// The shape of nested arrays, along their first elements.
fn nesting(name: &str, value: &Value) -> Result<Vec<u64>, Error> {
    let (mut shape, mut at) = (Vec::new(), Some(value));
    while let Some(Value::Array(elements)) = at {
        shape.push(elements.len() as u64);
        at = elements.first();
        if shape.len() > MAX_RANK {
            return Err(Error::form(name, format!("arrays are nested more than {MAX_RANK} deep")));
        }
    }
    Ok(shape)
}

/// The tensor of `shape` whose elements are those of the arrays in `value`, which have to be nested so.
fn filled(name: &str, dtype: Dtype, shape: Vec<u64>, value: &Value) -> Result<Tensor, Error> {
    let mut data = Vec::new();
    fill(name, dtype, &shape, value, &mut data)?;
    Tensor::new(dtype, shape, data).map_err(|e| Error::form(name, e.to_string()))
}

fn fill(name: &str, dtype: Dtype, shape: &[u64], value: &Value, data: &mut Vec<u8>) -> Result<(), Error> {
    match (shape.split_first(), value) {
        (Some((size, rest)), Value::Array(elements)) if elements.len() as u64 == *size => {
            elements.iter().try_for_each(|element| fill(name, dtype, rest, element, data))
        }
        (Some(_), _) => Err(Error::form(name, "arrays of one level differ in length")),
        (None, element) => push_element(dtype, element, data).ok_or_else(|| {
            let text: String = element.to_string().chars().take(40).collect();
            Error::Element { name: name.to_owned(), index: data.len() / dtype.size(), got: text, dtype }
        }),
    }
}

/// Appends `element` to `data`; none where `dtype` cannot hold it.
fn push_element(dtype: Dtype, element: &Value, data: &mut Vec<u8>) -> Option<()> {
    macro_rules! whole {
        ($t:ty) => {
            data.extend(<$t>::try_from(whole_number(element)?).ok()?.to_le_bytes())
        };
    }
    match dtype {
        Dtype::Bool => data.push(match element {
            Value::Bool(value) => u8::from(*value),
            number => u8::try_from(whole_number(number)?).ok().filter(|n| *n <= 1)?,
        }),
        Dtype::U8 => whole!(u8),
        Dtype::U16 => whole!(u16),
        Dtype::U32 => whole!(u32),
        Dtype::U64 => whole!(u64),
        Dtype::I8 => whole!(i8),
        Dtype::I16 => whole!(i16),
        Dtype::I32 => whole!(i32),
        Dtype::I64 => whole!(i64),
        Dtype::F16 => data.extend(in_range(element, f16::from_f64, f16::is_infinite)?.to_le_bytes()),
        Dtype::F32 => data.extend(in_range(element, |v| v as f32, |v| v.is_infinite())?.to_le_bytes()),
        Dtype::F64 => data.extend(in_range(element, |v| v, |v| v.is_infinite())?.to_le_bytes()),
    }
    Some(())
}

/// A whole number, exactly. `3.0` is one, up to 2⁵³, because some languages write whole numbers so.
fn whole_number(element: &Value) -> Option<i128> {
    let number = element.as_number()?;
    let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let exact = |value: &f64| value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0;
    whole.or_else(|| number.as_f64().filter(exact).map(|value| value as i128))
}

/// A float, or NaN for `null`; none where it is too large for its type.
fn in_range<T: Copy>(element: &Value, narrow: impl Fn(f64) -> T, infinite: impl Fn(T) -> bool) -> Option<T> {
    match element {
        Value::Null => Some(narrow(f64::NAN)),
        number => Some(narrow(number.as_f64()?)).filter(|value| !infinite(*value)),
    }
}

#[cfg(test)]
mod tests;
