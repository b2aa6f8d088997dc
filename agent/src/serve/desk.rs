//! Brings the services to what a document asks for: opens bundles, loads them, and switches. What cannot be had leaves
//! the service as it was, with the reason.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_proto::code::Code;
use muster_proto::id::{Digest, SlotName};
use tokio::sync::{Mutex, Notify};

use super::bundle::{self, Bundle, Wanted};
use super::config::{self, Document};
use super::fetch;
use crate::api::{Revision, Service, Services};
use crate::engine::sample::Sampler;
use crate::engine::{Loaded, loaded};

/// Why a version does not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The document is wrong.
    #[error(transparent)]
    Document(#[from] config::Error),
    /// The bundle is not what was signed.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// The version cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    /// The engine refuses it, or a golden sample gave another answer.
    #[error(transparent)]
    Load(#[from] loaded::Error),
    /// The trust root cannot be read.
    #[error("the trust root {} cannot be read: {source}", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Loading was lost.
    #[error("loading ended without an answer: {0}")]
    Lost(String),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Document(_) | Error::Root { .. } => Code::ConfigInvalid,
            Error::Bundle(error) => error.code(),
            Error::Fetch(error) => error.code(),
            Error::Load(error) => error.code(),
            Error::Lost(_) => Code::ModelUnsupported,
        }
    }
}

/// Where changes are made, one at a time.
#[derive(Debug)]
pub struct Desk {
    services: Arc<Services>,
    threads: usize,
    sampler: Option<Arc<Sampler>>,
    turn: Mutex<()>,
    /// Told when the process is to end.
    pub stop: Notify,
}

impl Desk {
    /// A desk for `services`, whose inferences run on `threads` threads and are sampled by `sampler`.
    pub fn new(services: Arc<Services>, threads: usize, sampler: Option<Arc<Sampler>>) -> Self {
        Self { services, threads, sampler, turn: Mutex::default(), stop: Notify::new() }
    }

    /// The services.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Brings all services to what `document` says. Each stands for itself: one that cannot be had does not hold up the
    /// others, and what answered at its name before goes on.
    pub async fn apply(&self, document: &Document) -> Result<(), Error> {
        document.check()?;
        let _turn = self.turn.lock().await;
        let names: Vec<SlotName> = document.services.iter().map(|service| service.name.clone()).collect();
        self.services.retain(&names);
        names.iter().for_each(|name| self.services.expect(name));
        for asked in &document.services {
            if let Err(error) = self.bring(document, asked).await {
                let code = error.code();
                tracing::error!(service = %asked.name, %code, %error, "the service stays as it was");
                self.services.trouble(&asked.name, format!("{error} [{code}]"));
            }
        }
        self.services.settle();
        Ok(())
    }

    async fn bring(&self, document: &Document, asked: &config::Service) -> Result<(), Error> {
        let before = self.services.get(&asked.name).and_then(Result::ok);
        let mut revisions = Vec::with_capacity(asked.models.len());
        for model in &asked.models {
            let loaded = match before.as_deref().and_then(|before| held(before, model)) {
                Some(loaded) => loaded,
                None => self.load(document, model).await?,
            };
            self.put_together(document, asked, model, &loaded).await?;
            revisions.push(Revision { loaded, traffic: asked.share(model) });
        }
        let (name, keys, settings) = (asked.name.clone(), asked.all_keys()?, asked.settings.clone());
        let service = Service::new(name, settings, keys, revisions, self.threads, before.as_deref());
        for revision in &service.revisions {
            let Loaded { manifest, digest, model, .. } = &*revision.loaded;
            tracing::info!(
                service = %asked.name,
                model = %format_args!("{}:{}", manifest.model, manifest.version),
                digest = %digest.short(),
                traffic = revision.traffic,
                load_ms = model.load_time().as_millis() as u64,
                memory_bytes = model.memory_bytes(),
                "answers"
            );
        }
        self.services.put(Arc::new(service));
        Ok(())
    }

    /// Has requests of `loaded` computed together as `asked` says. Where that cannot be, one by one is no trouble, but said.
    async fn put_together(
        &self,
        document: &Document,
        asked: &config::Service,
        model: &config::Model,
        loaded: &Arc<Loaded>,
    ) -> Result<(), Error> {
        let before = loaded.together().map(|together| together.wish());
        let (document, model, of, wish) =
            (document.clone(), model.clone(), Arc::clone(loaded), asked.settings.together());
        let work = move || of.compute_together(wish, || Ok::<_, Error>(find(&document, &model)?.folder));
        let done = tokio::task::spawn_blocking(work).await;
        match done.unwrap_or_else(|error| Err(Error::Lost(error.to_string()))) {
            Err(Error::Load(error @ loaded::Error::Together(_))) => {
                tracing::warn!(service = %asked.name, digest = %loaded.digest.short(), %error, "no batches");
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                if let Some(together) = loaded.together().filter(|together| Some(together.wish()) != before) {
                    let (single, batch) = together.times();
                    tracing::info!(
                        service = %asked.name,
                        digest = %loaded.digest.short(),
                        size = together.wish().size,
                        single_us = single.as_micros() as u64,
                        batch_us = batch.as_micros() as u64,
                        memory_bytes = together.memory_bytes(),
                        "requests are computed together"
                    );
                }
                Ok(())
            }
        }
    }

    /// A version that is open, loaded, and has passed its golden samples.
    async fn load(&self, document: &Document, model: &config::Model) -> Result<Arc<Loaded>, Error> {
        let (document, model, sampler) = (document.clone(), model.clone(), self.sampler.clone());
        let work = move || {
            let Bundle { manifest, digest, folder } = find(&document, &model)?;
            let loaded = Loaded::load(&folder, &manifest, digest)?;
            sampler.into_iter().for_each(|sampler| loaded.mirror.sample(sampler));
            Ok(Arc::new(loaded))
        };
        let work = tokio::task::spawn_blocking(work);
        work.await.unwrap_or_else(|error| Err(Error::Lost(error.to_string())))
    }
}

/// What `before` holds already of `model`: only a digest says that it is the same.
fn held(before: &Service, model: &config::Model) -> Option<Arc<Loaded>> {
    let digest: Digest = model.digest?;
    before.revisions.iter().map(|revision| &revision.loaded).find(|loaded| loaded.digest == digest).cloned()
}

fn find(document: &Document, model: &config::Model) -> Result<Bundle, Error> {
    let wanted = Wanted { model: model.wanted()?, digest: model.digest };
    let folder = match (&model.bundle, &document.dispatcher, &wanted.model) {
        (Some(folder), ..) => folder.clone(),
        (None, Some(dispatcher), Some((name, version))) => {
            let root = document.trust_root.as_deref().map(read_root).transpose()?;
            fetch::fetch(dispatcher, root.as_deref(), name, *version)?
        }
        // The document was checked.
        _ => return Err(config::Error::Rule("a model needs `bundle`, or `version` and [dispatcher]".into()).into()),
    };
    let root = match &document.trust_root {
        Some(path) => read_root(path)?,
        None => bundle::enclosed_root(&folder)?,
    };
    Ok(bundle::open(&folder, &root, &wanted)?)
}

fn read_root(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Root { path: path.to_owned(), source })
}
