//! The same service as files for other runtimes: pure functions, each with golden files.

mod aci;
mod compose;
mod iotedge;
mod rbac;
mod systemd;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use serde_json::Value;

pub use aci::{Aci, aci};
pub use compose::compose;
pub use iotedge::iotedge;
pub use rbac::rbac;
pub use systemd::systemd;

use super::plan::{check::check, plain_files, secret_files};
use super::{Error, plan};
use crate::domain::service::{Revision, Service};

/// A file to be written beside others; its path is relative.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where it belongs.
    pub path: String,
    /// What is in it.
    pub text: String,
    /// Whether only its owner may read it.
    pub secret: bool,
}

/// The service as Kubernetes YAML: what `kubectl apply` takes, and what is applied here.
pub fn kubernetes(service: &Service) -> Result<String, Error> {
    let objects = plan(service)?;
    Ok(objects.iter().map(|object| yaml_of(&object.value)).collect())
}

/// An object as a document of Kubernetes YAML.
pub fn yaml_of(value: &Value) -> String {
    format!("---\n{}", yaml(value))
}

fn yaml(value: &Value) -> String {
    let mut text = serde_saphyr::to_string(value).expect("JSON with text keys can be written as YAML");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The only revision of a service: what has no router cannot split requests.
fn only<'a>(service: &'a Service, runtime: &str) -> Result<&'a Revision, Error> {
    check(service)?;
    match service.revisions.as_slice() {
        [revision] => Ok(revision),
        _ => Err(Error::Service {
            service: service.name.clone(),
            reason: format!("{runtime} cannot split requests between versions; render one version"),
        }),
    }
}

/// The configuration and the secrets as files: `serve.toml`, `root.json`, `secrets/…`.
fn config_files(service: &Service, revision: &Revision) -> Vec<File> {
    let plain = |path: &str, text: String| File { path: path.into(), text, secret: false };
    let named = plain_files(service, revision).into_iter();
    let mut files: Vec<File> = named.map(|(name, text)| plain(name, text)).collect();
    let secrets = secret_files(service).into_iter();
    files.extend(secrets.map(|(name, text)| File { path: format!("secrets/{name}"), text, secret: true }));
    files
}

/// The image of a revision.
fn image<'a>(service: &'a Service, revision: &'a Revision) -> &'a str {
    revision.image.as_deref().unwrap_or(&plan::target(service).image)
}

/// What labels and tags say of a revision.
fn about(service: &Service, revision: &Revision) -> [(&'static str, String); 4] {
    [
        ("muster.dev/service", service.name.clone()),
        ("muster.dev/model", format!("{}:{}", revision.model, revision.version)),
        ("muster.dev/digest", revision.digest.clone()),
        ("muster.dev/generation", service.generation.to_string()),
    ]
}
