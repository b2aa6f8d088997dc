//! Names, labels and the rules that Kubernetes has for them.

use std::collections::BTreeMap;

use super::Error;
use crate::domain::service::{Revision, Service};

/// The label with the service's name, on everything that is its own; the Service selects pods by it.
pub const SERVICE: &str = "muster.dev/service";
/// The label with the workspace's name.
pub const WORKSPACE: &str = "muster.dev/workspace";
/// The label with the start of a revision's digest.
pub const REVISION: &str = "muster.dev/revision";
/// The label with the generation that an object was applied for. Never on a pod: it would restart them all.
pub const GENERATION: &str = "muster.dev/generation";
/// The label that tells who keeps an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The annotation with the digest of what was applied as a whole: what differs afterwards was changed by others.
pub const APPLIED: &str = "muster.dev/applied";

/// The longest name of a service: a revision's name adds a dash and ten characters, and 63 are allowed.
const MAX_NAME: usize = 52;
/// The longest name of a label's value, of a namespace and of most objects.
const MAX_LABEL: usize = 63;
/// So much of a digest makes a name.
const SHORT: usize = 10;

/// What a revision's label says.
pub fn short(revision: &Revision) -> &str {
    revision.digest.get(..SHORT).unwrap_or(&revision.digest)
}

/// The name of a revision's own objects.
pub fn of_revision(service: &Service, revision: &Revision) -> String {
    format!("{}-{}", service.name, short(revision))
}

/// What selects the pods of a service, for ever the same.
pub fn selector(service: &Service) -> BTreeMap<&'static str, String> {
    BTreeMap::from([(MANAGED_BY, super::MANAGER.to_owned()), (SERVICE, service.name.clone())])
}

/// The label selector, as a query, for all objects of a service.
pub fn query(service: &Service) -> String {
    format!("{MANAGED_BY}={},{SERVICE}={},{WORKSPACE}={}", super::MANAGER, service.name, service.workspace)
}

/// The labels of an object that all revisions share, without the generation.
pub fn labels(service: &Service) -> BTreeMap<&'static str, String> {
    let mut labels = selector(service);
    labels.insert("app.kubernetes.io/name", service.name.clone());
    labels.insert("app.kubernetes.io/component", "scoring".into());
    labels.insert("app.kubernetes.io/part-of", service.workspace.clone());
    labels.insert(WORKSPACE, service.workspace.clone());
    labels
}

/// The labels of a revision's objects and pods, without the generation.
pub fn revision_labels(service: &Service, revision: &Revision) -> BTreeMap<&'static str, String> {
    let mut labels = labels(service);
    labels.insert("app.kubernetes.io/version", revision.version.to_string());
    labels.insert(REVISION, short(revision).to_owned());
    labels
}

/// Refuses a service's name that Kubernetes would refuse, for the Service or for what is derived from it.
pub fn check_service(name: &str) -> Result<(), Error> {
    const RULE: &str = "1 to 52 lower-case letters, digits and dashes, a letter first and no dash at the end";
    let good = name.len() <= MAX_NAME && is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase());
    if good { Ok(()) } else { Err(refused("the service's name", name, RULE)) }
}

/// Refuses what is no DNS label, as namespaces and secrets of ours are.
pub fn check_label(what: &'static str, name: &str) -> Result<(), Error> {
    const RULE: &str = "1 to 63 lower-case letters, digits and dashes, no dash at either end";
    if name.len() <= MAX_LABEL && is_dns_label(name) { Ok(()) } else { Err(refused(what, name, RULE)) }
}

/// Refuses what is no DNS name, as secrets, gateways and hosts are.
pub fn check_dns(what: &'static str, name: &str) -> Result<(), Error> {
    const RULE: &str =
        "1 to 253 lower-case letters, digits, dashes and dots, each part with a letter or digit at either end";
    let good = name.len() <= 253 && name.split('.').all(|part| part.len() <= MAX_LABEL && is_dns_label(part));
    if good { Ok(()) } else { Err(refused(what, name, RULE)) }
}

/// Refuses what cannot be a label's value.
pub fn check_value(what: &'static str, value: &str) -> Result<(), Error> {
    const RULE: &str = "1 to 63 letters, digits, dashes, dots and underscores, a letter or digit at either end";
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let ends = |c: char| c.is_ascii_alphanumeric();
    let good = value.len() <= MAX_LABEL && value.chars().all(inner) && value.starts_with(ends) && value.ends_with(ends);
    if good { Ok(()) } else { Err(refused(what, value, RULE)) }
}

/// Refuses what cannot name a variable.
pub fn check_variable(name: &str) -> Result<(), Error> {
    const RULE: &str = "letters, digits and underscores, no digit first; names that start with MUSTER_ are taken";
    let good = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && !name.starts_with("MUSTER_");
    if good { Ok(()) } else { Err(refused("the variable", name, RULE)) }
}

fn is_dns_label(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.chars().all(|c| ends(c) || c == '-') && text.starts_with(ends) && text.ends_with(ends)
}

fn refused(what: &'static str, value: &str, rule: &'static str) -> Error {
    Error::Name { what, value: value.to_owned(), rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kubernetes_refuses_are_refused_here() {
        let long = "a".repeat(53);
        for (name, good) in [
            ("digits", true),
            ("a", true),
            ("digits-2", true),
            (&long[..52], true),
            (&long, false),
            ("", false),
            ("2digits", false),
            ("Digits", false),
            ("digits-", false),
            ("-digits", false),
            ("di_gits", false),
            ("di.gits", false),
            ("zähler", false),
        ] {
            assert_eq!(check_service(name).is_ok(), good, "{name:?}");
        }
        for (value, good) in [("vision", true), ("Vision_1.2", true), ("", false), ("_a", false), ("a b", false)] {
            assert_eq!(check_value("the workspace", value).is_ok(), good, "{value:?}");
        }
        for (name, good) in
            [("LOG", true), ("_a1", true), ("1a", false), ("a-b", false), ("MUSTER_X", false), ("", false)]
        {
            assert_eq!(check_variable(name).is_ok(), good, "{name:?}");
        }
    }
}
