//! Models: uploads, registration, lists, tags, deletion.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::Stream;
use muster_proto::id::{Digest, ModelName, Version};
use muster_proto::manifest::{BundleManifest, target_path};

use super::view::{ModelFilter, ModelSummary, ModelView, Principal, Registered, Registration, Uploaded, WatchEvent};
use super::{App, Download, Error, Result};
use crate::blobs::Kind;
use crate::domain::Event;
use crate::domain::device::labels_match;
use crate::domain::registry::{check_labels, deletion_blockers, name_matches};
use crate::storage::VersionRecord;

/// The most bytes that may be uploaded and not yet registered (invariant 10).
const MAX_UNREGISTERED: u64 = 32 << 30;
/// How many of those that desire a version are named.
const MAX_NAMED: usize = 100;

impl App {
    /// The largest raw file that is taken in, in bytes.
    pub fn upload_limit(&self) -> u64 {
        self.0.upload_limit
    }

    /// Takes a raw file in, piece by piece, and keeps it under `digest` until a registration uses it; what no
    /// registration uses is deleted after a day. Refused where the bytes have another digest or exceed
    /// [`App::upload_limit`]. The same file again is taken without harm.
    pub async fn upload_blob<S, E>(&self, digest: Digest, body: S) -> Result<Uploaded>
    where
        S: Stream<Item = std::result::Result<Bytes, E>> + Send + Unpin,
        E: std::error::Error + Send + Sync + 'static,
    {
        let waiting = self.0.registry.unregistered_bytes().await?;
        if waiting > MAX_UNREGISTERED {
            return Err(Error::conflict(format!(
                "{waiting} bytes were uploaded and never registered: register them, or wait a day until they are deleted"
            )));
        }
        let size = self.0.blobs.upload(Kind::Raw, digest, self.0.upload_limit, body).await?;
        Ok(Uploaded { digest, size })
    }

    /// The raw file with `digest`, where it is here already and need not be uploaded.
    pub async fn find_blob(&self, digest: Digest) -> Result<Option<Uploaded>> {
        Ok(self.0.blobs.size(Kind::Raw, digest).await?.map(|size| Uploaded { digest, size }))
    }

    /// Registers a version: loads it with the devices' engine, probes it, signs it. All or nothing.
    pub async fn register_model(&self, registration: Registration, by: &Principal) -> Result<Registered> {
        let (app, by) = (self.clone(), by.clone());
        self.to_the_end(async move {
            let (watch, model) = (app.0.watch.clone(), registration.name.clone());
            let step = move |step: &str| {
                let _ = watch.send(WatchEvent::Registration { model: model.clone(), step: step.to_owned() });
            };
            let registered = app.0.registry.register(registration, &by.name, step).await?;
            if !registered.already_registered {
                let subject = format!("{}:{}", registered.model, registered.version);
                app.record(&by, "model.register", &subject, &registered.digest.to_string()).await;
            }
            Ok(registered)
        })
        .await
    }

    /// Every version that matches, by name and then version.
    pub async fn list_models(&self, filter: &ModelFilter) -> Result<Vec<ModelSummary>> {
        let mut found = Vec::new();
        for version in self.0.storage.versions().await? {
            if filter.name.as_ref().is_some_and(|pattern| !name_matches(pattern, &version.model)) {
                continue;
            }
            let summary = summary(version)?;
            if labels_match(&filter.tags, &summary.tags) && labels_match(&filter.properties, &summary.properties) {
                found.push(summary);
            }
        }
        Ok(found)
    }

    /// One version; the newest where none is named.
    pub async fn show_model(&self, name: &ModelName, version: Option<Version>) -> Result<ModelView> {
        let version = self.resolve(name, version).await?;
        let record = self.version(name, version).await?;
        let manifest = self.manifest(name, version).await?;
        let mut desired_by = deletion_blockers(&self.0.driver.fleet(), record.digest);
        desired_by.truncate(MAX_NAMED);
        Ok(ModelView { summary: summary(record)?, manifest, target: target_path(name, version), desired_by })
    }

