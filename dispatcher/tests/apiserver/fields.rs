//! Ownership of fields, as server-side apply has it: sets of leaf paths, and their merge.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

/// A path of segments as `fieldsV1` writes them: `f:spec`, `k:{"name":"server"}`.
pub type Path = Vec<String>;
/// Who holds a field: manager, operation, subresource.
pub type Holder = (String, String, String);

/// The fields by which the items of a list are told apart; none for a list that is one value.
fn keys(field: &str, items: &[Value]) -> Option<&'static [&'static str]> {
    let has = |keys: &[&str]| items.iter().all(|item| keys.iter().all(|key| item.get(*key).is_some()));
    let keys: &'static [&'static str] = match field {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        "topologySpreadConstraints" => &["topologyKey", "whenUnsatisfiable"],
        "ports" if items.iter().any(|item| item.get("containerPort").is_some()) => &["containerPort", "protocol"],
        "ports" => &["port", "protocol"],
        _ => return None,
    };
    (!items.is_empty() && has(keys)).then_some(keys)
}

fn item_segment(keys: &[&str], item: &Value) -> String {
    let named: Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), item[*key].clone())).collect();
    format!("k:{}", Value::Object(named))
}

/// The leaves of an object that can be owned, with their values.
pub fn leaves(object: &Value) -> BTreeMap<Path, Value> {
    let mut all = BTreeMap::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                for part in ["labels", "annotations", "ownerReferences"] {
                    if let Some(value) = value.get(part) {
                        walk(value, part, vec!["f:metadata".into(), format!("f:{part}")], &mut all);
                    }
                }
            }
            _ => walk(value, name, vec![format!("f:{name}")], &mut all),
        }
    }
    all
}

fn walk(value: &Value, field: &str, path: Path, all: &mut BTreeMap<Path, Value>) {
    let with = |segment: String| [path.clone(), vec![segment]].concat();
    match value {
        // Selectors are replaced as a whole.
        Value::Object(fields) if !fields.is_empty() && !matches!(field, "selector" | "labelSelector") => {
            for (name, value) in fields {
                walk(value, name, with(format!("f:{name}")), all);
            }
        }
        Value::Array(items) => match keys(field, items) {
            Some(keys) => {
                for item in items {
                    let path = with(item_segment(keys, item));
                    walk(item, "", path, all);
                }
            }
            None => drop(all.insert(path, value.clone())),
        },
        other => drop(all.insert(path, other.clone())),
    }
}

/// Writes a leaf into an object, making what is missing on the way.
pub fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((segment, rest)) = path.split_first() else {
        *object = value;
        return;
    };
    if let Some(name) = segment.strip_prefix("f:") {
        if !object.is_object() {
            *object = json!({});
        }
        return set(&mut object[name], rest, value);
    }
    let wanted: Value = serde_json::from_str(&segment[2..]).expect("a key");
    if !object.is_array() {
        *object = json!([]);
    }
    let items = object.as_array_mut().expect("a list");
    let position = items.iter().position(|item| is_item(item, &wanted)).unwrap_or_else(|| {
        items.push(wanted);
        items.len() - 1
    });
    set(&mut items[position], rest, value);
}

/// Removes a leaf, and what is empty after it.
pub fn remove(object: &mut Value, path: &[String]) {
    let Some((segment, rest)) = path.split_first() else { return };
    if let Some(name) = segment.strip_prefix("f:") {
        let Some(fields) = object.as_object_mut() else { return };
        if let Some(inner) = fields.get_mut(name).filter(|_| !rest.is_empty()) {
            remove(inner, rest);
        }
        let is_empty =
            |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        if rest.is_empty() || fields.get(name).is_some_and(is_empty) {
            fields.remove(name);
        }
        return;
    }
    let wanted: Value = serde_json::from_str(&segment[2..]).expect("a key");
    if let Some(items) = object.as_array_mut() {
        if let Some(item) = items.iter_mut().find(|item| is_item(item, &wanted)) {
            remove(item, rest);
        }
        items.retain(|item| !item.as_object().is_some_and(Map::is_empty));
    }
}

fn is_item(item: &Value, wanted: &Value) -> bool {
    wanted.as_object().expect("a key").iter().all(|(key, value)| item.get(key) == Some(value))
}

/// A path as an error names it: `.spec.template.spec.containers[name="server"].image`.
pub fn shown(path: &[String]) -> String {
    let mut text = String::new();
    for segment in path {
        if let Some(name) = segment.strip_prefix("f:") {
            text.push_str(&format!(".{name}"));
        } else {
            let key: Value = serde_json::from_str(&segment[2..]).expect("a key");
            let parts: Vec<String> =
                key.as_object().expect("a key").iter().map(|(name, value)| format!("{name}={value}")).collect();
            text.push_str(&format!("[{}]", parts.join(",")));
        }
    }
    text
}

/// `metadata.managedFields` of these holders.
pub fn managed(holders: &BTreeMap<Holder, BTreeSet<Path>>, api_version: &str) -> Value {
    let entries = holders.iter().filter(|(_, paths)| !paths.is_empty()).map(|((manager, operation, subresource), paths)| {
        let mut tree = json!({});
        for path in paths {
            let mut at = &mut tree;
            for segment in path {
                at = at.as_object_mut().expect("a map").entry(segment.clone()).or_insert_with(|| json!({}));
            }
        }
        let mut entry = json!({
            "manager": manager, "operation": operation, "apiVersion": api_version, "fieldsType": "FieldsV1", "fieldsV1": tree,
        });
        if !subresource.is_empty() {
            entry["subresource"] = json!(subresource);
        }
        entry
    });
    entries.collect()
}
