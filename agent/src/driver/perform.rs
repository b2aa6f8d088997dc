//! One effect after the other.

use std::sync::Arc;

use muster_proto::code::Code;
use muster_proto::desired::{MAX_SLOTS, ShadowTerms};
use muster_proto::id::{Digest, SlotName};
use muster_proto::manifest::BundleManifest;
use muster_proto::report::{Failure, Presence, Probe, Report};
use muster_proto::topic::Leaf;
use muster_proto::wire;

use super::{Driver, Outcome, PERSIST_RETRY, encode_body};
use crate::core::event::LoadFailure;
use crate::core::outbox::{Entry, Kind};
use crate::core::{Durable, Effect, Event};
use crate::engine::Loaded;
use crate::engine::shadow::{self, Run};
use crate::store::{self, Store};
use crate::vitals;

impl Driver {
    pub(super) async fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(durable) => self.persist(&durable).await,
            Effect::KeepSigned(signed) => {
                // The copies first: where they are newer than the index, the index is the floor all the same.
                self.wait_for_room("keeping signed metadata", || self.store.files.keep_signed(&signed)).await;
                self.wait_for_room("keeping signed metadata", || self.store.index.keep_signed(&signed)).await;
            }
            Effect::KeepManifest { digest, bytes } => {
                self.wait_for_room("keeping a manifest", || self.store.files.keep_manifest(&digest, &bytes)).await;
            }
            Effect::SayHello => {
                let generation = self.state.durable().generation;
                self.send(Leaf::State, wire::encode(&Presence::OnlineV1 { generation }));
            }
            Effect::Request(fetch) => self.send(Leaf::Fetch, wire::encode(&fetch)),
            Effect::Join(digest) => self.link.iter().for_each(|l| l.join(digest)),
            Effect::Leave(digest) => self.link.iter().for_each(|l| l.leave(digest)),
            Effect::MeasureRoom => {
                let disk_free = self.store.files.disk().map_or(0, |(free, _)| free);
                self.report_back(Event::RoomMeasured { disk_free, memory_available: vitals::memory_available() });
            }
            Effect::OpenBlob(blob) => self.in_background(move |store| {
                let have = store.files.open_blob(&blob).map_err(|e| e.failure());
                Event::BlobOpened { digest: blob.digest, have }
            }),
            Effect::WriteChunk { digest, offset, data } => {
                if let Err(error) = self.store.files.write_chunk(&digest, offset, &data) {
                    self.report_back(Event::WriteFailed { digest, failure: error.failure() });
                }
            }
            Effect::Assemble { file, source } => self.in_background(move |store| {
                let result = store.files.assemble(&file, &source).map_err(|e| e.failure());
                Event::FileAssembled { file: file.digest, result }
            }),
            Effect::DropBlob(digest) => self.note("removing a partial blob", self.store.files.drop_blob(&digest)),
            Effect::Stage { slot, manifest, digest } => self.load(slot, *manifest, digest, true),
            Effect::Load { slot, manifest, digest } => self.load(slot, *manifest, digest, false),
            Effect::Shadow { slot, digest, terms } => self.shadow(slot, digest, terms),
            Effect::EndShadow { slot } => self.end_shadow(&slot),
            Effect::Activate { slot, digest } => {
                self.end_shadow(&slot);
                if let Some((staged, model)) = self.staged.remove(&slot)
                    && staged == digest
                {
                    self.slots.activate(slot.clone(), model);
                    self.report_back(Event::Activated { slot, digest });
                }
            }
            Effect::Unstage { slot } => {
                self.end_shadow(&slot);
                self.staged.remove(&slot);
            }
            Effect::Clear { slot } => {
                self.end_shadow(&slot);
                self.staged.remove(&slot);
                self.slots.clear(&slot);
            }
            Effect::Collect { manifests, files } => {
                self.note("removing what is not needed", self.store.files.collect(&manifests, &files));
            }
            Effect::SendReport(report) => self.send(Leaf::Report, self.identity.sign(&Report::V1(*report))),
            Effect::Put { id, kind, body } => match encode_body(&self.identity, &body) {
                Ok(payload) => {
                    let entry = Entry { kind, size: payload.len() as u64, made_at: super::wall_s() };
                    self.put(id, entry, payload).await;
                }
                Err(error) => tracing::error!(%error, "a message cannot be encoded"),
            },
            Effect::Send { id, kind } => match self.store.index.message(id) {
                Ok(Some(payload)) => {
                    let leaf = match kind {
                        Kind::Outcome => Leaf::Report,
                        Kind::Telemetry => Leaf::Telemetry,
                    };
                    self.send(leaf, Ok(payload));
                }
                Ok(None) => {}
                Err(error) => self.note("reading a message", Err(error)),
            },
            Effect::Remove(ids) => self.note("removing messages", self.store.index.remove(&ids)),
        }
    }

    /// Runs the staged version beside what answers in `slot`, if the device has room for that.
    fn shadow(&mut self, slot: SlotName, digest: Digest, terms: ShadowTerms) {
        self.end_shadow(&slot);
        let staged = self.staged.get(&slot).filter(|(staged, _)| *staged == digest).map(|(_, model)| model.clone());
        let failure = |detail: &str| Failure { code: Code::ShadowOverBudget, detail: detail.to_owned() };
        let started = match (staged, self.slots.get(&slot)) {
            (Some(model), Some(active)) => match shadow::refusal(&model, &terms, vitals::memory_available()) {
                Some(refused) => Err(refused),
                None => Run::start(slot.clone(), &active, model, terms)
                    .map(|run| (run, active))
                    .map_err(|e| failure(&format!("its thread cannot be started: {e}"))),
            },
            _ => Err(failure("there is nothing to hold it against")),
        };
        match started {
            Ok((run, active)) => {
                tracing::info!(%slot, digest = digest.short(), "a shadow runs");
                active.mirror.set(Some(run.clone()));
                self.shadows.insert(slot, run);
            }
            Err(refused) => self.report_back(Event::ShadowEnded { slot, digest, refused: Some(refused) }),
        }
    }

    /// Ends the shadow in `slot`, if there is one; its last figures go into the next telemetry window.
    pub(super) fn end_shadow(&mut self, slot: &SlotName) {
        let Some(run) = self.shadows.remove(slot) else { return };
        run.stop();
        if let Some(active) = self.slots.get(slot) {
            active.mirror.set(None);
        }
        tracing::info!(%slot, digest = run.shadow().digest.short(), "a shadow has ended");
        if self.past_shadows.len() < MAX_SLOTS {
            self.past_shadows.push(run.take_window());
        }
    }

    /// Nothing that follows may happen before this is on disk, so a full disk is waited out. The models go on
    /// answering meanwhile.
    async fn persist(&self, durable: &Durable) {
        let mut warned = false;
        while let Err(error) = self.store.index.save(durable) {
            if !std::mem::replace(&mut warned, true) {
                tracing::error!(code = %error.code(), error = error.failure().detail, "the state cannot be written; trying again");
            }
            tokio::time::sleep(PERSIST_RETRY).await;
        }
    }

    /// An outcome has to be on disk before anything else, as the record has (invariant 9); telemetry gives way.
    async fn put(&self, id: u64, entry: Entry, payload: Vec<u8>) {
        let put = || self.store.index.put(id, entry, payload.clone());
        if entry.kind == Kind::Outcome {
            self.wait_for_room("storing an outcome", put).await;
        } else if let Err(error) = put() {
            self.note("storing a message", Err(error));
            self.report_back(Event::PutFailed { id });
        }
    }

    /// Tries `write` until the disk has room for it; any other failure is noted and left alone.
    async fn wait_for_room(&self, what: &str, write: impl Fn() -> Result<(), store::Error>) {
        let mut warned = false;
        while let Err(error) = write() {
            let full = error.code() == Code::DiskFull;
            if !std::mem::replace(&mut warned, true) || !full {
                self.note(what, Err(error));
            }
            if !full {
                return;
            }
            tokio::time::sleep(PERSIST_RETRY).await;
        }
    }

    fn note(&self, what: &str, result: Result<(), store::Error>) {
        if let Err(error) = result {
            tracing::error!(code = %error.code(), error = error.failure().detail, "{what} failed");
        }
    }

    fn send(&self, leaf: Leaf, message: Result<Vec<u8>, wire::Error>) {
        match (message, &self.link) {
            (Ok(bytes), Some(link)) => drop(link.publish(leaf, bytes)),
            (Ok(_), None) => {}
            (Err(error), _) => tracing::error!(%error, "a message cannot be encoded"),
        }
    }

    fn report_back(&self, event: Event) {
        let results = self.results.clone();
        tokio::spawn(async move {
            let _ = results.send(Outcome { event, loaded: None }).await;
        });
    }

    fn in_background(&self, work: impl FnOnce(&Store) -> Event + Send + 'static) {
        let (store, results) = (self.store.clone(), self.results.clone());
        tokio::task::spawn_blocking(move || {
            let event = work(&store);
            let _ = results.blocking_send(Outcome { event, loaded: None });
        });
    }

    fn load(&self, slot: SlotName, manifest: BundleManifest, digest: Digest, stage: bool) {
        let (store, results, loading) = (self.store.clone(), self.results.clone(), self.loading.clone());
        tokio::spawn(async move {
            let Ok(permit) = loading.acquire_owned().await else { return };
            let loaded = tokio::task::spawn_blocking(move || {
                let loaded = lay_out_and_load(&store, &manifest, digest);
                drop(permit);
                loaded
            });
            let loaded = loaded.await.unwrap_or_else(|e| Err(panicked(&e.to_string())));
            let result = loaded.as_ref().map(|m| m.probe.clone()).map_err(Clone::clone);
            let loaded = loaded.ok().map(|model| (slot.clone(), digest, model));
            let event = event(stage, slot, digest, result);
            let _ = results.send(Outcome { event, loaded }).await;
        });
    }
}

fn event(stage: bool, slot: SlotName, digest: Digest, result: Result<Probe, LoadFailure>) -> Event {
    if stage { Event::ModelStaged { slot, digest, result } } else { Event::ModelLoaded { slot, digest, result } }
}

fn lay_out_and_load(store: &Store, manifest: &BundleManifest, digest: Digest) -> Result<Arc<Loaded>, LoadFailure> {
    let folder = store
        .files
        .lay_out(manifest, &digest)
        .map_err(|(error, damaged)| LoadFailure { failure: error.failure(), damaged })?;
    let loaded = Loaded::load(&folder, manifest, digest).map_err(|error| LoadFailure {
        failure: Failure { code: error.code(), detail: error.to_string() },
        damaged: Vec::new(),
    })?;
    Ok(Arc::new(loaded))
}

fn panicked(reason: &str) -> LoadFailure {
    let failure = Failure { code: muster_proto::code::Code::ModelUnsupported, detail: reason.to_owned() };
    LoadFailure { failure, damaged: Vec::new() }
}
