//! API keys of services: only their digests are known here, and comparing takes the same time whatever is wrong.

use std::fmt;
use std::str::FromStr;

use muster_proto::id::Digest;
use serde::{Deserialize, Serialize};

/// The SHA-256 of a key. Keys are random, so that nothing slower is needed to keep them from being guessed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash(Digest);

impl Hash {
    /// The hash of `key` as a caller presents it.
    pub fn of(key: &str) -> Self {
        Self(Digest::of(key.as_bytes()))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({}…)", &self.0.short()[..6])
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Hash {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| "a key is given by its SHA-256, 64 hexadecimal digits".to_owned())
    }
}

impl TryFrom<String> for Hash {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> String {
        hash.to_string()
    }
}

/// The keys that open a service, all valid at once: a primary and a secondary, so that one can be replaced while the
/// other goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(pub Vec<Hash>);

impl Keys {
    /// Whether everybody may ask.
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `presented` is one of them. All are compared, and each bit of each, so that time tells nothing.
    pub fn accept(&self, presented: Option<Hash>) -> bool {
        let Some(presented) = presented else { return self.are_none() };
        let differs = |key: &Hash| key.0.0.iter().zip(presented.0.0).fold(0, |differs, (a, b)| differs | (a ^ b));
        let opens = self.0.iter().fold(false, |opens, key| opens | (differs(key) == 0));
        opens || self.are_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_keys_open_and_no_other_does() {
        let keys = Keys(vec![Hash::of("primary"), Hash::of("secondary")]);
        let table = [(Some("primary"), true), (Some("secondary"), true), (Some("Primary"), false), (Some(""), false)];
        for (key, opens) in table {
            assert_eq!(keys.accept(key.map(Hash::of)), opens, "{key:?}");
        }
        assert!(!keys.accept(None));
        assert!(Keys::default().accept(None) && Keys::default().accept(Some(Hash::of("any"))));
    }

    #[test]
    fn hashes_are_read_and_never_shown_in_logs() {
        let hash = Hash::of("key");
        assert_eq!(hash.to_string().parse::<Hash>(), Ok(hash));
        assert!("key".parse::<Hash>().is_err());
        assert!(!format!("{hash:?}").contains(&hash.to_string()));
    }
}
