//! Registration: from uploaded files to a signed version that the devices' own engine has run.
//!
//! All or nothing: the signature comes last, then the row that makes the version visible. What a crash leaves in
//! between is taken back at the next start, and its number is never given again.

mod bundle;
mod cleanup;
mod inspect;
mod request;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use muster_proto::code::Code;
use muster_proto::id::{Digest, FilePath, ModelName, Version};
use muster_proto::manifest::{self, BundleManifest, Engine, SCHEMA, SCHEMA_WITH_SCRIPT, Samples, target_path};
use tokio::sync::{Mutex, MutexGuard, Semaphore};

use crate::app::view::{ModelSummary, Registered, Registration, RegistrationReport};
use crate::blobs::{self, Blobs, Kind};
use crate::domain::registry::{Placement, place};
use crate::signer;
use crate::signing::Signing;
use crate::storage::{self, FileRecord, Storage, VersionRecord};

/// Where the golden samples lie in a bundle.
pub const SAMPLES_FILE: &str = ".muster/samples";

/// Why a version is not registered; in each case nothing of it is visible.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule; a retry cannot help.
    #[error("{0}")]
    Request(String),
    /// The engine, the samples or the transforms stand against it; a retry with the same cannot help.
    #[error("{message}")]
    Refused {
        /// The code.
        code: Code,
        /// Why, for people.
        message: String,
    },
    /// A file was not uploaded, or was cleared away since; uploading it again helps.
    #[error("the file {path} ({digest}) has not been uploaded, or was cleared away after a day: upload it again")]
    NotUploaded {
        /// Its place in the bundle.
        path: FilePath,
        /// Its digest.
        digest: Digest,
    },
    /// The manifest would be too large or break a rule of its schema.
    #[error("the manifest cannot be made")]
    Manifest(#[from] manifest::Error),
    /// Files could not be read or stored; a retry may help.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// The database failed; a retry may help.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The signer failed; a retry may help.
    #[error("the version could not be signed")]
    Signer(#[from] signer::Error),
    /// The local disk failed; a retry may help, e.g. once it has space again.
    #[error("the working folder {} could not be used", .path.display())]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Work on another thread was lost; a retry may help.
    #[error("a part of the registration was lost")]
    Lost(#[from] tokio::task::JoinError),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Request(_) => Code::BadRequest,
            Error::Refused { code, .. } => *code,
            Error::NotUploaded { .. } => Code::NotFound,
            Error::Manifest(manifest::Error::TooLarge(_)) => Code::TooLarge,
            Error::Manifest(_) => Code::ManifestInvalid,
            Error::Blobs(error) => error.code(),
            Error::Storage(error) => error.code(),
            Error::Folder { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Code::DiskFull,
            Error::Signer(error) if error.code() == Code::DiskFull => Code::DiskFull,
            Error::Signer(_) | Error::Folder { .. } => Code::StoreFailed,
            Error::Lost(_) => Code::Internal,
        }
    }
}

/// The registry. Clones share it.
#[derive(Clone)]
pub struct Registry {
    storage: Storage,
    blobs: Blobs,
    signing: Signing,
    /// Where files lie while they are looked at.
    work: PathBuf,
    /// One at a time: each may load a large model.
    heavy: Arc<Semaphore>,
    /// Whoever changes which versions exist, or relies on one to go on existing, holds this.
    catalog: Arc<Mutex<()>>,
}

/// Everything of a version but its number.
struct Prepared {
    manifest: BundleManifest,
    content: Digest,
    warnings: Vec<String>,
    report: RegistrationReport,
}

impl Registry {
    /// The registry over these stores; `work` is emptied, and what a crash left half registered is taken back.
    pub async fn open(storage: Storage, blobs: Blobs, signing: Signing, work: PathBuf) -> Result<Self, Error> {
        let made = {
            let work = work.clone();
            tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&work) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => std::fs::create_dir_all(&work),
            })
        };
        made.await?.map_err(|source| Error::Folder { path: work.clone(), source })?;
        let heavy = Arc::new(Semaphore::new(1));
        let registry = Self { storage, blobs, signing, work, heavy, catalog: Arc::default() };
        registry.reconcile().await?;
        Ok(registry)
    }

    /// Holds the catalogue still: no version comes or goes until the guard is dropped.
    pub async fn hold(&self) -> MutexGuard<'_, ()> {
        self.catalog.lock().await
    }

    /// Registers a version; `step` is told what is being done.
    pub async fn register(
        &self,
        registration: Registration,
        by: &str,
        step: impl Fn(&str) + Send + Sync,
    ) -> Result<Registered, Error> {
        let content = request::check(&registration)?;
        let entry = request::entry(&registration)?;
        if let Some(same) = self.same(&registration.name, content).await? {
            return Ok(same);
        }
        step("waiting for earlier registrations");
        let permit = self.heavy.acquire().await.expect("the semaphore is never closed");
        // It may have been registered while this one waited.
        if let Some(same) = self.same(&registration.name, content).await? {
            return Ok(same);
        }
        let prepared = self.prepare(&registration, entry, content, &step).await?;
        drop(permit);
        step("signing");
        self.publish(&registration, prepared, by).await
    }

    /// Deletes a version whose deletion nothing stands against; the caller holds the catalogue.
    pub async fn delete(&self, model: &ModelName, version: Version) -> Result<(), Error> {
        let path = target_path(model, version);
        // The signature first: a row without it is mended at the next start, and nobody can be told to run it.
        self.signing.run(move |signer| signer.remove_target(&path, crate::now())).await?;
        self.storage.delete_version(model, version).await?;
        tracing::info!(%model, %version, "version deleted");
        Ok(())
    }

    async fn same(&self, model: &ModelName, content: Digest) -> Result<Option<Registered>, Error> {
        let known = self.storage.model(model).await?;
        let Placement::Same(version) = place(known.last_version, &known.versions, content) else { return Ok(None) };
        let Some(bytes) = self.storage.manifest(model, version).await? else { return Ok(None) };
        Ok(Some(Registered {
            model: model.clone(),
            version,
            already_registered: true,
            digest: Digest::of(&bytes),
            manifest: BundleManifest::parse(&bytes)?,
            warnings: Vec::new(),
            report: None,
        }))
    }

    async fn prepare(
        &self,
        registration: &Registration,
        entry: FilePath,
        content: Digest,
        step: &(impl Fn(&str) + Send + Sync),
    ) -> Result<Prepared, Error> {
        let started = Instant::now();
        step("collecting files");
        let folder = bundle::collect(&self.blobs, &self.work, registration).await?;
        step("loading and running the model");
        let asked = inspect::Asked {
            entry: folder.path().join(entry.as_str()),
            folder: folder.path().to_owned(),
            files: registration.files.iter().map(|f| f.path.clone()).collect(),
            input_shapes: registration.input_shapes.clone(),
            samples: registration.samples.clone(),
            transforms: registration.transforms.clone().unwrap_or_default(),
            tolerance: registration.tolerance.unwrap_or_default(),
            script: registration.script.clone(),
        };
        let transforms = asked.transforms.clone();
        let tolerance = asked.tolerance;
        let found = tokio::task::spawn_blocking(move || inspect::inspect(&asked)).await??;
        step("compressing");
        let mut files = Vec::new();
        for file in &registration.files {
            files.push(bundle::pack(&self.blobs, folder.path(), file).await?);
        }
        let samples = SAMPLES_FILE.parse().map_err(|e| Error::Request(format!("{e}")))?;
        files.push(bundle::pack_bytes(&self.blobs, folder.path(), &samples, found.samples_bytes).await?);
        let manifest = BundleManifest {
            schema: if found.script.is_some() { SCHEMA_WITH_SCRIPT } else { SCHEMA },
            model: registration.name.clone(),
            version: Version(1),
            description: registration.description.clone(),
            properties: registration.properties.clone(),
            created_at: 0,
            entry,
            files,
            engine: Engine { name: found.engine.into(), version: found.engine_version.into(), load: found.load },
            inputs: found.inputs,
            outputs: found.outputs,
            transforms,
            samples: Samples { file: samples, count: found.samples, outputs_from: found.outputs_from, tolerance },
            measured: found.measured,
            requires: registration.requires.clone(),
            script: found.script,
        };
        let report = RegistrationReport {
            load_notes: found.load_notes,
            samples: found.samples,
            outputs_from: found.outputs_from,
            max_abs_error: found.max_abs_error,
            size: manifest.total_size(),
            blob_size: manifest.blob_size(),
            took_ms: started.elapsed().as_millis() as u64,
        };
        Ok(Prepared { manifest, content, warnings: found.warnings, report })
    }

    async fn publish(&self, registration: &Registration, prepared: Prepared, by: &str) -> Result<Registered, Error> {
        let Prepared { mut manifest, content, warnings, report } = prepared;
        let _held = self.hold().await;
        let known = self.storage.model(&registration.name).await?;
        let version = match place(known.last_version, &known.versions, content) {
            Placement::New(version) => version,
            Placement::Same(_) => match self.same(&registration.name, content).await? {
                Some(same) => return Ok(same),
                None => return Err(Error::Request("the same content was deleted just now: try again".into())),
            },
        };
        manifest.version = version;
        manifest.created_at = crate::now();
        let bytes = Bytes::from(manifest.to_bytes()?);
        let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
        self.blobs.write(Kind::Blob, bytes.clone()).await?;
        // Clearing away holds the catalogue as well: what is here now stays, because a version needs it.
        for file in &manifest.files {
            let raw = self.blobs.size(Kind::Raw, file.digest).await?;
            let blob = self.blobs.size(Kind::Blob, file.blob.digest).await?;
            if raw != Some(file.size) || blob != Some(file.blob.size) {
                return Err(Error::NotUploaded { path: file.path.clone(), digest: file.digest });
            }
        }
        let path = manifest.target_path();
        let target = path.clone();
        self.signing.run(move |signer| signer.add_target(&target, length, digest, None, crate::now())).await?;
        let record = VersionRecord {
            model: manifest.model.clone(),
            version,
            digest,
            content,
            summary: serde_json::to_string(&summary(&manifest, digest, by)).expect("a summary is plain data"),
            tags: registration.tags.clone(),
        };
        if let Err(error) = self.storage.insert_version(&record, &bytes, &file_records(&manifest)).await {
            // What cannot be taken back now is taken back at the next start.
            let _ = self.storage.use_up_version(&manifest.model, version).await;
            let _ = self.signing.run(move |signer| signer.remove_target(&path, crate::now())).await;
            return Err(error.into());
        }
        tracing::info!(model = %manifest.model, %version, %digest, "version registered");
        Ok(Registered {
            model: manifest.model.clone(),
            version,
            already_registered: false,
            digest,
            manifest,
            warnings,
            report: Some(report),
        })
    }
}

fn summary(manifest: &BundleManifest, digest: Digest, by: &str) -> ModelSummary {
    ModelSummary {
        model: manifest.model.clone(),
        version: manifest.version,
        digest,
        description: manifest.description.clone(),
        tags: BTreeMap::new(),
        properties: manifest.properties.clone(),
        created_at: manifest.created_at,
        created_by: by.to_owned(),
        files: manifest.files.len() as u32,
        size: manifest.total_size(),
        blob_size: manifest.blob_size(),
        parameters: manifest.measured.parameters,
        inference_us: manifest.measured.inference_us,
    }
}

fn file_records(manifest: &BundleManifest) -> Vec<FileRecord> {
    let record = |file: &manifest::File| FileRecord {
        path: file.path.to_string(),
        digest: file.digest,
        size: file.size,
        blob: file.blob.digest,
        blob_size: file.blob.size,
    };
    manifest.files.iter().map(record).collect()
}

#[cfg(test)]
mod tests;
