//! What a container reads at its start: `serve.toml` from the ConfigMap, secrets from the Secret.

use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_agent::serve::{self, Document};
use serde_json::{Value, json};

use super::pod::{ADMIN_PORT, HTTP_PORT};
use crate::domain::service::{Revision, Service, Settings};

/// The folder of the configuration in a container.
pub const FOLDER: &str = "/etc/muster";
/// The folder of the bundle in an image of `muster image build`.
pub const BUNDLE: &str = "/bundle";
/// The folder of the secret files: one of its own, because a mount inside a read-only mount cannot be made.
pub const SECRETS: &str = "/run/secrets/muster";

/// What a scoring server is told of a service's settings.
pub fn bounds(settings: &Settings) -> muster_agent::api::Settings {
    muster_agent::api::Settings {
        concurrency: settings.concurrency as usize,
        queue: settings.queue as usize,
        queue_wait_ms: settings.queue_wait_ms,
        timeout_ms: settings.timeout_ms,
        body_bytes: usize::try_from(settings.body_bytes).unwrap_or(usize::MAX),
        per_key: 0,
        max_batch_size: settings.max_batch_size as usize,
        max_queue_delay_us: settings.max_queue_delay_us as usize,
    }
}

/// The text of `serve.toml`. It has no generation in it: a change that a container need not know restarts none.
pub fn serve_toml(service: &Service, revision: &Revision) -> String {
    let fetch = service.fetch.as_ref().filter(|_| revision.image.is_none());
    let model = serve::config::Model {
        version: Some(format!("{}:{}", revision.model, revision.version)),
        digest: revision.digest.parse().ok(),
        bundle: fetch.is_none().then(|| BUNDLE.into()),
        traffic: None,
    };
    let asked = serve::config::Service {
        // Names of services are names of slots.
        name: service.name.parse().expect("a checked name"),
        models: vec![model],
        keys: Default::default(),
        keys_file: service.settings.auth.then(|| format!("{SECRETS}/keys").into()),
        settings: bounds(&service.settings),
    };
    let document = Document {
        listen: (Ipv4Addr::UNSPECIFIED, HTTP_PORT).into(),
        admin: Some((Ipv4Addr::UNSPECIFIED, ADMIN_PORT).into()),
        trust_root: fetch.map(|_| format!("{FOLDER}/root.json").into()),
        dispatcher: fetch.map(|fetch| serve::config::Dispatcher {
            url: fetch.url.clone(),
            ca: (!fetch.ca.is_empty()).then(|| format!("{FOLDER}/ca.pem").into()),
            token: Some(format!("{SECRETS}/token").into()),
            cache: "/var/lib/muster".into(),
        }),
        services: vec![asked],
        ..Document::default()
    };
    toml::to_string(&document).expect("strings and whole numbers in tables can be written as TOML")
}

/// The files beside the secret ones, by name: `serve.toml`, and what a container that fetches its model starts from.
pub fn plain_files(service: &Service, revision: &Revision) -> Vec<(&'static str, String)> {
    let mut files = vec![("serve.toml", serve_toml(service, revision))];
    if let Some(fetch) = service.fetch.as_ref().filter(|_| revision.image.is_none()) {
        files.push(("root.json", fetch.trust_root.clone()));
        if !fetch.ca.is_empty() {
            files.push(("ca.pem", fetch.ca.clone()));
        }
    }
    files
}

/// The secret files by name. `keys` is always there, so that turning keys on changes no mount.
pub fn secret_files(service: &Service) -> Vec<(&'static str, String)> {
    let mut keys = service.settings.key_hashes.join("\n");
    keys.push('\n');
    let mut files = vec![("keys", keys)];
    if let Some(fetch) = &service.fetch {
        files.push(("token", fetch.token.0.clone()));
    }
    files
}

/// The ConfigMap of a revision.
pub fn config_map(service: &Service, revision: &Revision) -> Value {
    let files = plain_files(service, revision).into_iter();
    let data: Value =
        files.map(|(name, text)| (name.to_owned(), json!(text))).collect::<serde_json::Map<_, _>>().into();
    json!({ "data": data })
}

/// The Secret of a service. Pods see new content without a restart: its digest is in no pod template.
pub fn secret(service: &Service) -> Value {
    let files = secret_files(service).into_iter();
    let data: Value = files
        .map(|(name, text)| (name.to_owned(), json!(STANDARD.encode(text))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    json!({ "type": "Opaque", "data": data })
}
