//! Lists of rows as JSON Schema, as KServe's first protocol, MLflow's and Azure ML's have them: arrays for the only
//! input, or objects with a value for each input.

use muster_proto::manifest::{Dim, Dtype, TensorSpec};
use serde_json::{Value, json};

use super::super::find::Found;
use super::schema::{self, Dialect, closed, or_null, record};

const DIALECT: Dialect = Dialect::OpenApi3;
/// Forms of MLflow's JSON, of which a body has one.
const FORMS: [&str; 4] = ["dataframe_split", "dataframe_records", "instances", "inputs"];
/// Tables of more columns are described in words alone.
const COLUMNS: u64 = 1024;

/// What may stand in an object that is a row, besides the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nothing.
    Refused,
    /// Anything, which is passed over.
    Ignored,
}

/// How few rows a model takes, where it does not fix their number.
pub fn least((_, loaded): &Found) -> u64 {
    if schema::takes_nothing(&loaded.model) { 0 } else { 1 }
}

/// A list of rows.
pub fn rows(found: &Found, others: Others) -> Value {
    let specs = found.1.model.inputs();
    let objects = records(found, others);
    match specs {
        [spec] => json!({"anyOf": [schema::list(specs, schema::item(spec, DIALECT), least(found)), objects]}),
        _ => objects,
    }
}

/// A list of rows that are objects. The first one names the columns, so there is one.
fn records(found: &Found, others: Others) -> Value {
    let specs = found.1.model.inputs();
    let row = schema::of_each(specs, |spec| schema::item(spec, DIALECT));
    schema::list(specs, if others == Others::Refused { closed(row) } else { row }, 1)
}

/// All rows at once: the only input, or an object of the inputs.
pub fn columns(found: &Found, others: Others) -> Value {
    let (specs, least) = (found.1.model.inputs(), least(found));
    let object = schema::of_each(specs, |spec| schema::taken(spec, DIALECT, least));
    let object = if others == Others::Refused { closed(object) } else { object };
    match specs {
        [spec] => json!({"anyOf": [schema::taken(spec, DIALECT, least), object]}),
        _ => object,
    }
}

/// The body of KServe's first protocol.
pub fn kserve(found: &Found) -> Value {
    let null = || json!({"type": "null"});
    let mut instances = record([("instances", rows(found, Others::Refused))]);
    instances["properties"]["inputs"] = null();
    let all = columns(found, Others::Refused);
    // Some callers write rows here as well.
    let mut inputs = record([("inputs", json!({"anyOf": [all, records(found, Others::Refused)]}))]);
    inputs["properties"]["instances"] = null();
    json!({"anyOf": [instances, inputs]})
}

/// MLflow's JSON: one of its forms, and `params`.
pub fn mlflow(found: &Found) -> Value {
    let form = |name: &str, schema: Value| {
        let mut form = record([(name, schema)]);
        for other in FORMS.iter().filter(|other| **other != name) {
            form["properties"][*other] = json!({"type": "null"});
        }
        form["properties"]["params"] = or_null(json!({"type": "object"}));
        form["properties"]["signature_name"] = json!({"type": "null"});
        form
    };
    let forms = json!([
        form("dataframe_split", split(found)),
        form("dataframe_records", records(found, Others::Ignored)),
        form("instances", rows(found, Others::Ignored)),
        form("inputs", columns(found, Others::Ignored)),
    ]);
    json!({"anyOf": forms})
}

/// A data frame as pandas writes it with `orient="split"`; without columns it is a list of rows.
fn split(found: &Found) -> Value {
    let specs = found.1.model.inputs();
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let cells: Vec<Value> = specs.iter().map(|spec| schema::item(spec, DIALECT)).collect();
    let row = json!({"type": "array", "prefixItems": cells, "minItems": cells.len(), "maxItems": cells.len()});
    let frame = schema::list(specs, row, least(found));
    let mut named = record([("columns", json!({"const": names})), ("data", frame.clone())]);
    named["properties"]["index"] = json!({});
    let data = if specs.len() == 1 {
        json!({"anyOf": [rows(found, Others::Ignored), frame]})
    } else {
        rows(found, Others::Ignored)
    };
    let mut bare = record([("data", data)]);
    bare["properties"]["columns"] = json!({"type": "null"});
    json!({"anyOf": [named, bare]})
}

/// Comma-separated values; none where no table of numbers fills the inputs.
pub fn csv(found: &Found) -> Option<Value> {
    let specs = found.1.model.inputs();
    let description = "A header row with the columns' names, then rows of numbers; empty and NA are missing values. \
        Columns that are called as the inputs may stand in any order and among others; else all of them together are the \
        model's one input, in its order, under any names.";
    let size = |spec: &TensorSpec| schema::elements(spec.shape.get(1..)?);
    let (names, dtypes): (Vec<String>, Vec<Dtype>) = match specs {
        [spec] if size(spec).is_none() && spec.shape.len() > 1 => {
            return Some(json!({"type": "string", "description": description}));
        }
        [spec] if size(spec)? != 1 => {
            let columns = size(spec)?;
            if columns > COLUMNS {
                return Some(json!({"type": "string", "description": description}));
            }
            // As pandas calls columns that have no names.
            ((0..columns).map(|column| column.to_string()).collect(), vec![spec.dtype; columns as usize])
        }
        specs if specs.iter().all(|spec| size(spec) == Some(1) && is_plain(&spec.name)) => {
            specs.iter().map(|spec| (spec.name.clone(), spec.dtype)).unzip()
        }
        _ => return None,
    };
    let row = dtypes.chunk_by(|a, b| a == b).map(|alike| match alike {
        [one] => cell(*one),
        [one, rest @ ..] => {
            let cell = cell(*one)?;
            Some(format!("{cell}(,{cell}){{{}}}", rest.len()))
        }
        [] => None,
    });
    let row = row.collect::<Option<Vec<String>>>()?.join(",");
    let fixed = specs.iter().find_map(|spec| match spec.shape.first() {
        Some(Dim::Fixed(rows)) => Some(format!("{{{rows}}}")),
        _ => None,
    });
    let times = fixed.unwrap_or_else(|| if least(found) == 0 { "*".into() } else { "+".into() });
    let pattern = format!("^{}(\\n{row}){times}\\n?$", names.join(",").replace('.', "\\."));
    Some(json!({"type": "string", "pattern": pattern, "description": description}))
}

/// Whether a name is itself in CSV and in a pattern.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '/'))
}

/// Numbers that every value of a type has room for; more are read.
fn cell(dtype: Dtype) -> Option<String> {
    let cell = match dtype {
        Dtype::Bool => "(true|false)",
        Dtype::U8 => "[0-9]{1,2}",
        Dtype::U16 => "[0-9]{1,4}",
        Dtype::U32 => "[0-9]{1,9}",
        Dtype::U64 => "[0-9]{1,19}",
        Dtype::I8 => "-?[0-9]{1,2}",
        Dtype::I16 => "-?[0-9]{1,4}",
        Dtype::I32 => "-?[0-9]{1,9}",
        Dtype::I64 => "-?[0-9]{1,18}",
        Dtype::F16 => return None,
        Dtype::F32 | Dtype::F64 => "(-?[0-9]{1,9}(\\.[0-9]{1,9})?|NA)",
    };
    Some(cell.to_owned())
}
