//! Collects the signed metadata of a repository, wherever they come from, as a bundle's folder keeps them.

use muster_proto::transfer::Metadata;
use muster_proto::trust::{self, Repository, Role};

/// Why they are not complete.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// They cannot be had.
    #[error(transparent)]
    Source(E),
    /// A document is not there.
    #[error("there is no {0}")]
    Missing(String),
    /// A document does not follow from those before it.
    #[error(transparent)]
    Trust(trust::Error),
}

/// What was collected.
#[derive(Debug)]
pub struct Collected {
    /// The trusted repository.
    pub repository: Repository,
    /// The documents by their names in a folder: `1.root.json`, …, `timestamp.json`, `snapshot.json`, `targets.json`.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Walks the repository that `get` answers by file name (`2.root.json`, `timestamp.json`, `7.snapshot.json`), from `root`
/// where it is known, else from its first one. What expires does so at `now`, seconds since 1970, where it is given.
pub fn collect<E>(
    root: Option<&[u8]>,
    now: Option<u64>,
    mut get: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
) -> Result<Collected, Error<E>> {
    let mut find = |name: &str| get(name).map_err(Error::Source);
    let first = match root {
        Some(root) => root.to_vec(),
        None => find("1.root.json")?.ok_or_else(|| Error::Missing("1.root.json".into()))?,
    };
    let mut repository = Repository::new(&first).map_err(Error::Trust)?;
    let mut files = vec![(format!("{}.root.json", repository.root_version()), first)];
    loop {
        let name = format!("{}.root.json", repository.root_version().saturating_add(1));
        let Some(bytes) = find(&name)? else { break };
        repository.update_root(&bytes).map_err(Error::Trust)?;
        files.push((name, bytes));
    }
    while let Some(missing) = repository.missing() {
        let name = match &missing {
            Metadata::Timestamp => "timestamp.json".to_owned(),
            Metadata::Snapshot(version) => format!("{version}.snapshot.json"),
            Metadata::Targets(version) => format!("{version}.targets.json"),
            // A repository never names a root as missing.
            Metadata::Root(_) | Metadata::DirectorRoot(_) => break,
        };
        let bytes = find(&name)?.ok_or(Error::Missing(name))?;
        let taken = match missing {
            Metadata::Timestamp => repository.update_timestamp(&bytes, now),
            Metadata::Snapshot(_) => repository.update_snapshot(&bytes, now),
            _ => repository.update_targets(&bytes, now),
        };
        taken.map_err(Error::Trust)?;
    }
    let kept =
        [(Role::Timestamp, "timestamp.json"), (Role::Snapshot, "snapshot.json"), (Role::Targets, "targets.json")];
    for (role, name) in kept {
        files.extend(repository.bytes(role).map(|bytes| (name.to_owned(), bytes.to_vec())));
    }
    Ok(Collected { repository, files })
}
