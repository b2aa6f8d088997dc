//! Why a cluster does not do what it is asked: each with a stable code and what a person does next.

use std::fmt;

/// A field that another manager holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The manager, with its version where the server says it.
    pub manager: String,
    /// The field's path.
    pub field: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.field, self.manager)
    }
}

/// Why a cluster does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name breaks a rule of Kubernetes; a retry cannot help.
    #[error("{what} {value:?} is refused: {rule}")]
    Name {
        /// What it names.
        what: &'static str,
        /// The name.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// The service contradicts itself; a retry cannot help.
    #[error("the service {service:?} cannot be planned: {reason}")]
    Service {
        /// The service.
        service: String,
        /// What is wrong.
        reason: String,
    },
    /// The kubeconfig, its context or the pod's own account cannot be used; a retry cannot help.
    #[error("the cluster's credentials cannot be used: {reason}")]
    Credentials {
        /// What is wrong.
        reason: String,
    },
    /// The cluster does not answer; a retry may help.
    #[error("the cluster does not answer: {reason}")]
    Away {
        /// What was seen.
        reason: String,
    },
    /// The server does not know who asks; a retry cannot help before the credentials are renewed.
    #[error("the cluster does not accept the credentials: {message}")]
    Unauthorized {
        /// The server's words.
        message: String,
    },
    /// A right is missing; a retry cannot help.
    #[error("rights are missing for {subject}: {message}")]
    Forbidden {
        /// What was asked for.
        subject: String,
        /// The server's words.
        message: String,
    },
    /// A quota is used up; a retry helps once there is room.
    #[error("a quota leaves no room for {subject}: {message}")]
    Quota {
        /// What was asked for.
        subject: String,
        /// The server's words.
        message: String,
    },
    /// The namespace or a kind is not there; a retry cannot help.
    #[error("{subject} cannot be had: {message}")]
    Missing {
        /// What was asked for.
        subject: String,
        /// The server's words.
        message: String,
    },
    /// Another manager holds fields that the service wants; a retry cannot help.
    #[error("{subject} is held by others: {}", list(.fields))]
    Conflict {
        /// The object.
        subject: String,
        /// Who holds what.
        fields: Vec<Conflict>,
    },
    /// An object of that name belongs to somebody else; a retry cannot help.
    #[error("{subject} exists and is not this service's: it is {owner}")]
    Taken {
        /// The object.
        subject: String,
        /// Whose it seems to be.
        owner: String,
    },
    /// The server refuses the object; a retry cannot help.
    #[error("the cluster refuses {subject}: {message}")]
    Refused {
        /// The object.
        subject: String,
        /// The server's words.
        message: String,
    },
    /// The server is too busy or failed; a retry may help.
    #[error("the cluster could not do {subject} ({code}): {message}")]
    Server {
        /// The object.
        subject: String,
        /// The HTTP status.
        code: u16,
        /// The server's words.
        message: String,
    },
    /// The server's answer cannot be read; a retry cannot help.
    #[error("the cluster's answer for {subject} cannot be read")]
    Unreadable {
        /// What was asked for.
        subject: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn list(fields: &[Conflict]) -> String {
    let mut texts: Vec<String> = fields.iter().take(5).map(ToString::to_string).collect();
    if fields.len() > texts.len() {
        texts.push(format!("and {} more", fields.len() - texts.len()));
    }
    texts.join(", ")
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "cluster_name_refused",
            Self::Service { .. } => "cluster_service_invalid",
            Self::Credentials { .. } => "cluster_credentials_invalid",
            Self::Away { .. } => "cluster_away",
            Self::Unauthorized { .. } => "cluster_unauthorized",
            Self::Forbidden { .. } => "cluster_forbidden",
            Self::Quota { .. } => "cluster_quota",
            Self::Missing { .. } => "cluster_missing",
            Self::Conflict { .. } => "cluster_conflict",
            Self::Taken { .. } => "cluster_name_taken",
            Self::Refused { .. } => "cluster_refused",
            Self::Server { .. } => "cluster_failed",
            Self::Unreadable { .. } => "cluster_unreadable",
        }
    }

    /// What a person does next.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Name { .. } => "choose another name",
            Self::Service { .. } => "correct the service's settings and deploy it again",
            Self::Credentials { .. } => {
                "check the kubeconfig, its context, and that its login plugin runs without a person"
            }
            Self::Away { .. } => {
                "check that the cluster runs and can be reached from here with `kubectl version`; it is tried again by itself"
            }
            Self::Unauthorized { .. } => {
                "log in again (for AKS: `az aks get-credentials`, `kubelogin convert-kubeconfig`)"
            }
            Self::Forbidden { .. } => {
                "apply the RBAC manifest for this namespace, or ask who runs the cluster to do it"
            }
            Self::Quota { .. } => {
                "lower the replicas or the requests, or ask for a larger quota; it is tried again by itself"
            }
            Self::Missing { .. } => {
                "create the namespace, or install what defines the kind (the Gateway API for a gateway route)"
            }
            Self::Conflict { .. } => "let the other manager give the fields up, or deploy with `--force-conflicts`",
            Self::Taken { .. } => "choose another name or namespace, or delete the object",
            Self::Refused { .. } => "change what the message names",
            Self::Server { .. } => "nothing: it is tried again by itself",
            Self::Unreadable { .. } => "check that the address is a Kubernetes API server",
        }
    }

    /// Whether the same call may work later without anybody's doing.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Quota { .. } | Self::Server { .. })
    }
}
