//! From a body of `/score` to the model's inputs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use muster_proto::manifest::{Dtype, InputOp, Tensor, TensorSpec};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::elements::{self, MAX_RANK};
use super::super::error::{Error, clip};
use super::super::whole::Whole;
use super::{npy, takes_image};
use crate::engine::Loaded;
use crate::engine::json::tensor_from_json;
use crate::engine::transforms::{Source, apply_inputs};

/// The most keys of a dictionary of inputs that are read.
const MAX_KEYS: usize = 1000;
/// Base64 with or without its padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the caller says that the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON.
    Json,
    /// A PNG or JPEG file.
    Image,
    /// An .npy file.
    Npy,
    /// Nothing that would tell: the first bytes do.
    Unknown,
}

/// Reads Content-Type. curl's own, for forms, says nothing.
pub fn kind_of(headers: &HeaderMap) -> Result<Kind, Error> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Kind::Unknown) };
    let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    match text.split(';').next().unwrap_or_default().trim() {
        "application/json" | "text/json" => Ok(Kind::Json),
        json if json.ends_with("+json") => Ok(Kind::Json),
        "image/png" | "image/jpeg" | "image/jpg" => Ok(Kind::Image),
        "application/x-npy" | "application/npy" => Ok(Kind::Npy),
        "" | "application/octet-stream" | "application/x-www-form-urlencoded" | "text/plain" => Ok(Kind::Unknown),
        other => {
            let text = format!(
                "Content-Type {:?} cannot be read, but application/json, image/png, image/jpeg and application/x-npy",
                clip(other)
            );
            Err(Error::MediaType(text))
        }
    }
}

/// The model's inputs, after the input transforms.
pub fn read(bytes: &[u8], kind: Kind, loaded: &Loaded) -> Result<BTreeMap<String, Tensor>, Error> {
    let is_image = bytes.starts_with(b"\x89PNG\r\n\x1a\n") || bytes.starts_with(&[0xff, 0xd8, 0xff]);
    match kind {
        Kind::Image => one(Given::Image(Cow::Borrowed(bytes)), loaded),
        Kind::Unknown if is_image => one(Given::Image(Cow::Borrowed(bytes)), loaded),
        Kind::Npy => array(bytes, loaded),
        Kind::Unknown if npy::is_npy(bytes) => array(bytes, loaded),
        Kind::Json | Kind::Unknown => from_json(bytes, loaded),
    }
}

/// What a caller sent for one input.
enum Given<'a> {
    Image(Cow<'a, [u8]>),
    Tensor(Tensor),
}

fn array(bytes: &[u8], loaded: &Loaded) -> Result<BTreeMap<String, Tensor>, Error> {
    one(Given::Tensor(npy::read(bytes).map_err(Error::Input)?), loaded)
}

/// The inputs of a model that has one.
fn one(given: Given, loaded: &Loaded) -> Result<BTreeMap<String, Tensor>, Error> {
    let spec = only_input(loaded)?;
    Ok(BTreeMap::from([(spec.name.clone(), transformed(given, spec, loaded)?)]))
}

fn only_input(loaded: &Loaded) -> Result<&TensorSpec, Error> {
    match loaded.model.inputs() {
        [spec] => Ok(spec),
        specs => Err(Error::Input(format!(
            "the model has {} inputs: send a JSON dictionary with {}",
            specs.len(),
            names(specs)
        ))),
    }
}

fn transformed(given: Given, spec: &TensorSpec, loaded: &Loaded) -> Result<Tensor, Error> {
    let ops = ops_of(spec, loaded);
    let source = match &given {
        Given::Image(_) if !takes_image(ops) => {
            return Err(Error::Input(format!("input '{}' takes numbers, and no image", spec.name)));
        }
        Given::Image(bytes) => Source::Image(bytes),
        Given::Tensor(tensor) => Source::Tensor(tensor),
    };
    apply_inputs(ops, source, spec).map_err(|error| Error::Input(format!("input '{}': {error}", spec.name)))
}

fn ops_of<'a>(spec: &TensorSpec, loaded: &'a Loaded) -> &'a [InputOp] {
    loaded.manifest.transforms.inputs.get(&spec.name).map_or(&[], Vec::as_slice)
}

fn from_json(bytes: &[u8], loaded: &Loaded) -> Result<BTreeMap<String, Tensor>, Error> {
    let not_json =
        |error: serde_json::Error| Error::BadRequest(format!("the body is not a JSON dictionary of inputs: {error}"));
    let specs = loaded.model.inputs();
    // A bare array is meant for the only input.
    if bytes.trim_ascii_start().starts_with(b"[") {
        let raw: &RawValue = serde_json::from_slice(bytes).map_err(not_json)?;
        let spec = only_input(loaded)?;
        return one(value(raw, spec, ops_of(spec, loaded))?, loaded);
    }
    let entries: Entries = serde_json::from_slice(bytes).map_err(not_json)?;
    let mut inputs = BTreeMap::new();
    for (name, raw) in entries.0 {
        let Some(spec) = specs.iter().find(|spec| spec.name == name) else {
            return Err(Error::Input(format!("the model has no input '{}', but {}", clip(&name), names(specs))));
        };
        let given = value(raw, spec, ops_of(spec, loaded))?;
        inputs.insert(spec.name.clone(), transformed(given, spec, loaded)?);
    }
    match specs.iter().find(|spec| !inputs.contains_key(&spec.name)) {
        Some(missing) => {
            Err(Error::Input(format!("input '{}' is missing; the model takes {}", missing.name, names(specs))))
        }
        None => Ok(inputs),
    }
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

/// Nested arrays, `{"dtype", "shape", "data"}`, `{"b64"}` or a text in base64.
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
                _ => Err(invalid("wanted {\"dtype\", \"shape\", \"data\"} or {\"b64\"}".into())),
            }
        }
        _ => nested(raw, dtype).map(Given::Tensor).map_err(invalid),
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

fn nested(raw: &RawValue, dtype: Dtype) -> Result<Tensor, String> {
    let read = if dtype == Dtype::F16 { halves(raw)? } else { elements::read(raw, dtype, u64::MAX)? };
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
    Tensor::new(dtype, shape, read.data).map_err(|error| error.to_string())
}

/// Half floats by way of the engine, which has the arithmetic for them.
fn halves(raw: &RawValue) -> Result<elements::Elements, String> {
    // The structure is checked before a tree of it is built.
    let shape = elements::read(raw, Dtype::F32, u64::MAX)?.shape;
    let json = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
    let any = vec![muster_proto::manifest::Dim::Symbol("any".into()); shape.len()];
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

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ")
}
