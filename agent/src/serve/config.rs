//! What a scoring server serves: one document, TOML in a file or JSON over the admin listener. It is complete: what it
//! does not name is not served any more.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use muster_proto::id::{Digest, ModelName, SlotName, Version};
use serde::{Deserialize, Serialize};

use crate::api::{Keys, Settings};
use crate::{collect, otlp};

/// Where the document is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/muster/serve.toml";
/// The most services of one process (invariant 10).
pub const MAX_SERVICES: usize = 1000;

/// Why a document cannot be used. A retry helps only after it was mended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Not TOML or JSON, an unknown key, or a value of the wrong kind.
    #[error("{origin}: {reason}")]
    Invalid {
        /// Where it came from.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// A rule is broken.
    #[error("{0}")]
    Rule(String),
}

/// The document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Document {
    /// Where REST and gRPC listen.
    pub listen: SocketAddr,
    /// Where health, metrics and changes are asked for; none for no such listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// The same as a Unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_socket: Option<PathBuf>,
    /// The trust root that every bundle has to follow from. Without it, each bundle's own is taken, which protects
    /// against damage and not against who made the folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_root: Option<PathBuf>,
    /// How many threads run inferences; 0 for one per processor that this process may use.
    pub threads: usize,
    /// How long the server goes on after it was told to stop, so that balancers notice, in milliseconds.
    pub drain_ms: u64,
    /// TLS; plain text without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Where versions come from that are named without a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispatcher: Option<Dispatcher>,
    /// Which requests of all services are kept; none without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collect: Option<collect::Settings>,
    /// Where traces and metrics are sent; nowhere without it and without the variables of OpenTelemetry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp: Option<otlp::Settings>,
    /// What answers.
    #[serde(rename = "service")]
    pub services: Vec<Service>,
}

impl Default for Document {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin: None,
            admin_socket: None,
            trust_root: None,
            threads: 0,
            drain_ms: 0,
            tls: None,
            dispatcher: None,
            collect: None,
            otlp: None,
            services: Vec::new(),
        }
    }
}

/// The server's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// A dispatcher to fetch versions from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatcher {
    /// Its address, e.g. `https://hub.example:8420`.
    pub url: String,
    /// The authority that signed its certificate, PEM; the system's authorities otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A file with an API key that may read; else the variable MUSTER_TOKEN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<PathBuf>,
    /// Where fetched versions are kept.
    pub cache: PathBuf,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name in paths.
    pub name: SlotName,
    /// What answers: one version, or the stable one and a canary.
    #[serde(rename = "model")]
    pub models: Vec<Model>,
    /// The SHA-256 of the keys that open it; none to let everybody ask.
    #[serde(default, skip_serializing_if = "Keys::are_none")]
    pub keys: Keys,
    /// A file with one SHA-256 per line, besides `keys`: a mounted Kubernetes secret. It is read again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys_file: Option<PathBuf>,
    /// Bounds.
    #[serde(default)]
    pub settings: Settings,
}

/// One version of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// `NAME:VERSION`; what the folder holds, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The digest of its manifest; any if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The folder with the bundle; fetched from the dispatcher if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// Its share of the requests in percent; all, where it is the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<u8>,
}

impl Model {
    /// The model and version that are named.
    pub fn wanted(&self) -> Result<Option<(ModelName, Version)>, Error> {
        let Some(text) = &self.version else { return Ok(None) };
        let parsed =
            text.rsplit_once(':').and_then(|(name, version)| Some((name.parse().ok()?, version.parse().ok()?)));
        let rule = || Error::Rule(format!("version {text:?} is not of the form NAME:VERSION, e.g. vision/digits:2"));
        parsed.map(Some).ok_or_else(rule)
    }
}

impl Document {
    /// Reads the file at `path`; what it names by a relative path lies beside it.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let origin = path.display().to_string();
        let invalid = |reason: String| Error::Invalid { origin: origin.clone(), reason };
        let mut document: Self = match path.extension().is_some_and(|e| e == "json") {
            true => serde_json::from_str(&text).map_err(|e| invalid(e.to_string()))?,
            false => toml::from_str(&text).map_err(|e| invalid(e.to_string().trim_end().to_owned()))?,
        };
        document.check()?;
        document.lie_beside(path.parent().unwrap_or(Path::new("")));
        Ok(document)
    }

    /// Refuses what cannot be served.
    pub fn check(&self) -> Result<(), Error> {
        let rule = |text: String| Err(Error::Rule(text));
        if self.services.len() > MAX_SERVICES {
            return rule(format!("{} services, at most {MAX_SERVICES}", self.services.len()));
        }
        if let Some(fault) = self.collect.as_ref().and_then(collect::Settings::fault) {
            return rule(fault);
        }
        if let Some(fault) = self.otlp.as_ref().and_then(otlp::Settings::fault) {
            return rule(fault);
        }
        let mut names = BTreeSet::new();
        for service in &self.services {
            if !names.insert(&service.name) {
                return rule(format!("service {} stands twice", service.name));
            }
            service.check(self.dispatcher.is_some())?;
        }
        Ok(())
    }

    fn lie_beside(&mut self, folder: &Path) {
        let beside = |path: &mut PathBuf| *path = folder.join(&*path);
        self.trust_root.iter_mut().for_each(beside);
        self.admin_socket.iter_mut().for_each(beside);
        self.collect.iter_mut().for_each(|collect| beside(&mut collect.folder));
        self.services.iter_mut().flat_map(|s| &mut s.models).filter_map(|m| m.bundle.as_mut()).for_each(beside);
        self.services.iter_mut().filter_map(|s| s.keys_file.as_mut()).for_each(beside);
        if let Some(tls) = &mut self.tls {
            [&mut tls.certificate, &mut tls.key].into_iter().for_each(beside);
        }
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.ca.iter_mut().chain(&mut dispatcher.token).chain([&mut dispatcher.cache]).for_each(beside);
        }
    }
}

