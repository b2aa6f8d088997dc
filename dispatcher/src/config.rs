//! The configuration of `muster serve`: built-in values, a TOML file, `MUSTER_…` variables and flags, each of which
//! outranks those before it.
//!
//! Owns every key with its documentation, and says of each value where it came from. It must not know what the
//! values are for, and opens no file but its own.

mod print;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use muster_proto::id::Workspace;

pub use print::effective;
pub use value::{Kind, LogFormat, Setting};

/// Begins the name of every variable that sets a key.
const PREFIX: &str = "MUSTER_";
/// Variables that mean something to the command line, not to `muster serve`.
const CLIENT_VARIABLES: [&str; 6] =
    ["MUSTER_URL", "MUSTER_TOKEN", "MUSTER_CA", "MUSTER_CONTEXT", "MUSTER_OUTPUT", "MUSTER_CONFIG"];

/// Why there is no configuration. Retrying without a change cannot help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the line.
        message: String,
    },
    /// There is no such key.
    #[error("there is no key `{key}` (in {origin}); did you mean `{nearest}`?")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands.
        origin: Origin,
        /// The valid key that is most like it.
        nearest: &'static str,
    },
    /// The value is not what the key takes.
    #[error("`{key}` (from {origin}): {message}")]
    Value {
        /// The key.
        key: &'static str,
        /// Where the value stands.
        origin: Origin,
        /// What is wrong with it.
        message: String,
    },
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It is built in.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("the built-in value"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => write!(f, "the variable {name}"),
            Origin::Flag(name) => write!(f, "the flag {name}"),
        }
    }
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its dotted name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// How its value is written.
    pub kind: Kind,
    default: &'static str,
}

impl Key {
    /// The variable that sets it: `http.listen` is `MUSTER_HTTP_LISTEN`.
    pub fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $field:ident ($name:literal, $kind:ident): $type:ty = $default:literal;)+) => {
        /// What `muster serve` runs with.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        /// Every key, in the order of the documentation.
        pub const KEYS: &[Key] =
            &[$(Key { name: $name, doc: concat!($($doc, "\n"),+), kind: Kind::$kind, default: $default }),+];

        impl Config {
            fn build(values: &Values) -> Result<Self, Error> {
                Ok(Self { $($field: values.read($name)?,)+ })
            }
        }
    };
}

