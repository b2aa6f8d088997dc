use super::envelope::{Document, Opened, check_expiry};
use super::metadata::{MetaFile, RoleKeys, Root, Snapshot, TargetFile, TargetInfo, Targets, Timestamp};
use super::root::TrustedRoot;
use super::{Error, Role};
use crate::transfer::Metadata;

/// The trusted metadata of a model repository: the client workflow of the TUF specification (section 5), without I/O.
///
/// A caller walks the roots (`update_root` with version n + 1 until there is none), then offers a fresh timestamp, and
/// then whatever [`Repository::missing`] names, until it names nothing. An update that fails changes nothing.
///
/// `now` is in seconds since 1970; `None` says that the time is not trusted, and then nothing expires (invariant 11).
///
/// After each update the caller stores what [`Repository::bytes`] gives, for all roles in one transaction: a role that
/// has become `None` was dropped on purpose, and must not come back from the disk.
#[derive(Debug, Clone)]
pub struct Repository {
    root: TrustedRoot,
    timestamp: Option<Trusted<Timestamp>>,
    snapshot: Option<Trusted<Snapshot>>,
    targets: Option<Trusted<Targets>>,
}

/// A document whose signatures are those of the trusted root, and the bytes that it came in.
#[derive(Debug, Clone)]
struct Trusted<T> {
    content: T,
    bytes: Vec<u8>,
}

/// What an accepted document changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is now the trusted one.
    Updated,
    /// There was already one of this version, which stays.
    Unchanged,
}

/// Bytes that [`Repository::bytes`] gave earlier.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stored<'a> {
    /// Of the role timestamp.
    pub timestamp: Option<&'a [u8]>,
    /// Of the role snapshot.
    pub snapshot: Option<&'a [u8]>,
    /// Of the role targets.
    pub targets: Option<&'a [u8]>,
}

impl Repository {
    /// Begins with a root that is trusted because of where it came from.
    pub fn new(root: &[u8]) -> Result<Self, Error> {
        let root = TrustedRoot::initial(Role::Root, root)?;
        Ok(Self { root, timestamp: None, snapshot: None, targets: None })
    }

    /// Begins with what was stored, through the same checks of signatures as when it was received. What does not pass
    /// them is left out and named, with the reason: it is fetched again, but its rollback protection is lost, so report it.
    /// Documents that do not fit together (a power cut between two stores) are kept as the floor for what comes.
    pub fn restore(root: &[u8], stored: Stored<'_>) -> Result<(Self, Vec<(Role, Error)>), Error> {
        let mut repository = Self::new(root)?;
        let mut refused = Vec::new();
        let root = &repository.root.content;
        repository.timestamp = reopen(Role::Timestamp, root, stored.timestamp, &mut refused);
        repository.snapshot = reopen(Role::Snapshot, root, stored.snapshot, &mut refused);
        repository.targets = reopen(Role::Targets, root, stored.targets, &mut refused);
        Ok((repository, refused))
    }

    /// Takes the root that follows the trusted one.
    ///
    /// Where it changes the keys of timestamp or snapshot, both are dropped, so that versions that a thief of the old
    /// keys drove up can come down again (specification 5.3.11). Whatever the new root's keys have not signed is dropped too.
    pub fn update_root(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let next = self.root.next(bytes)?;
        let (old, new) = (&self.root.content, &next.content);
        let rotated = !old.same_keys(new, |r| &r.roles.timestamp) || !old.same_keys(new, |r| &r.roles.snapshot);
        if rotated {
            self.timestamp = None;
            self.snapshot = None;
        }
        let targets = self.targets.take().map(|t| t.bytes);
        self.targets = targets.and_then(|bytes| open(Role::Targets, new, &bytes).ok());
        self.root = next;
        Ok(())
    }

