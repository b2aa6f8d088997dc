//! The crates that the agent is built of, read from the workspace's Cargo.lock as it was when this program was built.

use std::collections::BTreeMap;

use serde::Deserialize;

const LOCK: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock"));

/// A crate in the agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of its package, in hex; none for the workspace's own.
    pub checksum: Option<String>,
}

/// A lock file that does not read. The one that is built in always does.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// It is no TOML of the expected form.
    #[error("Cargo.lock does not read")]
    Form(#[from] toml::de::Error),
    /// It does not have the crate whose crates were asked for.
    #[error("Cargo.lock has no crate {0}")]
    Missing(String),
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// The crates of the agent that belongs to this program.
pub fn agent_crates() -> Result<Vec<Crate>, LockError> {
    crates_of(LOCK, "muster-agent")
}

/// All crates that `root` leads to in `lock`, without itself, sorted.
///
/// Build-time, test-time and other systems' crates are among them, because a lock file does not tell them apart.
fn crates_of(lock: &str, root: &str) -> Result<Vec<Crate>, LockError> {
    let lock: Lock = toml::from_str(lock)?;
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, package) in lock.package.iter().enumerate() {
        by_name.entry(&package.name).or_default().push(index);
    }
    let start = by_name.get(root).and_then(|found| found.first()).ok_or_else(|| LockError::Missing(root.to_owned()))?;
    let mut seen = vec![false; lock.package.len()];
    let mut open = vec![*start];
    seen[*start] = true;
    let mut found = Vec::new();
    while let Some(index) = open.pop() {
        for dependency in &lock.package[index].dependencies {
            // "name", or "name version" where the lock has several of that name.
            let mut words = dependency.split(' ');
            let (name, version) = (words.next().unwrap_or_default(), words.next());
            for next in by_name.get(name).into_iter().flatten().copied() {
                let package = &lock.package[next];
                if version.is_none_or(|v| v == package.version) && !seen[next] {
                    seen[next] = true;
                    open.push(next);
                    found.push(Crate {
                        name: package.name.clone(),
                        version: package.version.clone(),
                        checksum: package.checksum.clone(),
                    });
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_root_leads_to_is_listed_in_the_version_that_it_uses() {
        let lock = r#"
            version = 4
            [[package]]
            name = "agent"
            version = "0.1.0"
            dependencies = ["b 2.0.0", "c"]
            [[package]]
            name = "b"
            version = "1.0.0"
            [[package]]
            name = "b"
            version = "2.0.0"
            checksum = "00"
            [[package]]
            name = "c"
            version = "1.0.0"
            dependencies = ["b 2.0.0"]
            [[package]]
            name = "stranger"
            version = "1.0.0"
        "#;
        let names: Vec<String> = crates_of(lock, "agent")
            .expect("reads")
            .into_iter()
            .map(|c| format!("{} {} {}", c.name, c.version, c.checksum.unwrap_or_default()))
            .collect();
        assert_eq!(names, ["b 2.0.0 00", "c 1.0.0 "]);
        assert!(crates_of(lock, "nobody").is_err());
    }

    #[test]
    fn the_agent_has_its_engine_and_not_the_dispatchers_database() {
        let names: Vec<String> = agent_crates().expect("reads").into_iter().map(|c| c.name).collect();
        assert!(names.iter().any(|n| n == "tract-onnx"));
        assert!(!names.iter().any(|n| n == "sqlx" || n == "muster-dispatcher"));
    }
}
