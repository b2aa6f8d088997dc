//! The agent's configuration: one TOML file, the files of its `.d` folder in order of name, then the
//! environment (`MUSTER_AGENT_LOCAL_HTTP=…`). Unknown keys are errors. It does not know any state.

mod keys;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use muster_proto::trust::Approvers;
use serde::Deserialize;

pub use keys::{KEYS, by_section};

use crate::collect;
use crate::core::Limits;
use crate::core::outbox::Bounds;

/// Where the configuration is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/muster/agent.toml";
/// Where the agent keeps its things unless told otherwise.
pub const DEFAULT_DATA: &str = "/var/lib/muster-agent";

/// Why the configuration cannot be used. A retry helps only after the named key was mended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("{origin}: {reason}")]
    Invalid {
        /// The file or environment variable.
        origin: String,
        /// What is wrong, with the line where there is one.
        reason: String,
    },
    /// A key that does not exist.
    #[error("{origin}: there is no key {key:?}{}", .nearest.map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    UnknownKey {
        /// The file or environment variable.
        origin: String,
        /// The key.
        key: String,
        /// The nearest key that exists.
        nearest: Option<&'static str>,
    },
}

/// The whole configuration, typed per module.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the agent keeps its things.
    pub data: PathBuf,
    /// The local API's address; none to have only the socket.
    pub http: Option<SocketAddr>,
    /// The local API's Unix socket; none to have only the address.
    pub socket: Option<PathBuf>,
    /// The owner's limits.
    pub limits: Limits,
    /// How many threads run inferences; 0 for one per processor.
    pub inference_threads: usize,
    /// How many requests may wait for a thread.
    pub inference_queue: usize,
    /// How long a telemetry window is.
    pub telemetry_window: Duration,
    /// How often the broker hears at least something.
    pub keep_alive: Duration,
    /// The file that is a veto where it exists; none for `veto` in `data`.
    pub veto_file: Option<PathBuf>,
    /// Which requests are kept; its folder lies in `data` unless it is absolute.
    pub collect: collect::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Raw::default().into_config()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    data: PathBuf,
    timezone: String,
    veto_file: String,
    local: Local,
    storage: Storage,
    inference: Inference,
    telemetry: TelemetryKeys,
    outbox: OutboxKeys,
    link: LinkKeys,
    approvals: Approvals,
    collect: Collect,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Collect {
    folder: String,
    every: u64,
    disagreements: bool,
    max_bytes: u64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Approvals {
    keys: Vec<String>,
    required: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Local {
    http: String,
    socket: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Storage {
    headroom_bytes: u64,
    max_bundle_bytes: u64,
    keep_bytes: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Inference {
    threads: usize,
    queue: usize,
    max_unclean_ends: u8,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TelemetryKeys {
    window_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct OutboxKeys {
    max_bytes: u64,
    max_count: usize,
    max_age_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LinkKeys {
    keep_alive_seconds: u64,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            data: DEFAULT_DATA.into(),
            timezone: String::new(),
            veto_file: String::new(),
            local: Local::default(),
            storage: Storage::default(),
            inference: Inference::default(),
            telemetry: TelemetryKeys::default(),
            outbox: OutboxKeys::default(),
            link: LinkKeys::default(),
            approvals: Approvals::default(),
            collect: Collect::default(),
        }
    }
}

impl Default for Collect {
    fn default() -> Self {
        Self { folder: String::new(), every: 0, disagreements: false, max_bytes: collect::MAX_BYTES }
    }
}

impl Default for Local {
    fn default() -> Self {
        Self { http: "127.0.0.1:8421".into(), socket: String::new() }
    }
}

impl Default for Storage {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            headroom_bytes: limits.disk_headroom,
            max_bundle_bytes: limits.max_bundle,
            keep_bytes: limits.keep_bytes,
        }
    }
}

impl Default for Inference {
    fn default() -> Self {
        Self { threads: 0, queue: 64, max_unclean_ends: Limits::default().max_unclean_ends }
    }
}

impl Default for TelemetryKeys {
    fn default() -> Self {
        Self { window_seconds: 60 }
    }
}

impl Default for OutboxKeys {
    fn default() -> Self {
        let bounds = Bounds::default();
        Self { max_bytes: bounds.bytes, max_count: bounds.count, max_age_seconds: bounds.age_s }
    }
}

impl Default for LinkKeys {
    fn default() -> Self {
        Self { keep_alive_seconds: 60 }
    }
}

impl Raw {
    fn into_config(self) -> Config {
        let not_empty = |text: String| (!text.is_empty()).then_some(text);
        Config {
            http: not_empty(self.local.http).and_then(|t| t.parse().ok()),
            socket: not_empty(self.local.socket).map(PathBuf::from),
            limits: Limits {
                disk_headroom: self.storage.headroom_bytes,
                max_bundle: self.storage.max_bundle_bytes,
                keep_bytes: self.storage.keep_bytes,
                max_unclean_ends: self.inference.max_unclean_ends.max(1),
                outbox: Bounds {
                    bytes: self.outbox.max_bytes,
                    count: self.outbox.max_count,
                    age_s: self.outbox.max_age_seconds,
                },
                zone: zone(&self.timezone).unwrap_or(TimeZone::UTC),
                approvers: approvers(&self.approvals).unwrap_or_default(),
            },
            inference_threads: self.inference.threads,
            inference_queue: self.inference.queue.max(1),
            telemetry_window: Duration::from_secs(self.telemetry.window_seconds.max(1)),
            keep_alive: Duration::from_secs(self.link.keep_alive_seconds.max(5)),
            veto_file: not_empty(self.veto_file).map(PathBuf::from),
            collect: collect::Settings {
                folder: not_empty(self.collect.folder).unwrap_or_else(|| "collected".into()).into(),
                every: self.collect.every,
                disagreements: self.collect.disagreements,
                max_bytes: self.collect.max_bytes,
            },
            data: self.data,
        }
    }
}

/// The zone in which windows are meant. It is looked up once, here: what decides later reads no files.
fn zone(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() {
        return Ok(TimeZone::system());
    }
    TimeZone::get(name).map_err(|_| {
        format!("timezone = {name:?} is not known on this machine; use a name such as \"Europe/Berlin\", and see that /usr/share/zoneinfo is there")
    })
}

fn approvers(Approvals { keys, required }: &Approvals) -> Result<Approvers, String> {
    let bytes = |key: &String| {
        let bytes = hex::decode(key).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.ok_or_else(|| format!("approvals.keys: {key:?} is not an Ed25519 public key of 64 hexadecimal digits"))
    };
    let public = keys.iter().map(bytes).collect::<Result<Vec<_>, _>>()?;
    let approvers = Approvers::new(public, u64::from(*required)).map_err(|e| e.to_string())?;
    match (approvers.len(), *required as usize) {
        (known, wanted) if wanted > known => Err(format!(
            "approvals.required = {wanted}, and approvals.keys has {known} different keys: nothing could ever run"
        )),
        (known, 0) if known > 0 => Err("approvals.required = 0 asks none of approvals.keys: say how many".into()),
        _ => Ok(approvers),
    }
}

impl Config {
    /// The file that is a veto where it exists.
    pub fn veto_file(&self) -> PathBuf {
        self.veto_file.clone().unwrap_or_else(|| self.data.join("veto"))
    }

    /// Reads the file at `path` (which may be absent where `required` is not set), the files of its `.d`
    /// folder, and `environment`.
    pub fn load(
        path: &Path,
        required: bool,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let mut merged = toml::Table::new();
        if required || path.exists() {
            merge(&mut merged, read(path)?);
        }
        let folder = path.with_extension("d");
        if folder.is_dir() {
            let failed = |source| Error::Read { path: folder.clone(), source };
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(&folder).map_err(failed)?.flatten().map(|e| e.path()).collect();
            files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
            files.sort();
            for file in files {
                merge(&mut merged, read(&file)?);
            }
        }
        for (name, value) in environment {
            if let Some(rest) = name.strip_prefix("MUSTER_AGENT_") {
                merge(&mut merged, keys::from_environment(&name, rest, &value)?);
            }
        }
        typed(merged, &path.display().to_string())
    }
}

fn read(path: &Path) -> Result<toml::Table, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let origin = path.display().to_string();
    let table: toml::Table =
        toml::from_str(&text).map_err(|e| Error::Invalid { origin: origin.clone(), reason: e.to_string() })?;
    keys::check(&table, &origin)?;
    Ok(table)
}

fn typed(table: toml::Table, origin: &str) -> Result<Config, Error> {
    let invalid = |reason: String| Error::Invalid { origin: origin.to_owned(), reason };
    let raw: Raw = table.try_into().map_err(|e: toml::de::Error| invalid(e.to_string()))?;
    if !raw.local.http.is_empty() && raw.local.http.parse::<SocketAddr>().is_err() {
        return Err(invalid(format!(
            "local.http = {:?} is not an address such as 127.0.0.1:8421; use \"\" for none",
            raw.local.http
        )));
    }
    zone(&raw.timezone).map_err(invalid)?;
    approvers(&raw.approvals).map_err(invalid)?;
    let config = raw.into_config();
    config.collect.fault().map_or(Ok(config), |fault| Err(invalid(fault)))
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, Error> {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, text).expect("written");
        Config::load(&path, true, environment.iter().map(|(k, v)| (k.to_string(), v.to_string())))
    }

    #[test]
    fn file_folder_and_environment_override_one_another() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, "data = \"/a\"\n[inference]\nqueue = 5\nthreads = 3\n").expect("written");
        std::fs::create_dir(dir.path().join("agent.d")).expect("made");
        std::fs::write(dir.path().join("agent.d/10.toml"), "[inference]\nqueue = 6\n").expect("written");
        let environment = [("MUSTER_AGENT_DATA".to_string(), "/b".to_string()), ("HOME".into(), "/".into())];
        let config = Config::load(&path, true, environment).expect("valid");
        assert_eq!((config.inference_queue, config.inference_threads), (6, 3));
        assert_eq!(config.data, Path::new("/b"));
    }

    #[test]
    fn every_documented_key_is_known_and_has_its_default() {
        let mut text = String::new();
        for (section, keys) in keys::by_section() {
            if !section.is_empty() {
                text.push_str(&format!("[{section}]\n"));
            }
            for key in keys {
                text.push_str(&format!("{} = {}\n", key.name, key.default));
            }
        }
        let config = load(&text, &[]).expect("valid");
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn approvals_ask_for_as_many_keys_as_there_are_at_most() {
        let (one, other) = ("11".repeat(32), "22".repeat(32));
        let table = [
            (format!("keys = [\"{one}\", \"{other}\"]\nrequired = 2"), ""),
            (format!("keys = [\"{one}\"]\nrequired = 2"), "has 1 different keys"),
            (format!("keys = [\"{one}\", \"{one}\"]\nrequired = 2"), "has 1 different keys"),
            (format!("keys = [\"{one}\"]"), "asks none"),
            ("keys = [\"abc\"]\nrequired = 1".into(), "\"abc\" is not an Ed25519 public key"),
        ];
        for (text, want) in table {
            let loaded = load(&format!("[approvals]\n{text}\n"), &[]);
            let refused = loaded.as_ref().err().map(ToString::to_string).unwrap_or_default();
            assert!(refused.contains(want) && want.is_empty() == loaded.is_ok(), "{text}: {refused}");
        }
        let keys = format!("{one}, {other}");
        let environment = [("MUSTER_AGENT_APPROVALS_KEYS", keys.as_str()), ("MUSTER_AGENT_APPROVALS_REQUIRED", "2")];
        assert_eq!(load("", &environment).expect("valid").limits.approvers.len(), 2);
    }

    #[test]
    fn the_zone_and_the_veto_have_their_defaults() {
        let config = load("data = \"/x\"\ntimezone = \"Asia/Kolkata\"\n", &[]).expect("valid");
        assert_eq!(config.veto_file(), Path::new("/x/veto"));
        assert_eq!(config.limits.zone.iana_name(), Some("Asia/Kolkata"));
        assert_eq!(load("veto_file = \"/run/v\"", &[]).expect("valid").veto_file(), Path::new("/run/v"));
    }

    #[test]
    fn mistakes_name_the_key_and_what_was_meant() {
        let unknown = load("[storage]\nheadrom_bytes = 1\n", &[]).expect_err("a misspelt key").to_string();
        assert!(unknown.contains("storage.headrom_bytes") && unknown.contains("storage.headroom_bytes"), "{unknown}");
        let environment = load("", &[("MUSTER_AGENT_LOKAL_HTTP", "x")]).expect_err("unknown").to_string();
        assert!(environment.contains("MUSTER_AGENT_LOKAL_HTTP"), "{environment}");
        for bad in [
            "timezone = \"Europe/Atlantis\"",
            "data = 1",
            "[local]\nhttp = \"nowhere\"",
            "[inference]\nqueue = -1",
            "[collect]\nmax_bytes = 9",
            "data = \"x",
        ] {
            assert!(matches!(load(bad, &[]), Err(Error::Invalid { .. })), "{bad}");
        }
        assert!(matches!(load("", &[("MUSTER_AGENT_INFERENCE_QUEUE", "many")]), Err(Error::Invalid { .. })));
        let missing = Config::load(Path::new("/nowhere/agent.toml"), true, []);
        assert!(matches!(missing, Err(Error::Read { .. })));
        assert!(Config::load(Path::new("/nowhere/agent.toml"), false, []).is_ok());
    }
}
