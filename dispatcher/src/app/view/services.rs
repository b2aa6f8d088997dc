//! Services as others see them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use crate::domain::service::{Kubernetes, Local, Settings, State as ServiceState, Target};

/// A service as a document: a name, what answers, where, and how. As JSON, TOML or YAML it is the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "name": "digits", "model": "digits:1", "target": { "local": {} } }))]
pub struct ServiceDocument {
    /// The name, for ever: lower-case letters, digits and hyphens, at most 52.
    pub name: String,
    /// What answers: `NAME:VERSION`, or `NAME` for its newest version.
    pub model: String,
    /// The image that holds the version, for targets that run images; `muster image build` makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Where it runs.
    #[serde(default = "local")]
    pub target: Target,
    /// How it answers.
    #[serde(default)]
    pub settings: Settings,
}

fn local() -> Target {
    Target::Local(Local::default())
}

/// A change of a service; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(example = json!({ "model": "digits:2" }))]
pub struct ServiceUpdate {
    /// Another version: `NAME:VERSION`, or `NAME` for its newest one.
    pub model: Option<String>,
    /// The image that holds the other version, for targets that run images.
    pub image: Option<String>,
    /// The other version gets only so many percent of the requests at first.
    pub canary: Option<u8>,
    /// Other settings, as a whole; keys stay as they are.
    pub settings: Option<Settings>,
}

/// A version that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RevisionView {
    /// `NAME:VERSION`.
    pub model: String,
    /// The digest of its manifest.
    pub digest: String,
    /// The image that holds it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its share of the requests in percent.
    pub traffic: u8,
    /// Requests that it answered since it was loaded.
    pub answered: u64,
}

/// A service and how it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// How it is, in Azure ML's words: Transitioning, Healthy, Unhealthy, Unschedulable, Failed.
    pub state: ServiceState,
    /// Why; empty where there is nothing to say.
    pub reason: String,
    /// Since when it is so.
    pub since: u64,
    /// Where it answers; none while that is not known.
    pub url: Option<String>,
    /// Where the simple form of scoring is.
    pub scoring_url: Option<String>,
    /// What answers, or is to.
    pub revisions: Vec<RevisionView>,
    /// `NAME:VERSION` that a rollback goes back to, where there is no canary.
    pub before: Option<String>,
    /// Raised by every change.
    pub generation: u64,
    /// The generation that `state` is about.
    pub observed_generation: u64,
    /// How it answers; its keys' hashes are left out.
    pub settings: Settings,
    /// Where it runs.
    pub target: Target,
    /// What declares it and is to be changed in its place: `ModelService NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When it was made.
    pub created_at: u64,
    /// When it was last changed.
    pub updated_at: u64,
}

/// A form in which a service is written for another runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ServiceForm {
    /// Kubernetes YAML, for `kubectl apply`.
    Kubernetes,
    /// Azure Container Instances, for `az container create --file`.
    Aci,
    /// An Azure IoT Edge deployment manifest.
    IotEdge,
    /// A compose file, for Docker and podman.
    Compose,
    /// A systemd unit.
    Systemd,
}

/// A file of a rendered service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RenderedFile {
    /// Where it belongs, as a relative path.
    pub path: String,
    /// What is in it.
    pub text: String,
    /// Whether only its owner may read it.
    pub secret: bool,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceKeyView {
    /// `primary` or `secondary`.
    pub which: String,
    /// How it begins.
    pub prefix: String,
    /// When it was made.
    pub created_at: u64,
}

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhichKey {
    /// The primary.
    Primary,
    /// The secondary.
    Secondary,
}

/// A key that was just made. It is shown here and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MadeServiceKey {
    /// Which one.
    pub which: WhichKey,
    /// The key.
    pub key: String,
}

/// A service that was just made, and its keys, which are shown here and nowhere else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CreatedService {
    /// The service.
    pub service: ServiceView,
    /// Its keys; none where everybody may ask.
    pub keys: Vec<MadeServiceKey>,
}
