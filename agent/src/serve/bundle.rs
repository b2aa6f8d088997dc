//! A bundle in a folder, with the signed metadata that vouch for it: what `muster model download` writes, and what lies
//! in an image. It is opened as a device opens what came over the network: nothing is loaded that does not follow from
//! the trust root.
//!
//! ```text
//! FOLDER/muster-manifest.json      the manifest, as signed
//! FOLDER/…                         the files under their paths of the manifest
//! FOLDER/.muster/trust/N.root.json the chain of roots
//! FOLDER/.muster/trust/{timestamp,snapshot,targets}.json
//! ```
//!
//! The metadata of a folder do not expire: they say what was signed, and a server that starts next year from the same
//! image shall serve the same. Freshness is for who asks a dispatcher.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use muster_proto::code::Code;
use muster_proto::id::{Digest, Hasher, ModelName, Version};
use muster_proto::manifest::{self, BundleManifest, MAX_MANIFEST, target_path};
use muster_proto::trust::{self, MAX_ROOT, MAX_SNAPSHOT, MAX_TARGETS, MAX_TIMESTAMP, Repository, choose};

/// The manifest's name in a folder.
pub const MANIFEST: &str = "muster-manifest.json";
/// The folder of the signed metadata, in that of the bundle.
pub const TRUST: &str = ".muster/trust";

/// Why a bundle is not served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or cannot be read. A retry may help.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A signed document is not what it should be. A retry cannot help.
    #[error("{}: {source}", path.display())]
    Trust {
        /// The document.
        path: PathBuf,
        /// The cause.
        source: trust::Error,
    },
    /// A file is not the one that was signed. A retry cannot help.
    #[error("{} is not the file that was signed", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The folder holds another model than the one that was asked for. A retry cannot help.
    #[error("{} holds {found}, and {wanted} was asked for", path.display())]
    Other {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What was asked for.
        wanted: String,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Read { .. } => Code::StoreFailed,
            Error::Trust { source, .. } => source.code(),
            Error::Changed { .. } => Code::DigestMismatch,
            Error::Other { .. } => Code::Conflict,
        }
    }
}

/// A version that follows from a trust root, and its files, each of them compared.
#[derive(Debug)]
pub struct Bundle {
    /// The manifest.
    pub manifest: BundleManifest,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Where its files lie, under their paths of the manifest.
    pub folder: PathBuf,
}

/// Which version a folder has to hold; what is `None` may be any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The model and its version.
    pub model: Option<(ModelName, Version)>,
    /// The digest of the manifest.
    pub digest: Option<Digest>,
}

/// The root in the bundle's own folder, for those who trust where the folder came from: the oldest of its chain.
pub fn enclosed_root(folder: &Path) -> Result<Vec<u8>, Error> {
    read(&folder.join(TRUST).join("1.root.json"), MAX_ROOT)
}

/// Opens the bundle in `folder`, which has to follow from `root` (invariant 1). Reads every byte of it.
pub fn open(folder: &Path, root: &[u8], wanted: &Wanted) -> Result<Bundle, Error> {
    let repository = repository(&folder.join(TRUST), root)?;
    let path = folder.join(MANIFEST);
    let bytes = read(&path, MAX_MANIFEST)?;
    let digest = Digest::of(&bytes);
    let claimed = BundleManifest::parse(&bytes).map_err(|source| {
        let source = trust::Error::Manifest { path: MANIFEST.into(), source };
        Error::Trust { path: path.clone(), source }
    })?;
    let other = |wanted: String| Error::Other {
        path: folder.to_owned(),
        found: format!("{}:{} ({})", claimed.model, claimed.version, digest.short()),
        wanted,
    };
    match &wanted.model {
        Some((model, version)) if (model, version) != (&claimed.model, &claimed.version) => {
            return Err(other(format!("{model}:{version}")));
        }
        _ => {}
    }
    if let Some(wanted) = wanted.digest.filter(|wanted| *wanted != digest) {
        return Err(other(wanted.to_string()));
    }
    let trusted = |source| Error::Trust { path: path.clone(), source };
    let target = choose(&repository, &target_path(&claimed.model, claimed.version)).map_err(trusted)?;
    let manifest = trust::verify_manifest(&target, &bytes).map_err(trusted)?.into_inner();
    for file in &manifest.files {
        compare(folder, file)?;
    }
    Ok(Bundle { manifest, digest, folder: folder.to_owned() })
}

/// The signed metadata in `folder`, which have to follow from `root`.
fn repository(folder: &Path, root: &[u8]) -> Result<Repository, Error> {
    let at = |name: &str| folder.join(name);
    let failed = |path: PathBuf| move |source| Error::Trust { path, source };
    let mut repository = Repository::new(root).map_err(failed(PathBuf::from("the trust root")))?;
    loop {
        let path = at(&format!("{}.root.json", repository.root_version().saturating_add(1)));
        if !path.exists() {
            break;
        }
        repository.update_root(&read(&path, MAX_ROOT)?).map_err(failed(path))?;
    }
    let path = at("timestamp.json");
    repository.update_timestamp(&read(&path, MAX_TIMESTAMP)?, None).map_err(failed(path))?;
    let path = at("snapshot.json");
    repository.update_snapshot(&read(&path, MAX_SNAPSHOT)?, None).map_err(failed(path))?;
    let path = at("targets.json");
    repository.update_targets(&read(&path, MAX_TARGETS)?, None).map_err(failed(path))?;
    Ok(repository)
}

/// At most `limit` bytes: one more is enough for the parser to refuse them.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

fn compare(folder: &Path, file: &manifest::File) -> Result<(), Error> {
    let path = folder.join(file.path.as_str());
    let failed = |source| Error::Read { path: path.clone(), source };
    let mut reader = File::open(&path).map_err(failed)?.take(file.size.saturating_add(1));
    let (mut hasher, mut buffer, mut size) = (Hasher::new(), vec![0; 1 << 16], 0);
    loop {
        let count = reader.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
    if size == file.size && hasher.finish() == file.digest { Ok(()) } else { Err(Error::Changed { path }) }
}
