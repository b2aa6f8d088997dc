//! After a crash, and day by day: what belongs to no version is taken back or cleared away.

use std::collections::BTreeSet;
use std::time::Duration;

use muster_proto::id::Digest;
use muster_proto::manifest::{parse_target_path, target_path};

use super::{Error, Registry};
use crate::blobs::Kind;

/// What belongs to no version is kept this long: it may be an upload whose registration is still to come.
const GRACE: Duration = Duration::from_secs(24 * 3600);
/// The most bytes of deltas that are kept.
const MAX_DELTA_BYTES: u64 = 4 << 30;

impl Registry {
    /// Makes signer and database agree after a crash between the two. A target without a row was never seen by
    /// anyone: it goes, and its number with it. A row without a target was about to be deleted: it stays whole.
    pub(super) async fn reconcile(&self) -> Result<(), Error> {
        let targets = self
            .signing
            .run(|signer| signer.targets().map(|(path, info)| (path.to_owned(), info.digest)).collect::<Vec<_>>());
        let targets = targets.await;
        let versions = self.storage.versions().await?;
        for (path, digest) in &targets {
            let row = versions.iter().find(|v| target_path(&v.model, v.version) == *path);
            if row.is_some_and(|row| row.digest == *digest) {
                continue;
            }
            tracing::warn!(target = %path, "a registration was cut off by a crash; it is taken back");
            if let Some((model, version)) = parse_target_path(path) {
                self.storage.use_up_version(&model, version).await?;
            }
            let path = path.clone();
            self.signing.run(move |signer| signer.remove_target(&path, crate::now())).await?;
        }
        for version in &versions {
            let path = target_path(&version.model, version.version);
            if targets.iter().any(|(target, digest)| *target == path && *digest == version.digest) {
                continue;
            }
            let Some(manifest) = self.storage.manifest(&version.model, version.version).await? else { continue };
            tracing::warn!(target = %path, "a deletion was cut off by a crash; the version stays");
            let (length, digest) = (manifest.len() as u64, version.digest);
            self.signing.run(move |signer| signer.add_target(&path, length, digest, None, crate::now())).await?;
        }
        Ok(())
    }

    /// How many bytes were uploaded and belong to no version.
    pub async fn unregistered_bytes(&self) -> Result<u64, Error> {
        let needed: BTreeSet<Digest> = self.storage.files().await?.iter().map(|f| f.digest).collect();
        let objects = self.blobs.list(Kind::Raw).await?;
        let stray = objects.iter().filter(|object| !needed.contains(&object.digest));
        Ok(stray.fold(0, |sum, object| sum.saturating_add(object.size)))
    }

    /// Clears away what no version needs and nobody has touched for a day.
    pub async fn clear_away(&self) -> Result<(), Error> {
        let _held = self.hold().await;
        let files = self.storage.files().await?;
        let raw: BTreeSet<Digest> = files.iter().map(|f| f.digest).collect();
        let mut blobs: BTreeSet<Digest> = files.iter().map(|f| f.blob).collect();
        blobs.extend(self.storage.versions().await?.iter().map(|v| v.digest));
        let deltas: BTreeSet<Digest> = self.storage.prune_deltas(MAX_DELTA_BYTES).await?.into_iter().collect();
        let mut cleared = 0;
        for (kind, needed) in [(Kind::Raw, raw), (Kind::Blob, blobs), (Kind::Delta, deltas)] {
            for object in self.blobs.list(kind).await? {
                if object.age > GRACE && !needed.contains(&object.digest) {
                    self.blobs.delete(kind, object.digest).await?;
                    cleared += 1;
                }
            }
        }
        if cleared > 0 {
            tracing::info!(cleared, "objects that no version needs were cleared away");
        }
        Ok(())
    }
}
