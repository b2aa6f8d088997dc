//! Validated identifiers, parsed once at the edge. They know nothing of topics or paths.
//!
//! ```
//! use muster_proto::id::{DeviceId, Digest, ModelName};
//!
//! assert!("gateway-17".parse::<DeviceId>().is_ok());
//! assert!("gateway/17".parse::<DeviceId>().is_err());
//! assert!("vision/digits".parse::<ModelName>().is_ok());
//! assert!("../digits".parse::<ModelName>().is_err());
//! assert_eq!(Digest::of(b"").to_string().len(), 64);
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier of the wanted kind. Retrying cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct Error {
    /// What was being parsed, e.g. `device id`.
    pub kind: &'static str,
    /// The offending text, cut to 80 characters.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

fn error(kind: &'static str, value: &str, rule: &'static str) -> Error {
    Error { kind, value: value.chars().take(80).collect(), rule }
}

/// Letters, digits, `-`, `_` and `.`, starting with a letter or digit: safe as one level of an MQTT
/// topic, as a file name and as a URL segment.
fn check_segment(kind: &'static str, value: &str, max: usize) -> Result<(), Error> {
    let rule = "use 1 to 63 letters, digits, '-', '_' or '.', starting with a letter or digit";
    let mut bytes = value.bytes();
    let first_ok = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest_ok = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if first_ok && rest_ok && value.len() <= max { Ok(()) } else { Err(error(kind, value, rule)) }
}

// Shared, not copied: a dispatcher names each of its devices in many places.
macro_rules! segment_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(value: &str) -> Result<Self, Error> {
                check_segment($kind, value, 63)?;
                Ok(Self(value.into()))
            }
        }

        string_conversions!($name);
    };
}

macro_rules! string_conversions {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(value: String) -> Result<Self, Error> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

segment_id!(
    /// A tenant: devices, models and keys of one workspace never mix with another's.
    Workspace, "workspace"
);
segment_id!(
    /// A device, unique in its workspace; also its MQTT client id and certificate common name.
    DeviceId, "device id"
);
segment_id!(
    /// A static group of devices.
    GroupName, "group name"
);
segment_id!(
    /// A named place on a device where one model answers.
    SlotName, "slot name"
);

/// A model's name: one or more segments joined by `/`, at most 200 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(String);

impl ModelName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment as a slot name: where the model answers unless told otherwise.
    pub fn default_slot(&self) -> SlotName {
        let last = self.0.rsplit('/').next().unwrap_or(&self.0);
        SlotName(last.into())
    }
}

impl FromStr for ModelName {
    type Err = Error;
    fn from_str(value: &str) -> Result<Self, Error> {
        if value.len() > 200 {
            return Err(error("model name", value, "use at most 200 bytes"));
        }
        for segment in value.split('/') {
            check_segment("model name", segment, 63)
                .map_err(|e| Error { value: value.chars().take(80).collect(), ..e })?;
        }
        Ok(Self(value.to_owned()))
    }
}

string_conversions!(ModelName);

/// The number of a model's immutable content: 1, 2, 3 … per model name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Version {
    type Err = Error;
    fn from_str(value: &str) -> Result<Self, Error> {
        match value.parse::<u64>() {
            Ok(n) if n > 0 && !value.starts_with('+') => Ok(Self(n)),
            _ => Err(error("version", value, "use a whole number from 1 up")),
        }
    }
}

/// The number of a device's desired state; it only grows (invariant 3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A SHA-256 digest; as text 64 lower-case hexadecimal digits, in postcard 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The first 12 hexadecimal digits, for people and logs.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

/// SHA-256 in steps, for data that is not held in memory at once.
#[derive(Clone)]
pub struct Hasher(ring::digest::Context);

impl Hasher {
    /// An empty hash.
    pub fn new() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        let mut out = [0u8; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        Digest(out)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = Error;
    fn from_str(value: &str) -> Result<Self, Error> {
        let rule = "use 64 lower-case hexadecimal digits (SHA-256)";
        if value.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(error("digest", value, rule));
        }
        let mut out = [0u8; 32];
        hex::decode_to_slice(value, &mut out).map_err(|_| error("digest", value, rule))?;
        Ok(Self(out))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(deserializer).map(Self)
        }
    }
}

/// A file's place inside its bundle: relative, `/`-separated, never climbing out, at most 200 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilePath(String);

impl FilePath {
    /// The path as text, `/`-separated.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FilePath {
    type Err = Error;
    fn from_str(value: &str) -> Result<Self, Error> {
        let rule = "use a relative path of at most 200 bytes whose parts hold letters, digits, ' ', '-', '_', '.', '+', '=', ',' or '@' and are not '.' or '..'";
        let part_ok = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.len() <= 120
                && part.chars().all(|c| c.is_alphanumeric() || " -_.+=,@()".contains(c))
        };
        if value.len() <= 200 && value.split('/').all(part_ok) {
            Ok(Self(value.to_owned()))
        } else {
            Err(error("file path", value, rule))
        }
    }
}

string_conversions!(FilePath);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_that_could_climb_or_wildcard_are_refused() {
        for bad in ["", ".", "..", "a/b", "a+b", "#", "-x", "a b", "ä", &"x".repeat(64), "a\0b", "$SYS"] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?} was accepted");
            assert!(serde_json::from_value::<DeviceId>(bad.into()).is_err());
        }
        for good in ["a", "gateway-17", "A.b_c-9", &"x".repeat(63)] {
            assert_eq!(good.parse::<DeviceId>().expect("valid").as_str(), good);
        }
    }

    #[test]
    fn model_names_are_segments() {
        for bad in ["", "/", "a//b", "/a", "a/", "a/../b", "a/.b"] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("vision/digits".parse::<ModelName>().expect("valid").default_slot().as_str(), "digits");
    }

    #[test]
    fn file_paths_never_leave_their_folder() {
        for bad in ["", "/etc/passwd", "../x", "a/../../b", "a//b", "./a", "a\\b", "C:evil", "a\nb", "a/"] {
            assert!(bad.parse::<FilePath>().is_err(), "{bad:?} was accepted");
        }
        for good in ["model.onnx", "weights/layer 1.bin", "labels_ä.txt"] {
            assert!(good.parse::<FilePath>().is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn versions_start_at_one() {
        for bad in ["0", "-1", "+1", "1.0", "", "latest"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("17".parse::<Version>(), Ok(Version(17)));
    }

    #[test]
    fn digests_are_hex_in_json_and_raw_in_postcard() {
        let digest = Digest::of(b"abc");
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), hex);
        assert_eq!(serde_json::to_string(&digest).expect("json"), format!("\"{hex}\""));
        assert_eq!(postcard::to_stdvec(&digest).expect("postcard").len(), 32);
        assert!(hex.to_uppercase().parse::<Digest>().is_err());
        assert!(hex[1..].parse::<Digest>().is_err());
    }
}
