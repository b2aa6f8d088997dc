//! From received bytes to a typed document and its signatures. Nothing here decides what is trusted.

use std::num::NonZeroU64;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::json::Value;
use super::key::count_signers;
use super::metadata::{Expires, RoleKeys, Root, Snapshot, Targets, Timestamp};
use super::{Error, Role};

/// The largest root in bytes. Stops a mirror from filling memory with an endless root before any key is known.
pub const MAX_ROOT: usize = 512 * 1024;
/// The largest timestamp in bytes. It is fetched unconditionally and most often, so it is what an endless-data
/// attack would answer; nothing signed tells its length beforehand.
pub const MAX_TIMESTAMP: usize = 16 * 1024;
/// The largest snapshot in bytes. Stops endless data where the timestamp does not name a length.
pub const MAX_SNAPSHOT: usize = 2 * 1024 * 1024;
/// The largest targets metadata in bytes. Stops endless data where the snapshot does not name a length, and bounds
/// what a stolen publisher key can make every device parse.
pub const MAX_TARGETS: usize = 5 * 1024 * 1024;

/// A kind of TUF metadata.
pub(super) trait Document: DeserializeOwned {
    fn version(&self) -> NonZeroU64;
}

macro_rules! document {
    ($($name:ident),+) => {
        $(impl Document for $name {
            fn version(&self) -> NonZeroU64 {
                self.version
            }
        })+
    };
}

document!(Root, Timestamp, Snapshot, Targets);

/// A document as it was parsed, not yet trusted.
pub(super) struct Opened<T> {
    role: Role,
    pub(super) content: T,
    canonical: Vec<u8>,
    signatures: Vec<(String, Vec<u8>)>,
}

impl<T: Document> Opened<T> {
    /// Parses `bytes` as `role`; size first, so that nothing of what is too large is parsed.
    pub(super) fn parse(role: Role, bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            signed: Value<'a>,
            #[serde(borrow, rename = "signatures")]
            _signatures: Value<'a>,
        }
        #[derive(Deserialize)]
        struct Typed<T> {
            signed: T,
            signatures: Vec<RawSignature>,
        }
        #[derive(Deserialize)]
        struct RawSignature {
            keyid: String,
            sig: String,
        }

        let limit = limit_of(role);
        if bytes.len() > limit {
            let bytes = bytes.len() as u64;
            return Err(Error::TooLarge { subject: format!("{role} metadata"), bytes, limit: limit as u64 });
        }
        let malformed = |e: serde_json::Error| Error::Malformed { role, reason: e.to_string() };
        // The first pass refuses doubled keys at every depth, so that both passes see the same document.
        let raw: Raw<'_> = serde_json::from_slice(bytes).map_err(malformed)?;
        let canonical = raw.signed.canonical();
        drop(raw);
        let typed: Typed<T> = serde_json::from_slice(bytes).map_err(malformed)?;
        // A signature that is not hexadecimal is one that does not verify.
        let decode = |s: RawSignature| Some((s.keyid, hex::decode(s.sig).ok()?));
        let signatures = typed.signatures.into_iter().filter_map(decode).collect();
        Ok(Self { role, content: typed.signed, canonical, signatures })
    }

    /// Checks that the threshold of `keys` in `root` has signed it.
    pub(super) fn verify(&self, root: &Root, keys: &RoleKeys) -> Result<(), Error> {
        let signatures = self.signatures.iter().map(|(id, value)| (id.as_str(), value.as_slice()));
        verify(self.role, root, keys, &self.canonical, signatures)
    }
}

/// Checks that the threshold of `keys` in `root` has signed `message`.
pub(super) fn verify<'a>(
    role: Role,
    root: &Root,
    keys: &RoleKeys,
    message: &[u8],
    signatures: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), Error> {
    let threshold = keys.threshold.get();
    let valid = count_signers(&root.keys, &keys.keyids, threshold, message, signatures);
    if valid >= threshold { Ok(()) } else { Err(Error::Signatures { role, valid, threshold }) }
}

/// Fails where `now` is trusted and `expires` has come (invariant 11).
pub(super) fn check_expiry(role: Role, expires: Expires, now: Option<u64>) -> Result<(), Error> {
    match now {
        Some(now) if now >= expires.seconds() => Err(Error::Expired { role, at: expires.seconds() }),
        Some(_) | None => Ok(()),
    }
}

fn limit_of(role: Role) -> usize {
    match role {
        Role::Root | Role::DirectorRoot => MAX_ROOT,
        Role::Timestamp => MAX_TIMESTAMP,
        Role::Snapshot => MAX_SNAPSHOT,
        Role::Targets => MAX_TARGETS,
        // A desired state is not TUF metadata; its cap is that of a message.
        Role::Director => crate::wire::MAX_MESSAGE,
    }
}