    /// Takes a timestamp. One of the trusted version changes nothing, whatever else it says (5.4.3.1).
    pub fn update_timestamp(&mut self, bytes: &[u8], now: Option<u64>) -> Result<Change, Error> {
        self.root.check_expiry(now)?;
        let new = open::<Timestamp>(Role::Timestamp, &self.root.content, bytes)?;
        if let Some(old) = &self.timestamp {
            let (trusted, got) = (old.content.version.get(), new.content.version.get());
            if got < trusted {
                return Err(Error::Rollback { role: Role::Timestamp, trusted, got });
            }
            if got == trusted {
                // Else an attacker could freeze a device at an expired timestamp by repeating it.
                check_expiry(Role::Timestamp, old.content.expires, now)?;
                return Ok(Change::Unchanged);
            }
        }
        let named = self.timestamp.as_ref().map_or(0, |old| old.content.meta.snapshot.version.get());
        let held = self.snapshot.as_ref().map_or(0, |old| old.content.version.get());
        let (trusted, got) = (named.max(held), new.content.meta.snapshot.version.get());
        if got < trusted {
            return Err(Error::Rollback { role: Role::Snapshot, trusted, got });
        }
        check_expiry(Role::Timestamp, new.content.expires, now)?;
        self.timestamp = Some(new);
        Ok(Change::Updated)
    }

    /// Takes the snapshot that the timestamp names.
    pub fn update_snapshot(&mut self, bytes: &[u8], now: Option<u64>) -> Result<Change, Error> {
        self.check_expiry(Role::Timestamp, now)?;
        let named = self.snapshot_version().ok_or(Error::Missing { role: Role::Timestamp })?;
        let new = open_named::<Snapshot>(Role::Snapshot, &self.root.content, named, bytes)?;
        if let Some(old) = &self.snapshot {
            if old.bytes == bytes {
                check_expiry(Role::Snapshot, old.content.expires, now)?;
                return Ok(Change::Unchanged);
            }
            refuse_older_roles(&old.content, &new.content)?;
        }
        check_expiry(Role::Snapshot, new.content.expires, now)?;
        self.snapshot = Some(new);
        Ok(Change::Updated)
    }

    /// Takes the top-level targets that the snapshot names.
    pub fn update_targets(&mut self, bytes: &[u8], now: Option<u64>) -> Result<Change, Error> {
        self.check_expiry(Role::Snapshot, now)?;
        let named = self.targets_version().ok_or(Error::Missing { role: Role::Snapshot })?;
        let new = open_named::<Targets>(Role::Targets, &self.root.content, named, bytes)?;
        check_expiry(Role::Targets, new.content.expires, now)?;
        if self.targets.as_ref().is_some_and(|old| old.bytes == bytes) {
            return Ok(Change::Unchanged);
        }
        self.targets = Some(new);
        Ok(Change::Updated)
    }

    /// The next document to fetch, or nothing where the set is complete. It never names a root: whether there is a newer
    /// one, only asking tells.
    pub fn missing(&self) -> Option<Metadata> {
        let Some(snapshot) = self.snapshot_version() else { return Some(Metadata::Timestamp) };
        let Some(targets) = self.targets_version() else { return Some(Metadata::Snapshot(snapshot.version.get())) };
        let current = self.targets.as_ref().is_some_and(|held| held.is(targets));
        if current { None } else { Some(Metadata::Targets(targets.version.get())) }
    }

    /// Fails where the time is trusted and `role` has expired, or where there is none. Metadata that were fresh when they
    /// came may have expired since.
    pub fn check_expiry(&self, role: Role, now: Option<u64>) -> Result<(), Error> {
        let expires = match role {
            Role::Root => Some(self.root.content.expires),
            Role::Timestamp => self.timestamp.as_ref().map(|held| held.content.expires),
            Role::Snapshot => self.snapshot.as_ref().map(|held| held.content.expires),
            Role::Targets => self.targets.as_ref().map(|held| held.content.expires),
            Role::DirectorRoot | Role::Director => None,
        };
        check_expiry(role, expires.ok_or(Error::Missing { role })?, now)
    }

    /// The trusted root's version.
    pub fn root_version(&self) -> u64 {
        self.root.version()
    }

    /// The trusted timestamp's version.
    pub fn timestamp_version(&self) -> Option<u64> {
        self.timestamp.as_ref().map(|held| held.content.version.get())
    }

    /// The snapshot that the timestamp names.
    pub fn snapshot_version(&self) -> Option<&MetaFile> {
        self.timestamp.as_ref().map(|held| &held.content.meta.snapshot)
    }

    /// The targets that the snapshot names; none while the snapshot is not the one that the timestamp names.
    pub fn targets_version(&self) -> Option<&MetaFile> {
        let named = self.snapshot_version()?;
        self.snapshot.as_ref().filter(|held| held.is(named)).map(|held| &held.content.meta.targets)
    }

    /// Whether file names on a mirror carry versions and digests.
    pub fn consistent_snapshot(&self) -> bool {
        self.root.content.consistent_snapshot
    }

