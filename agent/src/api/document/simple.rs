//! `POST /score/{slot}` as JSON Schema: the simple form, with the model's transforms, and Azure ML's beside it.

use muster_proto::manifest::{Color, Dim, Dtype, InputOp, OutputOp, TensorSpec};
use serde_json::{Value, json};

use super::super::find::Found;
use super::responses::{DIGEST, has_halves};
use super::rows::{self, Others, least};
use super::schema::{self, Dialect, arrays, closed, record};

const DIALECT: Dialect = Dialect::OpenApi3;

/// The steps before an input.
fn ops<'a>((_, loaded): &'a Found, name: &str) -> &'a [InputOp] {
    loaded.manifest.transforms.inputs.get(name).map_or(&[], Vec::as_slice)
}

/// Whether the body may be an image.
pub fn takes_images(found: &Found) -> bool {
    let first = |spec: &TensorSpec| matches!(ops(found, &spec.name).first(), Some(InputOp::DecodeImage { .. }));
    matches!(found.1.model.inputs(), [spec] if first(spec))
}

/// The body in JSON.
pub fn request(found: &Found) -> Value {
    let specs = found.1.model.inputs();
    let has = |name: &str| specs.iter().any(|spec| spec.name == name);
    let mut forms = vec![closed(schema::of_each(specs, |spec| sent(found, spec)))];
    if let [spec] = specs {
        forms.push(bare(found, spec));
    }
    if has_halves(found) {
        return json!({"anyOf": forms});
    }
    if !has("data") {
        let mut data = record([("data", rows::rows(found, Others::Ignored))]);
        if !has("Inputs") {
            data["properties"]["Inputs"] = json!({"type": "null"});
        }
        data["description"] = "Rows of the model's own tensors, answered by a bare list as in Azure ML.".into();
        forms.push(data);
    }
    if !has("Inputs") {
        forms.push(record([("Inputs", inputs(found))]));
    }
    json!({"anyOf": forms})
}

/// What stands under Azure ML's `Inputs`: rows, an object with rows as `data`, or the inputs by name.
fn inputs(found: &Found) -> Value {
    let rows = || rows::rows(found, Others::Ignored);
    let mut forms = vec![rows(), rows::columns(found, Others::Ignored)];
    if found.1.model.inputs().iter().all(|spec| spec.name != "data") {
        forms.push(record([("data", rows())]));
    }
    json!({"anyOf": forms, "description": "The model's own tensors, answered by {\"Results\": …} as in Azure ML."})
}

/// What a caller may send for one input, in an object.
fn sent(found: &Found, spec: &TensorSpec) -> Value {
    let mut forms = vec![numbers(found, spec)];
    if matches!(ops(found, &spec.name).first(), Some(InputOp::DecodeImage { .. })) {
        let text =
            json!({"type": "string", "contentEncoding": "base64", "description": "A PNG or JPEG file in base64."});
        forms.push(closed(record([("b64", text.clone())])));
        forms.push(text);
    }
    forms.extend(explicit(found, spec));
    json!({"anyOf": forms})
}

/// What a caller may send for the only input, without an object around it: arrays.
fn bare(found: &Found, spec: &TensorSpec) -> Value {
    let mut numbers = numbers(found, spec);
    numbers["description"] = format!("The input '{}' alone.", spec.name).into();
    numbers
}

/// The form in which the first of an input's transforms takes numbers, and their type.
fn form(found: &Found, spec: &TensorSpec) -> (Vec<Vec<Dim>>, Dtype) {
    let open = |name: &str| Dim::Symbol(name.into());
    let image = |channels: Dim| vec![open("height"), open("width"), channels];
    match ops(found, &spec.name).first() {
        None => (vec![spec.shape.clone()], spec.dtype),
        Some(InputOp::DecodeImage { color: Color::Gray }) => {
            (vec![image(Dim::Fixed(1)), vec![open("height"), open("width")]], Dtype::F32)
        }
        Some(InputOp::DecodeImage { .. }) => (vec![image(Dim::Fixed(3))], Dtype::F32),
        Some(InputOp::Resize { .. } | InputOp::CenterCrop { .. } | InputOp::Layout { .. }) => {
            (vec![image(open("channels"))], Dtype::F32)
        }
        Some(InputOp::Scale { .. } | InputOp::Normalize { .. }) => (vec![spec.shape.clone()], Dtype::F32),
    }
}

