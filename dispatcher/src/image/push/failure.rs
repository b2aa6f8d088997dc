//! What a registry's refusal means, and what to do about it.

use std::error::Error as _;

use oci_client::errors::{OciDistributionError, OciErrorCode};

/// Why a registry did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The name leads nowhere.
    #[error("there is no registry {0}: the name has no address; look for a slip in it")]
    UnknownHost(String),
    /// Nobody answers.
    #[error("no registry answers at {0}; is it running, and does a firewall or a proxy stand between?")]
    Unreachable(String),
    /// It speaks HTTP.
    #[error("{0} does not speak TLS; if it may be trusted as it is, say --insecure-http")]
    NoTls(String),
    /// Its certificate is of no authority that is trusted here.
    #[error("the certificate of {0} is not trusted here: {1}; give its authority with --ca FILE")]
    Certificate(String, String),
    /// It wants to know who we are.
    #[error(
        "{0} asks for a login; give --username NAME with the password in MUSTER_REGISTRY_PASSWORD, \
         or use `docker login {0}` or `podman login {0}` first"
    )]
    Login(String),
    /// It does not believe us.
    #[error("{0} does not accept the login; look for an old password or token")]
    WrongLogin(String),
    /// We may not write there.
    #[error(
        "{registry} does not allow this login to push to {repository}; ask for the right to push (on Azure: AcrPush)"
    )]
    Forbidden {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
    },
    /// The repository has to be made first, or the registry is somewhere else.
    #[error("{registry} has no place {repository}; make it first, or look for a slip in the name")]
    NoRepository {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
    },
    /// It says that there were too many requests.
    #[error("{0} has had too many requests; try again in some minutes")]
    TooMany(String),
    /// A layer is too large for it.
    #[error("{0} takes no blob of this size; ask its administrator for a higher limit")]
    TooLarge(String),
    /// It is not well.
    #[error("{registry} is not well: it answered {code}; try again later")]
    Unwell {
        /// The registry.
        registry: String,
        /// The status.
        code: u16,
    },
    /// It says no.
    #[error("{registry} answered {code}: {message}")]
    Refused {
        /// The registry.
        registry: String,
        /// The status.
        code: u16,
        /// What it said.
        message: String,
    },
    /// The connection broke.
    #[error("the connection to {0} broke; try again, what it has is not sent twice")]
    Broken(String),
    /// It does not behave as a registry.
    #[error("{registry} does not answer as a registry does: {message}")]
    Strange {
        /// The registry.
        registry: String,
        /// What was wrong.
        message: String,
    },
}

/// The longest answer of a registry that is shown.
const MAX_MESSAGE: usize = 300;

impl Failure {
    /// Reads the client's error; `known` says whether we gave a login.
    pub fn of(error: &OciDistributionError, registry: &str, repository: &str, known: bool) -> Self {
        let registry = registry.to_owned();
        match error {
            OciDistributionError::AuthenticationFailure(_) | OciDistributionError::UnauthorizedError { .. } => {
                Self::of_status(401, String::new(), registry, repository, known)
            }
            OciDistributionError::ServerError { code, message, .. } => {
                Self::of_status(*code, message.clone(), registry, repository, known)
            }
            OciDistributionError::RequestError(e) => match e.status() {
                Some(status) => Self::of_status(status.as_u16(), String::new(), registry, repository, known),
                None => Self::of_connection(&chain(error), e.is_connect(), registry),
            },
            OciDistributionError::RegistryError { envelope, .. } => {
                let (code, message) = match envelope.errors.first() {
                    Some(e) => (status_of(&e.code), e.message.clone()),
                    None => (400, String::new()),
                };
                Self::of_status(code, message, registry, repository, known)
            }
            OciDistributionError::IoError(_) => Self::Broken(registry),
            other => Self::Strange { registry, message: shorten(&chain(other)) },
        }
    }

    /// Whether the same may work a moment later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Broken(_) | Self::TooMany(_) | Self::Unwell { .. })
    }

    fn of_status(code: u16, message: String, registry: String, repository: &str, known: bool) -> Self {
        let repository = repository.to_owned();
        match code {
            401 if known => Self::WrongLogin(registry),
            401 => Self::Login(registry),
            403 => Self::Forbidden { registry, repository },
            404 => Self::NoRepository { registry, repository },
            413 => Self::TooLarge(registry),
            429 => Self::TooMany(registry),
            500..=599 => Self::Unwell { registry, code },
            _ => Self::Refused { registry, code, message: shorten(&message) },
        }
    }

    fn of_connection(words: &str, connecting: bool, registry: String) -> Self {
        // The causes have no types that could be asked for, so their words are looked at.
        if words.contains("InvalidContentType") || words.contains("corrupt message") {
            Self::NoTls(registry)
        } else if let Some((_, why)) = words.split_once("invalid peer certificate: ") {
            Self::Certificate(registry, shorten(why))
        } else if words.contains("dns error") {
            Self::UnknownHost(registry)
        } else if connecting {
            Self::Unreachable(registry)
        } else {
            Self::Broken(registry)
        }
    }
}

/// The status that belongs to a code of the specification.
fn status_of(code: &OciErrorCode) -> u16 {
    match code {
        OciErrorCode::Unauthorized => 401,
        OciErrorCode::Denied => 403,
        OciErrorCode::NameUnknown => 404,
        OciErrorCode::Toomanyrequests => 429,
        _ => 400,
    }
}

/// An error with all its causes, each said once.
pub(super) fn chain(error: &OciDistributionError) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !words.ends_with(&more) {
            words = format!("{words}: {more}");
        }
        cause = inner.source();
    }
    words
}

/// One line without control characters, since a registry may send anything.
fn shorten(message: &str) -> String {
    let line: String = message.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect();
    if line.is_empty() { "nothing more".to_owned() } else { line }
}
