//! A JSON dictionary of a model's inputs, as plain scoring takes it: each input as nested arrays, as
//! `{"dtype", "shape", "data"}` with `b64` in the place of `data` for bytes, or as an image in base64. Numbers are read
//! from the text itself.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use muster_proto::manifest::{Dim, Dtype, InputOp, Tensor, TensorSpec, Transforms};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::elements::{self, MAX_RANK};
use super::tensor_from_json;
use super::whole::Whole;
use crate::engine::transforms::{Source, apply_inputs};

/// The most keys of a dictionary of inputs that are read.
const MAX_KEYS: usize = 1000;
/// The most characters of a name that are said back.
const MAX_QUOTE: usize = 80;
/// Base64 with or without its padding.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a body is no dictionary of the model's inputs. A retry with the same cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not JSON, or JSON of another form.
    #[error("{0}")]
    Syntax(String),
    /// An input is missing, unknown, or does not fit.
    #[error("{0}")]
    Input(String),
}

/// What a model takes: its inputs, and what is done to a caller's before.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The model's inputs.
    pub specs: &'a [TensorSpec],
    /// The declared steps.
    pub transforms: &'a Transforms,
}

/// What a caller sent for one input.
pub enum Given<'a> {
    /// The bytes of a PNG or JPEG file.
    Image(Cow<'a, [u8]>),
    /// Numbers.
    Tensor(Tensor),
}

impl<'a> Wanted<'a> {
    /// Reads a dictionary of inputs, or the only input as an array; applies the input transforms.
    pub fn read(&self, bytes: &[u8]) -> Result<BTreeMap<String, Tensor>, Error> {
        let not_json =
            |error: serde_json::Error| Error::Syntax(format!("the body is not a JSON dictionary of inputs: {error}"));
        // A bare array is meant for the only input.
        if bytes.trim_ascii_start().starts_with(b"[") {
            let raw: &RawValue = serde_json::from_slice(bytes).map_err(not_json)?;
            let spec = self.only()?;
            return self.one(value(raw, spec, self.ops_of(spec))?);
        }
        let entries: Entries = serde_json::from_slice(bytes).map_err(not_json)?;
        let mut inputs = BTreeMap::new();
        for (name, raw) in entries.0 {
            let Some(spec) = self.specs.iter().find(|spec| spec.name == name) else {
                return Err(Error::Input(format!("the model has no input '{}', but {}", clip(&name), self.names())));
            };
            let given = value(raw, spec, self.ops_of(spec))?;
            inputs.insert(spec.name.clone(), self.transformed(given, spec)?);
        }
        match self.specs.iter().find(|spec| !inputs.contains_key(&spec.name)) {
            Some(missing) => {
                Err(Error::Input(format!("input '{}' is missing; the model takes {}", missing.name, self.names())))
            }
            None => Ok(inputs),
        }
    }

    /// The inputs of a model that has one.
    pub fn one(&self, given: Given) -> Result<BTreeMap<String, Tensor>, Error> {
        let spec = self.only()?;
        Ok(BTreeMap::from([(spec.name.clone(), self.transformed(given, spec)?)]))
    }

    fn only(&self) -> Result<&'a TensorSpec, Error> {
        match self.specs {
            [spec] => Ok(spec),
            specs => Err(Error::Input(format!(
                "the model has {} inputs: send a JSON dictionary with {}",
                specs.len(),
                self.names()
            ))),
        }
    }

    fn transformed(&self, given: Given, spec: &TensorSpec) -> Result<Tensor, Error> {
        let ops = self.ops_of(spec);
        let source = match &given {
            Given::Image(_) if !takes_image(ops) => {
                return Err(Error::Input(format!("input '{}' takes numbers, and no image", spec.name)));
            }
            Given::Image(bytes) => Source::Image(bytes),
            Given::Tensor(tensor) => Source::Tensor(tensor),
        };
        apply_inputs(ops, source, spec).map_err(|error| Error::Input(format!("input '{}': {error}", spec.name)))
    }

    fn ops_of(&self, spec: &TensorSpec) -> &'a [InputOp] {
        self.transforms.inputs.get(&spec.name).map_or(&[], Vec::as_slice)
    }

    fn names(&self) -> String {
        self.specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Whether what a caller sends for an input is an image.
pub fn takes_image(ops: &[InputOp]) -> bool {
    matches!(ops.first(), Some(InputOp::DecodeImage { .. }))
}

/// The explicit forms of an input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object<'a> {
    #[serde(borrow)]
    b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    dtype: Option<Cow<'a, str>>,
    shape: Option<Vec<Whole<u64>>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// Nested arrays, `{"dtype", "shape", "data"}`, `{"dtype", "shape", "b64"}`, `{"b64"}` or a text in base64.
fn value<'a>(raw: &'a RawValue, spec: &TensorSpec, ops: &[InputOp]) -> Result<Given<'a>, Error> {
    let invalid = |text: String| Error::Input(format!("input '{}': {text}", spec.name));
    // The transforms compute in f32; without them the numbers are the model's own.
    let dtype = if ops.is_empty() { spec.dtype } else { Dtype::F32 };
    match raw.get().as_bytes().first() {
        Some(b'"') => {
            let text: Cow<str> = Deserialize::deserialize(raw).map_err(|error| invalid(error.to_string()))?;
            base64(&text).map(Given::Image).map_err(invalid)
        }
        Some(b'{') => {
            let object: Object = serde_json::from_str(raw.get()).map_err(|error| {
                invalid(format!("{error}; wanted {{\"dtype\", \"shape\", \"data\"}} or {{\"b64\"}}"))
            })?;
            match object {
                Object { b64: Some(text), dtype: None, shape: None, data: None } => {
                    base64(&text).map(Given::Image).map_err(invalid)
                }
                Object { b64: None, dtype: named, shape: Some(shape), data: Some(data) } => {
                    let named = named.map(|name| name.parse().or_else(|e| Dtype::from_oip(&name).ok_or(e)));
                    let dtype = named.transpose().map_err(invalid)?.unwrap_or(dtype);
                    let shape = shape.into_iter().map(|Whole(size)| size).collect();
                    explicit(data, dtype, shape).map(Given::Tensor).map_err(invalid)
                }
                Object { b64: Some(text), dtype: Some(named), shape: Some(shape), data: None } => {
                    let shape = shape.into_iter().map(|Whole(size)| size).collect();
                    bytes(&text, &named, shape).map(Given::Tensor).map_err(invalid)
                }
                _ => Err(invalid("wanted {\"dtype\", \"shape\", \"data\"} or {\"b64\"}".into())),
            }
        }
        _ => nested(raw, dtype, if ops.is_empty() { &spec.shape } else { &[] }).map(Given::Tensor).map_err(invalid),
    }
}

