//! What a service is to be: a name, the versions that answer, and how.
//!
//! A service is a promise of one URL and one pair of keys, whatever versions answer behind it. It knows no cluster.

mod change;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use change::{Change, Refused, check_name, update};

/// What a service is to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, at most 52 characters.
    pub name: String,
    /// The workspace that it belongs to.
    pub workspace: String,
    /// Raised by every change.
    pub generation: u64,
    /// One or two: the stable version first, then the canary.
    pub revisions: Vec<Revision>,
    /// How it answers.
    pub settings: Settings,
    /// From where a container gets the model; none where the image holds it.
    pub fetch: Option<Fetch>,
    /// Where it runs.
    pub target: Target,
}

/// One version that answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// The model.
    pub model: String,
    /// Its version.
    pub version: u32,
    /// SHA-256 of the manifest, in hex.
    pub digest: String,
    /// Its share of the requests in percent; the shares of a service sum to 100.
    pub traffic: u8,
    /// An image that holds the model; none where the target's image fetches it.
    pub image: Option<String>,
    /// Bytes of memory, measured at registration.
    pub memory: Option<u64>,
}

/// How a service answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many containers.
    pub replicas: Replicas,
    /// Thousandths of a processor.
    pub cpu: Amount,
    /// Bytes; where nothing is asked for, what registration measured decides.
    pub memory: Option<Amount>,
    /// Requests that a container works on at once.
    pub concurrency: u32,
    /// Requests that may wait in a container.
    pub queue: u32,
    /// How many items of several requests are computed at once, where a container finds that faster; 0 for none. As many
    /// requests as that count as one of `concurrency`.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_batch_size: u32,
    /// How long the first request of a batch waits for others, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_queue_delay_us: u32,
    /// How long one may wait.
    pub queue_wait_ms: u64,
    /// How long one may take.
    pub timeout_ms: u64,
    /// Largest request, in bytes.
    pub body_bytes: u64,
    /// Whether a request needs a key.
    pub auth: bool,
    /// SHA-256 in hex of the primary and of the secondary key.
    pub key_hashes: Vec<String>,
    /// Variables of the container.
    pub env: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: Replicas::Auto { min: 1, max: 10, target: Load::Cpu(70) },
            cpu: Amount { request: 100, limit: None },
            memory: None,
            concurrency: 1,
            queue: 10,
            max_batch_size: 0,
            max_queue_delay_us: 0,
            queue_wait_ms: 500,
            timeout_ms: 60_000,
            body_bytes: 100_000_000,
            auth: true,
            key_hashes: Vec::new(),
            env: BTreeMap::new(),
        }
    }
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// How many containers answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replicas {
    /// Always so many.
    Fixed(u32),
    /// As many as the load needs.
    Auto {
        /// Never fewer.
        min: u32,
        /// Never more.
        max: u32,
        /// What load each one is to have.
        target: Load,
    },
}

/// The load that one container is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Percent of the processor time that was requested.
    Cpu(u32),
    /// Requests that wait in a container.
    Queue(u32),
}

/// What is reserved for a container, and what it may take at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Amount {
    /// What is reserved.
    pub request: u64,
    /// What it may take at most.
    pub limit: Option<u64>,
}

/// From where a container gets a model, by its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fetch {
    /// The dispatcher's HTTPS address.
    pub url: String,
    /// The authority that signed its certificate, as PEM; empty for those that the image knows.
    #[serde(default)]
    pub ca: String,
    /// The trust root that the container starts from: a TUF root as JSON.
    pub trust_root: String,
    /// What the dispatcher asks for.
    pub token: Hidden,
}

/// A text that no log and no message shows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Where a service runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A process beside the dispatcher.
    Local(Local),
    /// A cluster.
    Kubernetes(Box<Kubernetes>),
}

/// How a service runs beside the dispatcher.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Local {
    /// Its port on loopback; a free one where none is named, and the same ever after.
    pub port: Option<u16>,
}

/// How a service runs on a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// The context of the kubeconfig; none for its current one.
    pub context: Option<String>,
    /// The kubeconfig; none for `KUBECONFIG`, the home folder's, or the pod that this runs in.
    pub kubeconfig: Option<String>,
    /// The namespace, which has to exist.
    pub namespace: String,
    /// The image of a revision that names none: it holds the agent, which fetches the version from the dispatcher.
    pub image: String,
    /// When images are pulled.
    pub image_pull_policy: PullPolicy,
    /// The secret with the registry's password.
    pub pull_secret: Option<String>,
    /// How the service is reached.
    pub service_type: ServiceType,
    /// An HTTP route from outside.
    pub route: Option<Route>,
    /// The client id of an AKS workload identity.
    pub workload_identity: Option<String>,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that do not keep the pods away.
    pub tolerations: Vec<Toleration>,
    /// How pods are spread over nodes and zones.
    pub spread: Spread,
    /// Whether pods are closed to everything that scoring does not need.
    pub network_policy: bool,
    /// Whether pods carry the annotations that Prometheus looks for.
    pub prometheus: bool,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            context: None,
            kubeconfig: None,
            namespace: "default".into(),
            image: String::new(),
            image_pull_policy: PullPolicy::IfNotPresent,
            pull_secret: None,
            service_type: ServiceType::ClusterIp,
            route: None,
            workload_identity: None,
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            spread: Spread::Prefer,
            network_policy: true,
            prometheus: true,
        }
    }
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// Where the node does not have it.
    IfNotPresent,
    /// Never: it was imported.
    Never,
}

impl PullPolicy {
    /// The word that Kubernetes uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// How a service is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceType {
    /// From within the cluster.
    ClusterIp,
    /// By a port of each node.
    NodePort,
    /// By a load balancer of the cloud.
    LoadBalancer {
        /// Only from the virtual network (AKS).
        internal: bool,
        /// The subnet of an internal one.
        subnet: Option<String>,
    },
}

/// An HTTP route from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// An Ingress; a canary's share is by numbers of replicas.
    Ingress {
        /// The class; none for the cluster's default.
        class: Option<String>,
        /// The host name; none for all.
        host: Option<String>,
        /// The secret of its certificate.
        tls_secret: Option<String>,
        /// Annotations for its controller.
        annotations: BTreeMap<String, String>,
    },
    /// A route of the Gateway API; a canary's share is exact.
    Gateway {
        /// The gateway.
        name: String,
        /// Its namespace; none for the service's.
        namespace: Option<String>,
        /// Its listener; none for all.
        section: Option<String>,
        /// The host name; none for all.
        host: Option<String>,
    },
}

/// A taint that does not keep pods away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Toleration {
    /// The taint's key; none for all taints.
    pub key: Option<String>,
    /// The taint's value; none for any.
    pub value: Option<String>,
    /// The taint's effect; none for all.
    pub effect: Option<String>,
}

/// How pods are spread over nodes and zones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Not at all.
    Off,
    /// Where it can be done.
    Prefer,
    /// A pod that would stand beside too many others waits.
    Require,
}

/// How a service is, in Azure ML's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum State {
    /// All that is wanted answers.
    Healthy,
    /// On its way.
    Transitioning,
    /// It was deployed and does not answer.
    Unhealthy,
    /// There is no room for it.
    Unschedulable,
    /// It cannot come up as it is.
    Failed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "Healthy",
            Self::Transitioning => "Transitioning",
            Self::Unhealthy => "Unhealthy",
            Self::Unschedulable => "Unschedulable",
            Self::Failed => "Failed",
        })
    }
}
