use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::document;
use super::problem::Problem;

/// Every operation as (method, path, itself).
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of = |(path, item): (&String, &Value)| {
        let item = item.as_object().expect("an item").clone();
        item.into_iter().map(|(method, operation)| (method, path.clone(), operation)).collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

#[test]
fn the_document_is_what_is_checked_in() {
    let text = serde_json::to_string_pretty(&document()).expect("JSON");
    crate::golden::compare("openapi.json", &format!("{text}\n"));
}

#[test]
fn every_operation_is_named_described_and_answers_problems() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().expect("an operation id").to_owned();
        assert!(ids.insert(id.clone()), "{id} stands twice");
        assert!(operation["summary"].is_string(), "{id} has no summary");
        let responses = operation["responses"].as_object().expect("responses");
        assert!(responses.keys().any(|status| status.starts_with('2')), "{id} never succeeds");
        let guarded = operation["security"].is_array();
        let public = id == "enroll" || path == "/ca.pem" || path.starts_with("/health/");
        assert_eq!(guarded, !public, "{id}: invariant 14");
        assert_eq!(responses.contains_key("401"), guarded || id == "enroll", "{id}");
        let changes = !matches!(method.as_str(), "get" | "head") || path.starts_with("/v1/uploads");
        assert_eq!(responses.contains_key("403"), changes && guarded, "{id}: viewers read, others change");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{id}: {} has no description", parameter["name"]);
        }
    }
    assert!(ids.len() > 30);
}

#[test]
fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|inner| references(inner, found));
            }
            Value::Array(list) => list.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a reference into the document");
        assert_ne!(document.pointer(pointer).unwrap_or(&json!(null)), &json!(null), "{reference} leads nowhere");
    }
}

#[test]
fn a_full_disk_is_told_with_what_to_do_about_it() {
    let cause = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let digest = muster_proto::id::Digest::of(b"");
    let stored = crate::blobs::Error::Store { action: "write", digest, source: Box::new(cause) };
    let problem = Problem::from(crate::app::Error::from(stored));
    assert_eq!((problem.status, problem.code.name()), (507, "disk_full"));
    assert!(problem.detail.contains("disk is full") && problem.next.contains("free some space"), "{problem:?}");
}