/// Nested arrays.
fn numbers(found: &Found, spec: &TensorSpec) -> Value {
    let (shapes, dtype) = form(found, spec);
    let is_own = ops(found, &spec.name).is_empty();
    let nested = |shape: Vec<Dim>| {
        let as_given = TensorSpec { name: spec.name.clone(), dtype, shape };
        schema::taken(&as_given, DIALECT, if is_own { least(found) } else { 1 })
    };
    let forms: Vec<Value> = shapes.into_iter().map(nested).collect();
    json!({"anyOf": forms})
}

/// `{"dtype", "shape", "data"}`, where the type may be left out.
fn explicit(found: &Found, spec: &TensorSpec) -> Vec<Value> {
    let (shapes, own) = form(found, spec);
    let is_own = ops(found, &spec.name).is_empty();
    let least = if is_own { least(found) } else { 1 };
    // Transforms take numbers of any type.
    let dtypes: &[Dtype] = if is_own { &[own] } else { &[Dtype::F32, Dtype::U8] };
    let one = |shape: &Vec<Dim>, dtype: Dtype| {
        let as_given = TensorSpec { name: spec.name.clone(), dtype, shape: shape.clone() };
        let data = [schema::taken(&as_given, DIALECT, least), schema::flat(&as_given, least)];
        let mut object = record([("shape", schema::shape(&as_given, least)), ("data", json!({"anyOf": data}))]);
        object["properties"]["dtype"] = schema::or_null(json!({"enum": [dtype.name(), dtype.oip_name()]}));
        if dtype != own {
            object["required"] = json!(["dtype", "shape", "data"]);
            object["properties"]["dtype"] = json!({"enum": [dtype.name(), dtype.oip_name()]});
        }
        object["properties"]["b64"] = json!({"type": "null"});
        closed(object)
    };
    let bytes = |shape: &Vec<Dim>, dtype: Dtype| {
        let as_given = TensorSpec { name: spec.name.clone(), dtype, shape: shape.clone() };
        let text =
            json!({"type": "string", "contentEncoding": "base64", "description": "Little-endian bytes in base64."});
        let named = json!({"enum": [dtype.name(), dtype.oip_name()]});
        let mut object = record([("dtype", named), ("shape", schema::shape(&as_given, least)), ("b64", text)]);
        object["properties"]["data"] = json!({"type": "null"});
        closed(object)
    };
    let each = |shape| dtypes.iter().flat_map(move |dtype| [one(shape, *dtype), bytes(shape, *dtype)]);
    shapes.iter().flat_map(each).collect()
}

/// The answer.
pub fn answer(found: &Found, predictions: impl Fn() -> Value) -> Value {
    let (_, loaded) = found;
    let ops = |name: &str| loaded.manifest.transforms.outputs.get(name).map_or(&[][..], Vec::as_slice);
    let outputs = schema::of_each(loaded.model.outputs(), |spec| transformed(spec, ops(&spec.name)));
    let simple = record([
        ("model", json!({"type": "string"})),
        ("version", json!({"type": "integer", "minimum": 0})),
        ("digest", json!({"type": "string", "pattern": DIGEST})),
        ("outputs", outputs),
    ]);
    match has_halves(found) {
        true => simple,
        false => json!({"anyOf": [simple, predictions(), record([("Results", predictions())])]}),
    }
}

/// An output after its transforms.
fn transformed(spec: &TensorSpec, ops: &[OutputOp]) -> Value {
    match ops.last() {
        Some(OutputOp::ArgMax { labels }) => json!({"type": "array", "items": ranked(labels)}),
        Some(OutputOp::TopK { labels, .. } | OutputOp::Threshold { labels, .. }) => {
            json!({"type": "array", "items": {"type": "array", "items": ranked(labels)}})
        }
        Some(OutputOp::Softmax) if spec.dtype != Dtype::F64 => {
            values(&TensorSpec { dtype: Dtype::F32, ..spec.clone() })
        }
        Some(OutputOp::Softmax) | None => values(spec),
    }
}

fn values(spec: &TensorSpec) -> Value {
    let data = arrays(&[Dim::Symbol(String::new())], schema::element(spec.dtype, DIALECT), None);
    record([("dtype", json!({"const": spec.dtype.name()})), ("shape", schema::answered_shape(spec)), ("data", data)])
}

/// A value with its place, and the place's label where there are labels.
fn ranked(labels: &[String]) -> Value {
    let mut schema = record([
        ("index", json!({"type": "integer", "minimum": 0})),
        ("value", schema::or_null(json!({"type": "number"}))),
    ]);
    if !labels.is_empty() {
        schema["properties"]["label"] = json!({"type": "string"});
    }
    schema
}