fn base64<'a>(text: &str) -> Result<Cow<'a, [u8]>, String> {
    // Web pages have images as `data:image/png;base64,…`.
    let text = match text.strip_prefix("data:") {
        Some(rest) => rest.split_once(',').map_or(rest, |(_, data)| data),
        None => text,
    };
    BASE64.decode(text).map(Cow::Owned).map_err(|error| format!("not base64: {error}"))
}

/// Little-endian bytes in base64.
fn bytes(text: &str, dtype: &str, shape: Vec<u64>) -> Result<Tensor, String> {
    let dtype = dtype.parse().or_else(|e| Dtype::from_oip(dtype).ok_or(e))?;
    Tensor::new(dtype, shape, base64(text)?.into_owned()).map_err(|error| error.to_string())
}

/// A tensor that is to have `shape`, whose sizes an array without elements does not tell.
fn nested(raw: &RawValue, dtype: Dtype, shape: &[Dim]) -> Result<Tensor, String> {
    let mut read = if dtype == Dtype::F16 { halves(raw)? } else { elements::read(raw, dtype, u64::MAX)? };
    if read.data.is_empty() {
        let size = |dim: &Dim| if let Dim::Fixed(size) = dim { *size } else { 0 };
        read.shape.extend(shape.iter().skip(read.shape.len()).map(size));
    }
    Tensor::new(dtype, read.shape, read.data).map_err(|error| error.to_string())
}

fn explicit(raw: &RawValue, dtype: Dtype, shape: Vec<u64>) -> Result<Tensor, String> {
    if shape.len() > MAX_RANK {
        return Err(format!("{} dimensions, at most {MAX_RANK} are read", shape.len()));
    }
    let wanted = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size));
    let wanted = wanted.ok_or_else(|| format!("shape {shape:?} is too large"))?;
    let read = if dtype == Dtype::F16 { halves(raw)? } else { elements::read(raw, dtype, wanted)? };
    let got = (read.data.len() / dtype.size()) as u64;
    if got != wanted {
        return Err(format!("{got} elements do not fill shape {shape:?}"));
    }
    read.check_nesting(&shape)?;
    Tensor::new(dtype, shape, read.data).map_err(|error| error.to_string())
}

/// Half floats by way of the engine, which has the arithmetic for them.
fn halves(raw: &RawValue) -> Result<elements::Elements, String> {
    // The structure is checked before a tree of it is built.
    let shape = elements::read(raw, Dtype::F32, u64::MAX)?.shape;
    let json = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
    let any = vec![Dim::Symbol("any".into()); shape.len()];
    let spec = TensorSpec { name: "data".into(), dtype: Dtype::F16, shape: any };
    let tensor = tensor_from_json(&json, &spec).map_err(|error| error.to_string())?;
    Ok(elements::Elements { shape, data: tensor.data().to_vec() })
}

/// The members of a JSON object, each name once.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object with one member for each input")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Vec<(Cow<str>, &RawValue)> = Vec::new();
                while let Some((Text(name), value)) = map.next_entry::<Text, &RawValue>()? {
                    if entries.len() == MAX_KEYS {
                        return Err(A::Error::custom("too many inputs"));
                    }
                    if entries.iter().any(|(other, _)| *other == name) {
                        return Err(A::Error::custom(format!("input '{}' stands twice", clip(&name))));
                    }
                    entries.push((name, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// What a caller sent, short enough to be said back.
fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
