//! What `GET /score/{slot}` tells a person who has never asked this model.

use muster_proto::manifest::{Color, Dim, Hook, InputOp, TensorSpec};
use serde_json::{Value, json};

use super::super::find::Found;
use crate::engine::json::dictionary::takes_image;

/// An example with more numbers is not written out.
const SMALL: u64 = 64;

/// What to send to the model behind `host`, and what comes back.
pub fn describe((slot, loaded): &Found, host: &str) -> Value {
    let manifest = &loaded.manifest;
    let ops_of = |name: &str| manifest.transforms.inputs.get(name).map_or(&[][..], Vec::as_slice);
    let input = |spec: &TensorSpec| {
        let ops = ops_of(&spec.name);
        json!({
            "name": spec.name, "dtype": spec.dtype, "shape": spec.shape,
            "send": send(spec, ops), "transforms": ops,
        })
    };
    let output = |spec: &TensorSpec| {
        let ops = manifest.transforms.outputs.get(&spec.name).map_or(&[][..], Vec::as_slice);
        json!({"name": spec.name, "dtype": spec.dtype, "shape": spec.shape, "transforms": ops})
    };
    let specs = loaded.model.inputs();
    let mut described = json!({
        "slot": slot,
        "model": manifest.model,
        "version": manifest.version,
        "digest": loaded.digest,
        "description": manifest.description,
        "inputs": specs.iter().map(input).collect::<Vec<_>>(),
        "outputs": loaded.model.outputs().iter().map(output).collect::<Vec<_>>(),
        "example": example(slot.as_str(), specs, &|name| takes_image(ops_of(name)), host),
        "more": [
            "an input in JSON is nested arrays, or {\"dtype\", \"shape\", \"data\"}; an image is a text in base64 or {\"b64\"}",
            "a model with one input also takes the bytes of an .npy file, or of a PNG or JPEG where it takes images",
            format!("POST /v2/models/{slot}/infer takes the model's own tensors, without transforms"),
        ],
    });
    if let Some(script) = &loaded.script {
        described["script"] = json!({
            "hooks": script.hooks(),
            "text": "a script of the model's publisher reads requests before, and answers after, what is described here",
        });
        if script.has(Hook::Preprocess) {
            let request = loaded.request.as_deref().unwrap_or("{}");
            let url = format!("http://{host}/score/{slot}");
            described["example"] = json!(format!("curl -H 'Content-Type: application/json' -d '{request}' {url}"));
        }
    }
    described
}

fn send(spec: &TensorSpec, ops: &[InputOp]) -> String {
    match ops.first() {
        Some(InputOp::DecodeImage { color }) => {
            let channels = if *color == Color::Gray { 1 } else { 3 };
            format!("a PNG or JPEG image, or its pixels: height × width × {channels}, 0 to 255")
        }
        Some(InputOp::Resize { .. } | InputOp::CenterCrop { .. } | InputOp::Layout { .. }) => {
            "pixels: height × width × channels".into()
        }
        _ => format!("numbers: {} {}", spec.dtype, sizes(spec)),
    }
}

fn sizes(spec: &TensorSpec) -> String {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Symbol(name) => name.clone(),
    };
    format!("[{}]", spec.shape.iter().map(size).collect::<Vec<_>>().join(", "))
}

/// A command that works as it stands, but for the file's name.
fn example(slot: &str, specs: &[TensorSpec], takes_image: &dyn Fn(&str) -> bool, host: &str) -> String {
    let url = format!("http://{host}/score/{slot}");
    match specs {
        [spec] if takes_image(&spec.name) => {
            format!("curl -H 'Content-Type: image/png' --data-binary @image.png {url}")
        }
        [spec] if elements(spec) > SMALL => {
            let shape: Vec<u64> = concrete(spec).collect();
            let make = format!("import numpy; numpy.save('input.npy', numpy.zeros({shape:?}, '{}'))", numpy_name(spec));
            format!("python3 -c \"{make}\" && curl --data-binary @input.npy {url}")
        }
        _ => {
            let one = |spec: &TensorSpec| (spec.name.clone(), zeros(spec, takes_image(&spec.name)));
            let body = Value::Object(specs.iter().map(one).collect());
            format!("curl -H 'Content-Type: application/json' -d '{body}' {url}")
        }
    }
}

/// A shape with 1 for each open size.
fn concrete(spec: &TensorSpec) -> impl DoubleEndedIterator<Item = u64> + '_ {
    spec.shape.iter().map(|dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(_) => 1,
    })
}

fn elements(spec: &TensorSpec) -> u64 {
    concrete(spec).fold(1, u64::saturating_mul)
}

fn zeros(spec: &TensorSpec, is_image: bool) -> Value {
    if is_image {
        return json!({"b64": "…"});
    }
    if elements(spec) > SMALL {
        return json!({"shape": concrete(spec).collect::<Vec<_>>(), "data": ["…"]});
    }
    let zero = if spec.dtype == muster_proto::manifest::Dtype::Bool { json!(false) } else { json!(0) };
    concrete(spec).rev().fold(zero, |inner, size| Value::Array(vec![inner; size as usize]))
}

/// NumPy's name of a dtype.
fn numpy_name(spec: &TensorSpec) -> String {
    let name = spec.dtype.name();
    let bits = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    match name.as_bytes().first() {
        Some(b'u') => format!("uint{bits}"),
        Some(b'i') => format!("int{bits}"),
        Some(b'f') => format!("float{bits}"),
        _ => name.to_owned(),
    }
}
