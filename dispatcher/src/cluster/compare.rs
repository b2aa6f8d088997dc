//! Whether an object is still as it was applied: pure.
//!
//! Only what was applied counts. What the server or a webhook adds (defaults, a sidecar, an annotation) is no drift.

use serde_json::Value;

/// The path of the first field in which `live` is not what `wanted` asks for; none where all is as wanted.
pub fn difference(wanted: &Value, live: &Value) -> Option<String> {
    differ(wanted, live, "")
}

fn differ(wanted: &Value, live: &Value, at: &str) -> Option<String> {
    match (wanted, live) {
        (Value::Object(fields), Value::Object(there)) => fields.iter().find_map(|(name, field)| {
            let path = format!("{at}.{name}");
            match there.get(name) {
                Some(value) => differ(field, value, &path),
                // The server leaves empty lists and maps out.
                None => (!is_empty(field)).then_some(path),
            }
        }),
        (Value::Array(items), Value::Array(there)) => match key(items) {
            Some(key) => items.iter().find_map(|item| {
                let path = format!("{at}[{key}={}]", item[key]);
                match there.iter().find(|other| other[key] == item[key]) {
                    Some(other) => differ(item, other, &path),
                    None => Some(path),
                }
            }),
            None if items.len() != there.len() => Some(at.to_owned()),
            None => {
                items.iter().zip(there).enumerate().find_map(|(index, (a, b))| differ(a, b, &format!("{at}[{index}]")))
            }
        },
        (wanted, live) => (wanted != live).then(|| at.to_owned()),
    }
}

/// The field by which the items of a list are told apart, so that others may add theirs.
fn key(items: &[Value]) -> Option<&'static str> {
    ["name", "containerPort", "mountPath", "topologyKey"]
        .into_iter()
        .find(|key| !items.is_empty() && items.iter().all(|item| !item[*key].is_null()))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_applied_counts() {
        for (wanted, live, want) in [
            (json!({ "a": 1 }), json!({ "a": 1, "b": 2 }), None),
            (json!({ "a": 1 }), json!({ "a": 2 }), Some(".a")),
            (json!({ "a": { "b": "x" } }), json!({ "a": {} }), Some(".a.b")),
            (json!({ "a": [] }), json!({}), None),
            (json!({ "a": {} }), json!({ "a": { "defaulted": 1 } }), None),
            (json!({ "a": ["x"] }), json!({ "a": ["x", "y"] }), Some(".a")),
            (json!({ "a": [] }), json!({ "a": ["y"] }), Some(".a")),
            (json!([{ "name": "s", "v": 1 }]), json!([{ "name": "proxy" }, { "name": "s", "v": 1, "w": 2 }]), None),
            (json!([{ "name": "s", "v": 1 }]), json!([{ "name": "s", "v": 2 }]), Some("[name=\"s\"].v")),
            (json!([{ "name": "s" }]), json!([{ "name": "proxy" }]), Some("[name=\"s\"]")),
            (json!([{ "port": 80 }]), json!([{ "port": 80, "nodePort": 30000 }]), None),
            (json!([{ "port": 80 }]), json!([{ "port": 81 }]), Some("[0].port")),
        ] {
            assert_eq!(difference(&wanted, &live).as_deref(), want, "{wanted} {live}");
        }
    }
}
