//! Tensors as JSON Schema.

use muster_proto::manifest::{Dim, Dtype, Hook, TensorSpec};
use serde_json::{Map, Value, json};

use super::super::find::Found;
use crate::engine::Model;

/// Which language a schema is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// JSON Schema 2020-12, as OpenAPI 3.1 has it.
    OpenApi3,
    /// Swagger 2.0, which knows no `null`.
    Swagger2,
}

/// Whether a scoring script decides what `/score` takes, or gives.
pub fn is_scripted((_, loaded): &Found, hook: Hook) -> bool {
    loaded.script.as_ref().is_some_and(|script| script.has(hook))
}

/// What a scoring script takes or gives: any JSON, for all that is known of it.
pub fn scripted(example: Option<&str>) -> Value {
    let mut schema = json!({"description": "What the model's scoring script takes or gives."});
    if let Some(example) = example.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        schema["example"] = example;
    }
    schema
}

/// Whether a model takes a batch of nothing: all its inputs and outputs begin with the same open size.
pub fn takes_nothing(model: &Model) -> bool {
    let first = |spec: &TensorSpec| match spec.shape.first() {
        Some(Dim::Symbol(name)) => Some(name.clone()),
        _ => None,
    };
    let batch = model.inputs().first().and_then(first);
    batch.is_some() && model.inputs().iter().chain(model.outputs()).all(|spec| first(spec) == batch)
}

/// Arrays nested like the shape of `spec`, as answers have them.
pub fn nested(spec: &TensorSpec, dialect: Dialect) -> Value {
    arrays(&spec.shape, element(spec.dtype, dialect), None)
}

/// Arrays nested like the shape of `spec`, as a model takes them; `least` bounds an open first size.
pub fn taken(spec: &TensorSpec, dialect: Dialect, least: u64) -> Value {
    let Some((first, rest)) = spec.shape.split_first() else { return element(spec.dtype, dialect) };
    let rest = arrays(rest, element(spec.dtype, dialect), Some(1));
    arrays(std::slice::from_ref(first), rest, Some(least))
}

/// One item of `spec`: without the first dimension.
pub fn item(spec: &TensorSpec, dialect: Dialect) -> Value {
    arrays(spec.shape.get(1..).unwrap_or_default(), element(spec.dtype, dialect), Some(1))
}

/// One item of an answer's tensor.
pub fn answered_item(spec: &TensorSpec, dialect: Dialect) -> Value {
    arrays(spec.shape.get(1..).unwrap_or_default(), element(spec.dtype, dialect), None)
}

/// A list with an `item` for each of the first dimension of `specs`; `least` bounds an open size.
pub fn list(specs: &[TensorSpec], item: Value, least: u64) -> Value {
    let fixed = specs.iter().find_map(|spec| match spec.shape.first() {
        Some(Dim::Fixed(size)) => Some(Dim::Fixed(*size)),
        _ => None,
    });
    arrays(&[fixed.unwrap_or(Dim::Symbol(String::new()))], item, Some(least))
}

/// All elements of a request's tensor in one array. Where a size is open, `shape` says how many these have to be, for
/// which JSON Schema has no word.
pub fn flat(spec: &TensorSpec, least: u64) -> Value {
    let mut schema = json!({"type": "array", "items": element(spec.dtype, Dialect::OpenApi3)});
    match elements(&spec.shape) {
        Some(count) => (schema["minItems"], schema["maxItems"]) = (count.into(), count.into()),
        None => schema["minItems"] = least.min(1).into(),
    }
    schema
}

/// How many elements a shape without open sizes has.
pub fn elements(shape: &[Dim]) -> Option<u64> {
    shape.iter().try_fold(1u64, |product, dim| match dim {
        Dim::Fixed(size) => product.checked_mul(*size),
        Dim::Symbol(_) => None,
    })
}

/// The sizes of a request's tensor; `least` bounds an open first size.
pub fn shape(spec: &TensorSpec, least: u64) -> Value {
    let size = |(place, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => json!({"const": size}),
        Dim::Symbol(name) => json!({"type": "integer", "minimum": if place == 0 { least } else { 1 }, "title": name}),
    };
    let rank = spec.shape.len();
    let mut schema = json!({"type": "array", "minItems": rank, "maxItems": rank});
    if rank > 0 {
        schema["prefixItems"] = spec.shape.iter().enumerate().map(size).collect();
    }
    schema
}

