//! The JSON documents of the OCI image format 1.1, as far as images of models need them. Knows no files.
//!
//! Fields are written in the order of these structs and maps are sorted, so equal content gives equal bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::platform::Platform;

/// The media type of an index of manifests.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of the manifest of one image or artifact.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an image's configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a layer.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The media type of the empty configuration of an artifact.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// The media type of a bill of materials.
pub const SBOM: &str = "application/vnd.cyclonedx+json";
/// The content of an artifact's configuration.
pub const EMPTY_CONTENT: &[u8] = b"{}";

/// The annotation that holds a descriptor's name in a layout: the tag.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation by which containerd names an image that it imports.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation that holds when something was made.
pub const CREATED: &str = "org.opencontainers.image.created";

/// A SHA-256 digest as OCI writes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobDigest(String);

/// The text is no digest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest of the form sha256:<64 hexadecimal digits>")]
pub struct NoDigest(String);

impl BlobDigest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(ring::digest::digest(&ring::digest::SHA256, bytes))
    }

    /// The digest that a running computation ended with.
    pub(super) fn finish(digest: ring::digest::Digest) -> Self {
        Self(hex::encode(digest))
    }

    /// The 64 digits.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for BlobDigest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        match text.strip_prefix("sha256:") {
            Some(digits) if digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                Ok(Self(digits.to_owned()))
            }
            _ => Err(NoDigest(text.to_owned())),
        }
    }
}

impl TryFrom<String> for BlobDigest {
    type Error = NoDigest;

    fn try_from(text: String) -> Result<Self, NoDigest> {
        text.parse()
    }
}

impl From<BlobDigest> for String {
    fn from(digest: BlobDigest) -> Self {
        digest.to_string()
    }
}

/// Names a blob by its digest, and says what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: BlobDigest,
    /// Its size in bytes.
    pub size: u64,
    /// What kind of artifact it is, where it is a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The machines that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescribedPlatform>,
    /// Free words about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Names `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, BlobDigest::of(bytes), bytes.len() as u64)
    }

    /// Names a blob without words about it.
    pub fn new(media_type: &str, digest: BlobDigest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            artifact_type: None,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// A platform in an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedPlatform {
    /// The architecture as Go names it.
    pub architecture: String,
    /// The operating system.
    pub os: String,
    /// The variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl From<Platform> for DescribedPlatform {
    fn from(platform: Platform) -> Self {
        Self {
            architecture: platform.architecture().to_owned(),
            os: "linux".to_owned(),
            variant: platform.variant().map(str::to_owned),
        }
    }
}

/// A list of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u8,
    /// [`INDEX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What it lists.
    pub manifests: Vec<Descriptor>,
    /// Free words about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>, annotations: BTreeMap<String, String>) -> Self {
        Self { schema_version: 2, media_type: Some(INDEX.to_owned()), manifests, annotations }
    }
}

/// An image for one platform, or an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u8,
    /// [`MANIFEST`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What kind of artifact it is, where it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// How it runs.
    pub config: Descriptor,
    /// Its files, the lowest first.
    pub layers: Vec<Descriptor>,
    /// What it is about, where it belongs to another manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free words about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// How a container runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the bundle was made.
    pub created: String,
    /// The platform.
    #[serde(flatten)]
    pub platform: DescribedPlatform,
    /// The process.
    pub config: Process,
    /// The digests of the unpacked layers.
    pub rootfs: RootFs,
    /// What each layer is.
    pub history: Vec<History>,
}

/// The process that a container starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Process {
    /// User and group.
    pub user: String,
    /// Ports that it listens on, as keys.
    pub exposed_ports: BTreeMap<String, BTreeMap<String, String>>,
    /// Its environment.
    pub env: Vec<String>,
    /// The program.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// Its folder.
    pub working_dir: String,
    /// Free words about it.
    pub labels: BTreeMap<String, String>,
    /// How it is asked to end.
    pub stop_signal: String,
}

/// The unpacked layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Their digests, the lowest first.
    pub diff_ids: Vec<BlobDigest>,
}

/// What a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When it was made.
    pub created: String,
    /// By what.
    pub created_by: String,
    /// What it holds.
    pub comment: String,
}

/// Says that a folder is a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayoutMark {
    /// The version of layouts.
    pub image_layout_version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_safe_in_a_path_is_a_digest() {
        let good = format!("sha256:{}", "0f".repeat(32));
        assert_eq!(good.parse::<BlobDigest>().expect("a digest").to_string(), good);
        for bad in [
            String::new(),
            "sha256:".to_owned(),
            format!("sha512:{}", "0f".repeat(32)),
            format!("sha256:{}", "0F".repeat(32)),
            format!("sha256:{}", "../".repeat(22)),
            "0f".repeat(32),
        ] {
            assert!(bad.parse::<BlobDigest>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_empty_configuration_has_the_digest_of_the_specification() {
        let wanted = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        assert_eq!(BlobDigest::of(EMPTY_CONTENT).to_string(), wanted);
    }
}