keys! {
    /// The folder for keys, database, model files and the administrator's context. It is made where there is none.
    data ("data", Text): PathBuf = "./muster-data";
    /// The workspace. Devices and models of different workspaces never mix. It cannot change once devices are enrolled.
    workspace ("workspace", Text): Workspace = "default";
    /// Names and addresses under which devices and operators reach this machine. They go into its certificates; the
    /// first one goes into enrolment tokens.
    hostnames ("hostnames", List): Vec<String> = "127.0.0.1,localhost";

    /// Where the HTTP API listens.
    http_listen ("http.listen", Text): SocketAddr = "127.0.0.1:8420";
    /// Whether the HTTP API speaks TLS. Switch it off only behind a reverse proxy that does.
    http_tls ("http.tls", Switch): bool = "true";
    /// Where devices reach the HTTP API, if not at the first hostname and the port of `http.listen`, e.g.
    /// `https://muster.example`. It goes into enrolment tokens.
    http_public_url ("http.public_url", Text): Option<String> = "";

    /// Where the embedded broker listens for devices.
    mqtt_listen ("mqtt.listen", Text): SocketAddr = "127.0.0.1:8883";
    /// An external broker instead of the embedded one, e.g. `mqtts://broker.example:8883` or
    /// `mqtt://user:password@broker.example`.
    mqtt_broker ("mqtt.broker", Text): Option<String> = "";
    /// PEM file of the authority that signed the external broker's certificate, if not the dispatcher's own.
    mqtt_ca_file ("mqtt.ca_file", Text): Option<PathBuf> = "";
    /// PEM file of the certificate that the dispatcher shows an external broker, if not one of its own authority.
    /// Goes with `mqtt.key_file`.
    mqtt_certificate_file ("mqtt.certificate_file", Text): Option<PathBuf> = "";
    /// PEM file of that certificate's key.
    mqtt_key_file ("mqtt.key_file", Text): Option<PathBuf> = "";
    /// Where devices reach the broker, if not at the first hostname and the port of `mqtt.listen`, as `host:port`.
    mqtt_public_address ("mqtt.public_address", Text): Option<String> = "";

    /// Namespaces of the cluster in which ModelService resources are kept as services; none unless named.
    kubernetes_namespaces ("kubernetes.namespaces", List): Vec<String> = "";
    /// The kubeconfig of that cluster, if not `KUBECONFIG`, the home folder's, or the account of the pod that this
    /// runs in.
    kubernetes_kubeconfig ("kubernetes.kubeconfig", Text): Option<String> = "";
    /// The context of that kubeconfig, if not its current one.
    kubernetes_context ("kubernetes.context", Text): Option<String> = "";

    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`) or a filter such as
    /// `info,muster_dispatcher::http=debug`.
    log_filter ("log.filter", Text): String = "info";
    /// How it is logged: `text` for people, `json` for machines.
    log_format ("log.format", Text): LogFormat = "text";
}

/// The value of every key, with its origin.
#[derive(Debug, Clone)]
pub struct Values(BTreeMap<&'static str, (toml::Value, Origin)>);

impl Values {
    /// The built-in values.
    fn builtin() -> Self {
        let of = |key: &Key| value::from_text(key.kind, key.default).expect("a built-in value fits its key");
        Self(KEYS.iter().map(|key| (key.name, (of(key), Origin::Default))).collect())
    }

    fn set(&mut self, key: &'static Key, value: toml::Value, origin: Origin) {
        self.0.insert(key.name, (value, origin));
    }

    fn set_text(&mut self, key: &'static Key, text: &str, origin: Origin) -> Result<(), Error> {
        match value::from_text(key.kind, text) {
            Ok(value) => {
                self.set(key, value, origin);
                Ok(())
            }
            Err(message) => Err(Error::Value { key: key.name, origin, message }),
        }
    }

    fn read<T: Setting>(&self, name: &'static str) -> Result<T, Error> {
        let (value, origin) = self.get(name);
        T::read(value).map_err(|message| Error::Value { key: name, origin: origin.clone(), message })
    }

    fn get(&self, name: &'static str) -> &(toml::Value, Origin) {
        self.0.get(name).expect("every key has a built-in value")
    }
}

/// What `load` found.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Every value with its origin.
    pub values: Values,
    /// What a person should know, e.g. a variable that looks like a misspelt key.
    pub warnings: Vec<String>,
}

/// Reads the configuration from `file` (if any), the variables `environment` and the `flags` (key, flag, value), in
/// that order of growing precedence.
///
/// # Errors
/// Says which key, where it stands, and what is wrong with it.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(&str, &'static str, String)],
) -> Result<Loaded, Error> {
    let mut values = Values::builtin();
    if let Some(path) = file {
        read_file(path, &mut values)?;
    }
    let mut warnings = Vec::new();
    for (name, text) in environment {
        read_variable(&name, &text, &mut values, &mut warnings)?;
    }
    for (name, flag, text) in flags {
        let key = find(name).expect("a flag sets a key that exists");
        values.set_text(key, text, Origin::Flag(flag))?;
    }
    Ok(Loaded { config: Config::build(&values)?, values, warnings })
}

fn read_file(path: &Path, values: &mut Values) -> Result<(), Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    let table: toml::Table = toml::from_str(&text)
        .map_err(|e| Error::Syntax { path: path.to_owned(), message: e.to_string().trim().to_owned() })?;
    for (name, value) in flatten(table) {
        let origin = Origin::File(path.to_owned());
        match find(&name) {
            Some(key) => values.set(key, value, origin),
            None => return Err(Error::UnknownKey { nearest: nearest(&name), key: name, origin }),
        }
    }
    Ok(())
}

/// An unknown variable is only warned of: a Kubernetes service called `muster` puts `MUSTER_PORT` and the like into
/// every pod of its namespace, and the dispatcher has to start there.
fn read_variable(name: &str, text: &str, values: &mut Values, warnings: &mut Vec<String>) -> Result<(), Error> {
    if !name.starts_with(PREFIX) || name.starts_with("MUSTER_AGENT_") || CLIENT_VARIABLES.contains(&name) {
        return Ok(());
    }
    if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
        return values.set_text(key, text, Origin::Variable(name.to_owned()));
    }
    if !name.starts_with("MUSTER_SERVICE_") && !name.starts_with("MUSTER_PORT") {
        let like = KEYS.iter().map(Key::variable).min_by_key(|known| distance(known, name)).unwrap_or_default();
        warnings.push(format!("the variable {name} sets nothing; did you mean {like}?"));
    }
    Ok(())
}

/// Tables become dotted names; everything else is a value.
fn flatten(table: toml::Table) -> Vec<(String, toml::Value)> {
    let mut flat = Vec::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) if find(&name).is_none() => {
                let prefixed = flatten(inner).into_iter().map(|(rest, value)| (format!("{name}.{rest}"), value));
                flat.extend(prefixed);
            }
            other => flat.push((name, other)),
        }
    }
    flat
}

fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn nearest(name: &str) -> &'static str {
    KEYS.iter().map(|key| key.name).min_by_key(|known| distance(known, name)).unwrap_or("data")
}

/// The Levenshtein distance, by the usual two rows.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
