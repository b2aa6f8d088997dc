//! Tensors as JSON Schema.

use muster_proto::manifest::{Dim, Dtype, TensorSpec};
use serde_json::{Value, json};

/// Which language a schema is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// JSON Schema 2020-12, as OpenAPI 3.1 has it.
    OpenApi3,
    /// Swagger 2.0, which knows no `null`.
    Swagger2,
}

/// Arrays nested like the shape of `spec`.
pub fn nested(spec: &TensorSpec, dialect: Dialect) -> Value {
    arrays(&spec.shape, element(spec.dtype, dialect))
}

/// One item of `spec`: without the first dimension.
pub fn item(spec: &TensorSpec, dialect: Dialect) -> Value {
    arrays(spec.shape.get(1..).unwrap_or_default(), element(spec.dtype, dialect))
}

/// All elements in one array.
pub fn flat(spec: &TensorSpec) -> Value {
    json!({"type": "array", "items": element(spec.dtype, Dialect::OpenApi3)})
}

/// The sizes of a request's tensor.
pub fn shape(spec: &TensorSpec) -> Value {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => json!({"const": size}),
        Dim::Symbol(name) => json!({"type": "integer", "minimum": 0, "title": name}),
    };
    let rank = spec.shape.len();
    let mut schema = json!({"type": "array", "minItems": rank, "maxItems": rank});
    if rank > 0 {
        schema["prefixItems"] = spec.shape.iter().map(size).collect();
    }
    schema
}

fn arrays(shape: &[Dim], element: Value) -> Value {
    shape.iter().rev().fold(element, |inner, dim| match dim {
        Dim::Fixed(size) => json!({"type": "array", "items": inner, "minItems": size, "maxItems": size}),
        Dim::Symbol(_) => json!({"type": "array", "items": inner}),
    })
}

fn element(dtype: Dtype, dialect: Dialect) -> Value {
    let whole = |low: Value, high: Value| json!({"type": "integer", "minimum": low, "maximum": high});
    let float = |format: &str, most: f64| {
        let mut schema = json!({"type": "number", "format": format, "minimum": -most, "maximum": most});
        match dialect {
            // A list of types would say the same, but not every tool takes one.
            Dialect::OpenApi3 => json!({"anyOf": [schema, {"type": "null"}]}),
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
        Dtype::F32 => float("float", f64::from(f32::MAX)),
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
        let float = TensorSpec { dtype: Dtype::F32, shape: Vec::new(), ..spec };
        assert_eq!(nested(&float, Dialect::OpenApi3)["anyOf"][1], json!({"type": "null"}));
        assert_eq!(nested(&float, Dialect::Swagger2)["type"], "number");
    }
}
