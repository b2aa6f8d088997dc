use super::envelope::{Opened, check_expiry};
use super::metadata::{RoleKeys, Root};
use super::{Error, Role};

/// A trusted root and the bytes that it came in; the model repository has one and the director another.
#[derive(Debug, Clone)]
pub(super) struct TrustedRoot {
    role: Role,
    pub(super) content: Root,
    pub(super) bytes: Vec<u8>,
}

impl TrustedRoot {
    /// Takes `bytes` as the root to begin with: it has to be signed by its own keys, and that is all there is to check.
    pub(super) fn initial(role: Role, bytes: &[u8]) -> Result<Self, Error> {
        let opened = Opened::<Root>::parse(role, bytes)?;
        opened.verify(&opened.content, &opened.content.roles.root)?;
        Ok(Self { role, content: opened.content, bytes: bytes.to_vec() })
    }

    /// The next root: one version up, signed by the threshold of this root and of its own keys
    /// (specification 5.3.4 and 5.3.5). Its expiry does not matter here, because a chain of roots is walked through
    /// expired ones (5.3.10).
    pub(super) fn next(&self, bytes: &[u8]) -> Result<Self, Error> {
        let opened = Opened::<Root>::parse(self.role, bytes)?;
        opened.verify(&self.content, &self.content.roles.root)?;
        opened.verify(&opened.content, &opened.content.roles.root)?;
        let (trusted, got) = (self.version(), opened.content.version.get());
        if got < trusted {
            return Err(Error::Rollback { role: self.role, trusted, got });
        }
        // Exactly one up (5.3.5): a skipped root may have revoked a key that signed the later one.
        if Some(got) != trusted.checked_add(1) {
            return Err(Error::Version { role: self.role, want: trusted.saturating_add(1), got });
        }
        Ok(Self { role: self.role, content: opened.content, bytes: bytes.to_vec() })
    }

    pub(super) fn version(&self) -> u64 {
        self.content.version.get()
    }

    pub(super) fn check_expiry(&self, now: Option<u64>) -> Result<(), Error> {
        check_expiry(self.role, self.content.expires, now)
    }
}

impl Root {
    /// Whether `keys` of this root and of `other` let the same keys sign with the same threshold.
    pub(super) fn same_keys(&self, other: &Root, keys: impl Fn(&Root) -> &RoleKeys) -> bool {
        let entries = |root: &Root| {
            let mut ids = keys(root).keyids.clone();
            ids.sort();
            ids.dedup();
            ids.into_iter().map(|id| (root.keys.get(&id).cloned(), id)).collect::<Vec<_>>()
        };
        keys(self).threshold == keys(other).threshold && entries(self) == entries(other)
    }
}
