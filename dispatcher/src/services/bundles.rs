//! Bundles in folders, as a scoring server opens them: the files of a version, and the signed metadata of the moment.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use muster_agent::serve::bundle::{MANIFEST, TRUST};
use muster_agent::serve::metadata::collect;
use muster_proto::id::{Digest, ModelName, Version};
use muster_proto::manifest::BundleManifest;
use muster_proto::transfer::Metadata;

use super::Error;
use crate::blobs::{self, Blobs, Kind};
use crate::signing::Signing;
use crate::storage::Storage;

/// Where bundles are laid out. Clones share it.
#[derive(Clone)]
pub struct Bundles {
    blobs: Blobs,
    storage: Storage,
    signing: Signing,
    folder: PathBuf,
}

impl Bundles {
    /// Bundles under `folder`.
    pub fn new(blobs: Blobs, storage: Storage, signing: Signing, folder: PathBuf) -> Self {
        Self { blobs, storage, signing, folder }
    }

    /// The file with the workspace's first root, from which every bundle follows.
    pub async fn root(&self) -> Result<PathBuf, Error> {
        let path = self.folder.join("root.json");
        let bytes = self.signing.run(|signer| signer.metadata(&Metadata::Root(1))).await.unwrap_or_default();
        if tokio::fs::read(&path).await.is_ok_and(|held| held == bytes) {
            return Ok(path);
        }
        tokio::fs::create_dir_all(&self.folder).await.map_err(at(&self.folder))?;
        let hidden = self.folder.join(".root.json");
        tokio::fs::write(&hidden, bytes).await.map_err(at(&hidden))?;
        tokio::fs::rename(&hidden, &path).await.map_err(at(&path))?;
        Ok(path)
    }

    /// The folder with the bundle of `model:version`, made where it is not there yet.
    pub async fn lay_out(&self, model: &ModelName, version: Version, digest: Digest) -> Result<PathBuf, Error> {
        let folder = self.folder.join(digest.to_string());
        if tokio::fs::try_exists(&folder).await.unwrap_or(false) {
            return Ok(folder);
        }
        tokio::fs::create_dir_all(&self.folder).await.map_err(at(&self.folder))?;
        // Two that lay out the same version at once do not meet: the second rename finds the first one's folder.
        let staging = self.folder.join(format!(".{digest}.{}", crate::app::random_name()));
        let filled = self.fill(&staging, model, version, digest).await;
        let placed = match filled {
            Ok(()) => tokio::fs::rename(&staging, &folder).await.map_err(at(&folder)),
            Err(error) => Err(error),
        };
        if placed.is_err() {
            // What is left is removed; that it was not made is the error that counts.
            let _ = tokio::fs::remove_dir_all(&staging).await;
        }
        match placed {
            Err(_) if tokio::fs::try_exists(&folder).await.unwrap_or(false) => Ok(folder),
            other => other.map(|()| folder),
        }
    }

    /// Writes a bundle with its metadata into `folder`, which is made.
    pub async fn fill(&self, folder: &Path, model: &ModelName, version: Version, digest: Digest) -> Result<(), Error> {
        let trust = folder.join(TRUST);
        tokio::fs::create_dir_all(&trust).await.map_err(at(&trust))?;
        for (name, bytes) in self.metadata().await {
            let path = trust.join(name);
            tokio::fs::write(&path, bytes).await.map_err(at(&path))?;
        }
        let missing = || blobs::Error::Missing { kind: Kind::Blob, digest };
        let bytes = self.storage.manifest(model, version).await?.ok_or_else(missing)?;
        let manifest = BundleManifest::parse(&bytes).map_err(|_| missing())?;
        let path = folder.join(MANIFEST);
        tokio::fs::write(&path, &bytes).await.map_err(at(&path))?;
        for file in &manifest.files {
            let path = folder.join(file.path.as_str());
            if let Some(parent) = path.parent() {
                tokio::fs::create_dir_all(parent).await.map_err(at(parent))?;
            }
            self.blobs.copy_to(Kind::Raw, file.digest, &path).await?;
        }
        Ok(())
    }

    /// The signed metadata of now, by file name.
    async fn metadata(&self) -> Vec<(String, Vec<u8>)> {
        let collected = self.signing.run(|signer| {
            collect(None, None, |name| {
                Ok::<_, Infallible>(crate::app::tuf_file(name).and_then(|file| signer.metadata(&file)))
            })
        });
        // The signer's own documents follow from one another.
        collected.await.map(|collected| collected.files).unwrap_or_default()
    }
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Disk { path, source }
}