    /// The signed manifest's exact bytes.
    pub async fn download_manifest(&self, name: &ModelName, version: Version) -> Result<Bytes> {
        let bytes = self.0.storage.manifest(name, version).await?;
        bytes.map(Bytes::from).ok_or_else(|| unknown(name, version))
    }

    /// A raw file of a version, by digest, as a stream; the caller compares digest and size.
    pub async fn download_file(&self, name: &ModelName, version: Version, digest: Digest) -> Result<Download> {
        let manifest = self.manifest(name, version).await?;
        let file = manifest.files.into_iter().find(|file| file.digest == digest);
        let file = file.ok_or_else(|| Error::NotFound(format!("file {digest} in {name}:{version}")))?;
        let (size, body) = self.0.blobs.stream(Kind::Raw, digest).await?;
        Ok(Download { size, digest, path: file.path.into(), body })
    }

    /// Sets the tags in `set` and removes those in `remove`; answers with all tags.
    pub async fn tag_model(
        &self,
        name: &ModelName,
        version: Version,
        set: BTreeMap<String, String>,
        remove: Vec<String>,
        by: &Principal,
    ) -> Result<BTreeMap<String, String>> {
        let _held = self.0.registry.hold().await;
        let mut tags = self.version(name, version).await?.tags;
        for key in &remove {
            tags.remove(key);
        }
        tags.extend(set);
        check_labels("tag", &tags).map_err(Error::BadRequest)?;
        self.0.storage.set_tags(name, version, &tags).await?;
        let detail = serde_json::to_string(&tags).unwrap_or_default();
        self.record(by, "model.tag", &format!("{name}:{version}"), &detail).await;
        Ok(tags)
    }

    /// Deletes a version; refused with [`Error::Conflict`] and what desires it. Its number is never used again.
    pub async fn delete_model(&self, name: &ModelName, version: Version, by: &Principal) -> Result<()> {
        let (app, name, by) = (self.clone(), name.clone(), by.clone());
        self.to_the_end(async move {
            // Rollouts start under the same hold, so that none begins between the question and the deletion.
            let _held = app.0.registry.hold().await;
            let digest = app.version(&name, version).await?.digest;
            let services = app.services_with(digest).await?;
            app.decide(move |fleet| {
                let mut blockers = deletion_blockers(fleet, digest);
                blockers.extend(services);
                if blockers.is_empty() {
                    return Ok((Some(Event::VersionDeleted(digest)), ()));
                }
                let message = match blockers.len() {
                    1 => "the version is still desired, in one place".to_owned(),
                    places => format!("the version is still desired, in {places} places"),
                };
                blockers.truncate(MAX_NAMED);
                Err(Error::Conflict { message, blockers })
            })
            .await?;
            app.0.registry.delete(&name, version).await?;
            app.record(&by, "model.delete", &format!("{name}:{version}"), &digest.to_string()).await;
            Ok(())
        })
        .await
    }

    /// The version that is meant: the one named, or the newest.
    pub(super) async fn resolve(&self, name: &ModelName, version: Option<Version>) -> Result<Version> {
        if let Some(version) = version {
            return Ok(version);
        }
        let newest = self.0.storage.model(name).await?.versions.last().map(|(version, _)| *version);
        newest.ok_or_else(|| Error::NotFound(format!("model {name}")))
    }

    pub(super) async fn version(&self, name: &ModelName, version: Version) -> Result<VersionRecord> {
        self.0.storage.version(name, version).await?.ok_or_else(|| unknown(name, version))
    }

    async fn manifest(&self, name: &ModelName, version: Version) -> Result<BundleManifest> {
        let bytes = self.download_manifest(name, version).await?;
        BundleManifest::parse(&bytes).map_err(|e| Error::internal("the stored manifest", e))
    }
}

fn unknown(name: &ModelName, version: Version) -> Error {
    Error::NotFound(format!("version {name}:{version}"))
}

fn summary(version: VersionRecord) -> Result<ModelSummary> {
    let summary: ModelSummary =
        serde_json::from_str(&version.summary).map_err(|e| Error::internal("a version's record", e))?;
    Ok(ModelSummary { tags: version.tags, ..summary })
}