/// The sizes of an answer's tensor.
pub fn answered_shape(spec: &TensorSpec) -> Value {
    // Without `prefixItems`, which Schemathesis 4.32 does not read in answers.
    let rank = spec.shape.len();
    json!({"type": "array", "minItems": rank, "maxItems": rank, "items": {"type": "integer", "minimum": 0}})
}

/// Arrays of these sizes around `element`; `least` bounds open ones.
pub fn arrays(shape: &[Dim], element: Value, least: Option<u64>) -> Value {
    shape.iter().rev().fold(element, |inner, dim| match (dim, least) {
        (Dim::Fixed(size), _) => json!({"type": "array", "items": inner, "minItems": size, "maxItems": size}),
        (Dim::Symbol(_), Some(least)) if least > 0 => json!({"type": "array", "items": inner, "minItems": least}),
        (Dim::Symbol(_), _) => json!({"type": "array", "items": inner}),
    })
}

/// An object with these members, all of which are there.
pub fn record<const N: usize>(members: [(&str, Value); N]) -> Value {
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let properties = Map::from_iter(members.map(|(name, schema)| (name.to_owned(), schema)));
    json!({"type": "object", "required": names, "properties": properties})
}

/// An object with a member for each of `specs`.
pub fn of_each(specs: &[TensorSpec], one: impl Fn(&TensorSpec) -> Value) -> Value {
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let properties: Map<String, Value> = specs.iter().map(|spec| (spec.name.clone(), one(spec))).collect();
    json!({"type": "object", "required": names, "properties": properties})
}

/// `schema`, which takes no other members.
pub fn closed(mut schema: Value) -> Value {
    schema["additionalProperties"] = false.into();
    schema
}

/// `schema`, or null.
pub fn or_null(schema: Value) -> Value {
    // A list of types would say the same, but not every tool takes one.
    json!({"anyOf": [schema, {"type": "null"}]})
}

/// One number or truth value.
pub fn element(dtype: Dtype, dialect: Dialect) -> Value {
    let whole = |low: Value, high: Value| json!({"type": "integer", "minimum": low, "maximum": high});
    let float = |format: &str, most: f64| {
        let mut schema = json!({"type": "number", "format": format, "minimum": -most, "maximum": most});
        match dialect {
            Dialect::OpenApi3 => or_null(schema),
            Dialect::Swagger2 => {
                schema["x-nullable"] = json!(true);
                schema
            }
        }
    };
    match dtype {
        Dtype::Bool => json!({"type": "boolean"}),
        Dtype::U8 => whole(0.into(), u8::MAX.into()),
        Dtype::U16 => whole(0.into(), u16::MAX.into()),
        Dtype::U32 => whole(0.into(), u32::MAX.into()),
        Dtype::U64 => whole(0.into(), u64::MAX.into()),
        Dtype::I8 => whole(i8::MIN.into(), i8::MAX.into()),
        Dtype::I16 => whole(i16::MIN.into(), i16::MAX.into()),
        Dtype::I32 => whole(i32::MIN.into(), i32::MAX.into()),
        Dtype::I64 => whole(i64::MIN.into(), i64::MAX.into()),
        // As a validator's f64 has it.
        Dtype::F16 => float("float", 65504.0),
        // As it is written: the shortest text that is read back as f32's largest, which is a little more.
        Dtype::F32 => float("float", 3.4028235e38),
        Dtype::F64 => float("double", f64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_become_nested_arrays() {
        let spec =
            TensorSpec { name: "x".into(), dtype: Dtype::U8, shape: vec![Dim::Symbol("N".into()), Dim::Fixed(3)] };
        let number = json!({"type": "integer", "minimum": 0, "maximum": 255});
        let row = json!({"type": "array", "items": number, "minItems": 3, "maxItems": 3});
        assert_eq!(item(&spec, Dialect::OpenApi3), row);
        assert_eq!(nested(&spec, Dialect::OpenApi3), json!({"type": "array", "items": row}));
        assert_eq!(taken(&spec, Dialect::OpenApi3, 1), json!({"type": "array", "items": row, "minItems": 1}));
        assert_eq!(taken(&spec, Dialect::OpenApi3, 0), json!({"type": "array", "items": row}));
        let float = TensorSpec { dtype: Dtype::F32, shape: Vec::new(), ..spec };
        assert_eq!(nested(&float, Dialect::OpenApi3)["anyOf"][1], json!({"type": "null"}));
        assert_eq!(nested(&float, Dialect::Swagger2)["type"], "number");
    }
}