    /// The trusted root.
    pub fn root(&self) -> &Root {
        &self.root.content
    }

    /// The trusted timestamp.
    pub fn timestamp(&self) -> Option<&Timestamp> {
        self.timestamp.as_ref().map(|held| &held.content)
    }

    /// The trusted snapshot; it may not be the one that the timestamp names, see [`Repository::missing`].
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref().map(|held| &held.content)
    }

    /// The trusted top-level targets; they may not be those that the snapshot names, see [`Repository::missing`].
    pub fn targets(&self) -> Option<&Targets> {
        self.targets.as_ref().map(|held| &held.content)
    }

    /// The bytes of `role` as they were received, to be stored.
    pub fn bytes(&self, role: Role) -> Option<&[u8]> {
        match role {
            Role::Root => Some(&self.root.bytes),
            Role::Timestamp => self.timestamp.as_ref().map(|held| held.bytes.as_slice()),
            Role::Snapshot => self.snapshot.as_ref().map(|held| held.bytes.as_slice()),
            Role::Targets => self.targets.as_ref().map(|held| held.bytes.as_slice()),
            Role::DirectorRoot | Role::Director => None,
        }
    }

    /// The target at `path`; none while a document is missing, or where the target has no SHA-256 digest.
    pub fn target(&self, path: &str) -> Option<TargetInfo> {
        self.target_file(path)?.info()
    }

    /// The target at `path` as the metadata have it; none while a document is missing.
    pub fn target_file(&self, path: &str) -> Option<&TargetFile> {
        if self.missing().is_some() {
            return None;
        }
        self.targets.as_ref()?.content.targets.get(path)
    }
}

impl<T: Document> Trusted<T> {
    /// Whether this is the document that the role above names.
    fn is(&self, named: &MetaFile) -> bool {
        self.content.version() == named.version && named.accepts(&self.bytes)
    }
}

/// A kind of metadata that the model repository's root names keys for.
trait TopLevel: Document {
    fn keys(root: &Root) -> &RoleKeys;
}

impl TopLevel for Timestamp {
    fn keys(root: &Root) -> &RoleKeys {
        &root.roles.timestamp
    }
}

impl TopLevel for Snapshot {
    fn keys(root: &Root) -> &RoleKeys {
        &root.roles.snapshot
    }
}

impl TopLevel for Targets {
    fn keys(root: &Root) -> &RoleKeys {
        &root.roles.targets
    }
}

/// Parses `bytes` and checks their signatures, nothing else.
fn open<T: TopLevel>(role: Role, root: &Root, bytes: &[u8]) -> Result<Trusted<T>, Error> {
    let opened = Opened::<T>::parse(role, bytes)?;
    opened.verify(root, T::keys(root))?;
    Ok(Trusted { content: opened.content, bytes: bytes.to_vec() })
}

/// As [`open`], where the role above names length, digest and version; the cheap checks come first.
fn open_named<T: TopLevel>(role: Role, root: &Root, named: &MetaFile, bytes: &[u8]) -> Result<Trusted<T>, Error> {
    if !named.accepts(bytes) {
        return Err(Error::Mismatch { role });
    }
    let new = open::<T>(role, root, bytes)?;
    let (want, got) = (named.version.get(), new.content.version().get());
    if want == got { Ok(new) } else { Err(Error::Version { role, want, got }) }
}

fn reopen<T: TopLevel>(
    role: Role,
    root: &Root,
    bytes: Option<&[u8]>,
    refused: &mut Vec<(Role, Error)>,
) -> Option<Trusted<T>> {
    open(role, root, bytes?).map_err(|error| refused.push((role, error))).ok()
}

/// Every role that the old snapshot lists has to be in the new one, and none may have gone back (5.5.5).
fn refuse_older_roles(old: &Snapshot, new: &Snapshot) -> Result<(), Error> {
    let (trusted, got) = (old.meta.targets.version.get(), new.meta.targets.version.get());
    if got < trusted {
        return Err(Error::Rollback { role: Role::Targets, trusted, got });
    }
    for (name, before) in &old.meta.delegated {
        let Some(after) = new.meta.delegated.get(name) else {
            return Err(Error::RoleRemoved { name: name.clone() });
        };
        if after.version < before.version {
            let (trusted, got) = (before.version.get(), after.version.get());
            return Err(Error::Rollback { role: Role::Targets, trusted, got });
        }
    }
    Ok(())
}
