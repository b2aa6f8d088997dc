//! The registry's rules: which number new content gets, what may be deleted, what a filter means.

use std::collections::BTreeMap;

use muster_proto::id::{Digest, ModelName, Version};

use super::fleet::Fleet;

/// The most tags or properties of one version.
pub const MAX_LABELS: usize = 64;
/// The longest name or value of a tag, property or label, in bytes.
pub const MAX_LABEL_BYTES: usize = 256;

/// Where content stands in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// It is new and becomes this version.
    New(Version),
    /// It is registered already, as this version.
    Same(Version),
}

/// Places content in a model whose last number ever given is `last` (0 if none) and that now has `existing`
/// versions. Numbers grow by one and are never given again, not even after a deletion.
pub fn place(last: u64, existing: &[(Version, Digest)], content: Digest) -> Placement {
    match existing.iter().rev().find(|(_, digest)| *digest == content) {
        Some((version, _)) => Placement::Same(*version),
        None => Placement::New(Version(last.saturating_add(1))),
    }
}

/// What stands against deleting the version with manifest `digest`; nothing where it may go.
pub fn deletion_blockers(fleet: &Fleet, digest: Digest) -> Vec<String> {
    fleet.desires(digest)
}

/// Whether `pattern` names `model`: its name, or with a trailing `*` how it begins.
pub fn name_matches(pattern: &str, model: &ModelName) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => model.as_str().starts_with(beginning),
        None => model.as_str() == pattern,
    }
}

/// Whether names and values of tags, properties or labels are within bounds; the text says what is not.
pub fn check_labels(kind: &str, labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > MAX_LABELS {
        return Err(format!("{} {kind}s are more than the {MAX_LABELS} that are allowed", labels.len()));
    }
    for (key, value) in labels {
        let key_ok = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "-_./:".contains(c));
        if !key_ok || key.len() > MAX_LABEL_BYTES {
            return Err(format!(
                "{kind} {key:?} needs a name of 1 to {MAX_LABEL_BYTES} bytes of letters, digits, '-', '_', '.', '/' or ':'"
            ));
        }
        if value.len() > MAX_LABEL_BYTES || value.chars().any(char::is_control) {
            return Err(format!(
                "{kind} {key:?} has a value that is longer than {MAX_LABEL_BYTES} bytes or holds control characters"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_by_one_and_the_same_content_keeps_its_own() {
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        let existing = [(Version(1), a), (Version(3), b)];
        assert_eq!(place(0, &[], a), Placement::New(Version(1)));
        assert_eq!(place(3, &existing, a), Placement::Same(Version(1)));
        assert_eq!(place(3, &existing, c), Placement::New(Version(4)));
        // Version 5 was deleted: its number stays used.
        assert_eq!(place(5, &existing, c), Placement::New(Version(6)));
    }

    #[test]
    fn patterns_match_names_and_beginnings() {
        let model: ModelName = "vision/digits".parse().expect("valid");
        for (pattern, want) in
            [("vision/digits", true), ("vision", false), ("vision/*", true), ("*", true), ("a*", false)]
        {
            assert_eq!(name_matches(pattern, &model), want, "{pattern}");
        }
    }

    #[test]
    fn labels_out_of_bounds_are_refused() {
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        assert!(check_labels("tag", &one("stage", "prod")).is_ok());
        for (key, value) in [("", "x"), ("a b", "x"), ("a", "\n"), ("a", &"x".repeat(257))] {
            assert!(check_labels("tag", &one(key, value)).is_err(), "{key:?}={value:?} was accepted");
        }
    }
}