impl Service {
    fn check(&self, has_dispatcher: bool) -> Result<(), Error> {
        let name = &self.name;
        let rule = |text: String| Err(Error::Rule(format!("service {name}: {text}")));
        if !(1..=2).contains(&self.models.len()) {
            return rule(format!(
                "{} models, and one or two are possible: the stable one and a canary",
                self.models.len()
            ));
        }
        for model in &self.models {
            let wanted = model.wanted()?;
            match (&model.bundle, wanted) {
                (None, None) => return rule("a model needs `bundle`, the folder, or `version` to be fetched".into()),
                (None, Some(_)) if !has_dispatcher => {
                    return rule("a model without `bundle` needs [dispatcher] to be fetched from".into());
                }
                _ => {}
            }
        }
        if let Some(fault) = self.settings.fault() {
            return rule(fault);
        }
        let shares: u32 = self.models.iter().map(|model| u32::from(self.share(model))).sum();
        if shares != 100 {
            return rule(format!("the models' `traffic` is {shares} together, and has to be 100"));
        }
        Ok(())
    }

    /// The keys that open the service, those of the file as well. A file without any is an error: it would open the
    /// service to everybody.
    pub fn all_keys(&self) -> Result<Keys, Error> {
        let Some(path) = &self.keys_file else { return Ok(self.keys.clone()) };
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let invalid = |reason: String| Error::Invalid { origin: path.display().to_string(), reason };
        let mut keys = self.keys.clone();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            keys.0.push(line.parse().map_err(invalid)?);
        }
        if keys.are_none() { Err(invalid("there is no key in it".into())) } else { Ok(keys) }
    }

    /// The share of `model` in percent.
    pub fn share(&self, model: &Model) -> u8 {
        model.traffic.unwrap_or(if self.models.len() == 1 { 100 } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Document, String> {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("serve.toml");
        std::fs::write(&path, text).expect("writes");
        Document::load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_document_is_read_and_its_paths_lie_beside_it() {
        let document = load(
            "listen = \"0.0.0.0:8080\"\ntrust_root = \"root.json\"\n[[service]]\nname = \"digits\"\n\
             [[service.model]]\nbundle = \"one\"\ntraffic = 90\n[[service.model]]\nbundle = \"/two\"\nversion = \"d:2\"\ntraffic = 10\n\
             [service.settings]\nqueue = 3\n",
        )
        .expect("good");
        let service = &document.services[0];
        assert!(service.models[0].bundle.as_ref().is_some_and(|path| path.is_absolute() && path.ends_with("one")));
        assert_eq!(service.models[1].bundle.as_deref(), Some(Path::new("/two")));
        assert_eq!((service.settings.queue, service.settings.timeout_ms), (3, 60_000));
        let json = serde_json::to_string(&document).expect("json");
        assert_eq!(serde_json::from_str::<Document>(&json).expect("back"), document);
    }

    #[test]
    fn broken_rules_are_named() {
        let service = |rest: &str| format!("[[service]]\nname = \"digits\"\n{rest}");
        let table = [
            ("nonsense = 1".to_owned(), "nonsense"),
            ("[collect]\nfolder = \"x\"\nmax_bytes = 1".to_owned(), "collect.max_bytes"),
            ("[otlp]\nendpoint = \"collector:4318\"".to_owned(), "otlp.endpoint"),
            ("[otlp]\nendpoint = \"http://c\"\nsample = 2.0".to_owned(), "otlp.sample"),
            ("[otlp]\nendpoint = \"http://c\"\ncolour = 2".to_owned(), "colour"),
            (service(""), "missing field `model`"),
            (service("model = []"), "0 models"),
            (service("[[service.model]]\n"), "needs `bundle`"),
            (service("[[service.model]]\nversion = \"d:1\"\n"), "[dispatcher]"),
            (service("[[service.model]]\nbundle = \"x\"\nversion = \"d\"\n"), "NAME:VERSION"),
            (service("[[service.model]]\nbundle = \"x\"\ntraffic = 90\n"), "has to be 100"),
            (service("keys = [\"abc\"]\n[[service.model]]\nbundle = \"x\"\n"), "SHA-256"),
            (format!("{0}\n{0}", service("[[service.model]]\nbundle = \"x\"\n")), "stands twice"),
        ];
        for (text, part) in table {
            let error = load(&text).expect_err(part);
            assert!(error.contains(part), "{error} does not say {part:?}");
        }
    }
}
