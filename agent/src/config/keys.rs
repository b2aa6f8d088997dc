//! Every key with its documentation; `--help`, the environment and the check for unknown keys use it.

use super::Error;

/// One key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The table, empty for the top.
    pub section: &'static str,
    /// The name in its table.
    pub name: &'static str,
    /// The default as TOML.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// Every key.
pub const KEYS: &[Key] = &[
    key("", "data", "\"/var/lib/muster-agent\"", "where the agent keeps identity, index and files"),
    key("", "timezone", "\"\"", "zone of windows for switching, e.g. \"Europe/Berlin\"; \"\" for the system's"),
    key(
        "",
        "veto_file",
        "\"\"",
        "a file that keeps versions from being switched while it exists; \"\" for veto in data",
    ),
    key("local", "http", "\"127.0.0.1:8421\"", "address of the local API; \"\" for none"),
    key("local", "socket", "\"\"", "path of a Unix socket with the same API; \"\" for none"),
    key("storage", "headroom_bytes", "67108864", "bytes of disk that are never used"),
    key("storage", "max_bundle_bytes", "4294967296", "the largest bundle that is accepted, uncompressed"),
    key("storage", "keep_bytes", "536870912", "bytes for versions beyond active and previous"),
    key("inference", "threads", "0", "threads that run inferences; 0 for one per processor"),
    key("inference", "queue", "64", "requests that may wait; beyond that the answer is 503"),
    key("inference", "max_unclean_ends", "3", "unclean ends within a trial after which the version before comes back"),
    key("telemetry", "window_seconds", "60", "length of a telemetry window"),
    key("outbox", "max_bytes", "8388608", "the most bytes of messages that wait for the dispatcher"),
    key("outbox", "max_count", "4096", "the most messages that wait for the dispatcher"),
    key("outbox", "max_age_seconds", "604800", "telemetry older than this is dropped"),
    key("link", "keep_alive_seconds", "60", "how often the broker hears at least something"),
    key("collect", "every", "0", "one of this many requests is kept with its answer, for its owner; 0 for none"),
    key("collect", "disagreements", "false", "keep the requests on which a version in the shadow answers otherwise"),
    key("collect", "folder", "\"\"", "where they are kept, as JSON lines; \"\" for collected in data"),
    key("collect", "max_bytes", "67108864", "the most bytes of them; the oldest go first"),
    key("approvals", "keys", "[]", "Ed25519 public keys in hexadecimal whose approval a rollout's plan needs here"),
    key("approvals", "required", "0", "how many of these have to approve"),
];

const fn key(section: &'static str, name: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { section, name, default, help }
}

impl Key {
    /// `section.name`.
    pub fn path(&self) -> String {
        if self.section.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.section, self.name) }
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        format!("MUSTER_AGENT_{}", self.path().replace('.', "_").to_uppercase())
    }
}

/// Refuses keys that do not exist, with the nearest one that does.
pub(super) fn check(table: &toml::Table, origin: &str) -> Result<(), Error> {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) if KEYS.iter().any(|k| k.section == name) => {
                for key in inner.keys() {
                    known(&format!("{name}.{key}"), origin)?;
                }
            }
            _ => known(name, origin)?,
        }
    }
    Ok(())
}

fn known(path: &str, origin: &str) -> Result<(), Error> {
    if KEYS.iter().any(|k| k.path() == path) {
        return Ok(());
    }
    Err(Error::UnknownKey { origin: origin.to_owned(), key: path.to_owned(), nearest: nearest(path) })
}

/// The key with the fewest edits (Levenshtein), if that is few.
fn nearest(path: &str) -> Option<&'static str> {
    let distance = |a: &str, b: &str| {
        let b: Vec<char> = b.chars().collect();
        let mut row: Vec<usize> = (0..=b.len()).collect();
        for (i, ca) in a.chars().enumerate() {
            let mut diagonal = std::mem::replace(&mut row[0], i + 1);
            for (j, cb) in b.iter().enumerate() {
                let cost = diagonal + usize::from(ca != *cb);
                diagonal = row[j + 1];
                row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
            }
        }
        row[b.len()]
    };
    let all = KEYS.iter().map(|k| (distance(path, &k.path()), k));
    let (edits, key) = all.min_by_key(|(edits, _)| *edits)?;
    // Leaked once per process: the message is the last thing that it says.
    (edits <= path.len() / 3).then(|| &*Box::leak(key.path().into_boxed_str()))
}

/// The table that an environment variable stands for.
pub(super) fn from_environment(name: &str, rest: &str, value: &str) -> Result<toml::Table, Error> {
    let Some(key) = KEYS.iter().find(|k| k.variable() == name) else {
        let path = rest.to_lowercase().replacen('_', ".", 1);
        return Err(Error::UnknownKey { origin: "environment".into(), key: name.to_owned(), nearest: nearest(&path) });
    };
    let value = if key.default.starts_with('"') {
        toml::Value::String(value.to_owned())
    } else if key.default.starts_with('[') {
        let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
        toml::Value::Array(items.map(|item| toml::Value::String(item.to_owned())).collect())
    } else {
        let number = value.trim().parse::<i64>();
        let reason = || format!("{value:?} is not a whole number");
        toml::Value::Integer(number.map_err(|_| Error::Invalid { origin: name.to_owned(), reason: reason() })?)
    };
    let mut table = toml::Table::new();
    if key.section.is_empty() {
        table.insert(key.name.into(), value);
    } else {
        let inner = toml::Table::from_iter([(key.name.to_owned(), value)]);
        table.insert(key.section.into(), toml::Value::Table(inner));
    }
    Ok(table)
}

/// The keys by table, for documentation.
pub fn by_section() -> Vec<(&'static str, Vec<&'static Key>)> {
    let mut sections: Vec<(&'static str, Vec<&'static Key>)> = Vec::new();
    for key in KEYS {
        match sections.iter_mut().find(|(name, _)| *name == key.section) {
            Some((_, keys)) => keys.push(key),
            None => sections.push((key.section, vec![key])),
        }
    }
    sections
}
