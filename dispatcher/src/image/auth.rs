//! Finds who we are to a registry: flags and environment first, then the files of docker and podman. Does not talk
//! to registries and runs no helper programs.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::name::Name;

/// Who we are to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nobody.
    Anonymous,
    /// A user with a password, or with a refresh token in its place, as Azure's registries take it.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// A token that the registry itself takes.
    Bearer(String),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::Bearer(_) => f.write_str("Bearer"),
        }
    }
}

/// Why it is not known who we are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A user without a password.
    #[error("there is a user name for the registry and no password; set MUSTER_REGISTRY_PASSWORD")]
    NoPassword,
    /// A password without a user.
    #[error(
        "MUSTER_REGISTRY_PASSWORD is set and there is no user name; give --username or set MUSTER_REGISTRY_USERNAME"
    )]
    NoUsername,
    /// Both ways at once.
    #[error(
        "there are both a password and a token for the registry; unset MUSTER_REGISTRY_PASSWORD or MUSTER_REGISTRY_TOKEN"
    )]
    Both,
    /// A file of logins does not read.
    #[error("cannot read the logins in {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of logins is no JSON of the expected form.
    #[error("the logins in {} do not read as docker's config.json", .path.display())]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An entry that holds no user and password.
    #[error("the login for {registry} in {} is damaged; log in again", .path.display())]
    Entry {
        /// The registry.
        registry: String,
        /// The file.
        path: PathBuf,
    },
    /// The login is kept by a program that is not run here.
    #[error(
        "the login for {registry} is kept by the helper docker-credential-{helper}, which muster does not run; \
         give --username and MUSTER_REGISTRY_PASSWORD, or REGISTRY_AUTH_FILE=FILE after `podman login --authfile FILE {registry}`"
    )]
    Helper {
        /// The registry.
        registry: String,
        /// The helper's name.
        helper: String,
    },
}

/// Where to look.
#[derive(Clone, Default)]
pub struct Sources {
    /// The user name of a flag or of `MUSTER_REGISTRY_USERNAME`.
    pub username: Option<String>,
    /// The password of `MUSTER_REGISTRY_PASSWORD`.
    pub password: Option<String>,
    /// The token of `MUSTER_REGISTRY_TOKEN`.
    pub token: Option<String>,
    /// A file that has to be there.
    pub required_file: Option<PathBuf>,
    /// Files that may be there, the first one first.
    pub files: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Logins {
    auths: BTreeMap<String, Login>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// The user that Azure's registries expect beside a refresh token.
const AZURE_TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

impl Sources {
    /// Reads what is set: `username` is the flag's, `variable` looks into the environment.
    pub fn new(username: Option<String>, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let podman = set("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("containers/auth.json"));
        let home = set("HOME").map(|home| Path::new(&home).join(".docker"));
        let docker = set("DOCKER_CONFIG").map(PathBuf::from).or(home).map(|dir| dir.join("config.json"));
        Self {
            username: username.or_else(|| set("MUSTER_REGISTRY_USERNAME")),
            password: set("MUSTER_REGISTRY_PASSWORD"),
            token: set("MUSTER_REGISTRY_TOKEN"),
            required_file: set("REGISTRY_AUTH_FILE").map(PathBuf::from),
            files: podman.into_iter().chain(docker).collect(),
        }
    }

    /// Who we are to the registry of `name`.
    pub fn find(&self, name: &Name) -> Result<Auth, Error> {
        match (&self.username, &self.password, &self.token) {
            (_, Some(_), Some(_)) => return Err(Error::Both),
            (_, None, Some(token)) => return Ok(Auth::Bearer(token.clone())),
            (Some(username), Some(password), None) => {
                return Ok(Auth::Basic { username: username.clone(), password: password.clone() });
            }
            (Some(_), None, None) => return Err(Error::NoPassword),
            (None, Some(_), None) => return Err(Error::NoUsername),
            (None, None, None) => {}
        }
        if let Some(path) = &self.required_file {
            let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.clone(), source })?;
            return Ok(look(path, &bytes, name)?.unwrap_or(Auth::Anonymous));
        }
        for path in &self.files {
            let found = match std::fs::read(path) {
                Ok(bytes) => look(path, &bytes, name)?,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => None,
                Err(source) => return Err(Error::Read { path: path.clone(), source }),
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Ok(Auth::Anonymous)
    }
}

/// The login for `name` in one file.
fn look(path: &Path, bytes: &[u8], name: &Name) -> Result<Option<Auth>, Error> {
    let logins: Logins =
        serde_json::from_slice(bytes).map_err(|source| Error::Form { path: path.to_owned(), source })?;
    let registry = name.registry().unwrap_or("docker.io");
    let keys = keys(registry, name.repository());
    let entry = keys.iter().find_map(|key| logins.auths.get(key));
    if let Some(auth) = entry.map(Login::read) {
        // An entry without anything is docker's way to say that its store has the rest.
        match auth {
            Some(Ok(auth)) => return Ok(Some(auth)),
            Some(Err(Damaged)) => return Err(Error::Entry { registry: registry.to_owned(), path: path.to_owned() }),
            None => {}
        }
    }
    let helper = logins.cred_helpers.get(registry).or(logins.creds_store.as_ref().filter(|_| entry.is_some()));
    match helper {
        Some(helper) => Err(Error::Helper { registry: registry.to_owned(), helper: helper.clone() }),
        None => Ok(None),
    }
}

/// The keys under which a login may lie: podman's by repository, the nearest first, then docker's by registry.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = Some(repository);
    while let Some(part) = path {
        keys.push(format!("{registry}/{part}"));
        path = part.rsplit_once('/').map(|(parent, _)| parent);
    }
    keys.push(registry.to_owned());
    for form in ["https://{}", "https://{}/", "https://{}/v1/", "https://{}/v2/"] {
        keys.push(form.replace("{}", registry));
    }
    if registry == "docker.io" {
        keys.push("https://index.docker.io/v1/".to_owned());
    }
    keys
}

struct Damaged;

impl Login {
    fn read(&self) -> Option<Result<Auth, Damaged>> {
        let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
        if let Some(token) = given(&self.registrytoken) {
            return Some(Ok(Auth::Bearer(token)));
        }
        let decoded = match given(&self.auth).map(|auth| decode(&auth)) {
            Some(None) => return Some(Err(Damaged)),
            Some(found) => found,
            None => None,
        };
        let username = given(&self.username).or(decoded.as_ref().map(|(user, _)| user.clone()));
        if let Some(token) = given(&self.identitytoken) {
            let username = username.filter(|u| u != "<token>").unwrap_or_else(|| AZURE_TOKEN_USER.to_owned());
            return Some(Ok(Auth::Basic { username, password: token }));
        }
        let password = given(&self.password).or(decoded.map(|(_, password)| password));
        match (username, password) {
            (Some(username), Some(password)) => Some(Ok(Auth::Basic { username, password })),
            (None, None) => None,
            _ => Some(Err(Damaged)),
        }
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
    // Docker pads old entries with zero bytes.
    let (user, password) = text.trim_end_matches('\0').split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests;
