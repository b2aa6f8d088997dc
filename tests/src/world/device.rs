//! A device: what it is, its disk, its connection, and the process that runs on it now and then.

use std::collections::{BTreeSet, VecDeque};

use muster_agent::core::event::Signed;
use muster_agent::core::state::OnDisk;
use muster_agent::core::{Durable, Effect, Event, Identity, Limits, Now, State};
use muster_agent::store;
use muster_proto::id::{DeviceId, Digest, SlotName};
use muster_proto::report::AgentInfo;
use muster_proto::trust::{self, Director, Repository};

use super::authority::workspace;
use super::catalogue::EPOCH_S;
use super::disk::Disk;
use super::engine::Engine;
use super::link::Link;
use super::witness::Witness;

/// What a device is, for as long as the world lasts.
#[derive(Debug, Clone)]
pub struct Traits {
    /// Its limits.
    pub limits: Limits,
    /// What it reports to be.
    pub agent: AgentInfo,
    /// Available memory in bytes.
    pub memory: u64,
    /// Whether versions that are bad somewhere are bad here.
    pub unlucky: bool,
    /// How many times longer than others it takes to load.
    pub slowness: u64,
    /// Whether its clock begins in 1970 at each start; it is set some time after the connection is up.
    pub without_clock: bool,
}

/// A device.
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// What it is.
    pub traits: Traits,
    /// Its disk.
    pub disk: Disk,
    /// Its connection.
    pub link: Link,
    /// The running process, if there is power and it has not just died.
    pub process: Option<Process>,
    /// How many processes there have been.
    pub starts: u32,
    /// What the checks remember.
    pub witness: Witness,
    /// The roots of its enrolment: of the repository and of the director.
    pub roots: (Vec<u8>, Vec<u8>),
    /// The power goes when so many more effects have been carried out.
    pub cut_in: Option<u64>,
    /// At its next start the index is gone.
    pub index_fails: bool,
    /// Loading fails for lack of memory until then, in milliseconds.
    pub cramped_until: u64,
}

/// A running process.
pub struct Process {
    /// Which start this is; what was planned for an earlier one does not happen.
    pub start: u32,
    /// When it began, in milliseconds.
    pub began_ms: u64,
    /// The core.
    pub state: State,
    /// The engine.
    pub engine: Engine,
    /// What the driver still has to do before it takes the next event.
    pub work: VecDeque<Work>,
    /// Events that wait for that.
    pub inbox: VecDeque<(Event, Option<Work>)>,
    /// Whether an event was taken and not everything that followed from it is done.
    pub busy: bool,
    /// Whether the driver waits for room on the disk.
    pub waits_for_disk: bool,
    /// Since when the clock is right, in milliseconds.
    pub clock_set_ms: Option<u64>,
}

/// What the driver does one after the other.
pub enum Work {
    /// An effect of the core.
    Effect(Effect),
    /// Let a version answer that was loaded because nothing did, if the core still wants it.
    Answer(SlotName, Digest),
    /// The process ends in good order.
    Exit,
}

impl Process {
    /// Slots of which the core does not yet know whether the version answers that is to answer as soon as it is loaded.
    pub fn loading(&self) -> BTreeSet<SlotName> {
        let loads = self.engine.queue.iter().filter(|loading| !loading.beside).map(|loading| &loading.slot);
        let results = self.inbox.iter().filter_map(|(event, _)| match event {
            Event::ModelLoaded { slot, .. } => Some(slot),
            _ => None,
        });
        loads.chain(results).chain(&self.engine.short).cloned().collect()
    }
}

impl Device {
    /// A device that was just enrolled, without power.
    pub fn new(id: DeviceId, traits: Traits, link: Link, roots: (Vec<u8>, Vec<u8>)) -> Self {
        let mut disk = Disk::default();
        disk.capacity = traits.agent.disk_bytes;
        Self {
            id,
            traits,
            disk,
            link,
            process: None,
            starts: 0,
            witness: Witness::default(),
            roots,
            cut_in: None,
            index_fails: false,
            cramped_until: 0,
        }
    }

    /// The process; there has to be one.
    pub fn running(&mut self) -> &mut Process {
        self.process.as_mut().expect("the process runs")
    }

    /// The time as the process sees it.
    pub fn now(&self, world_ms: u64) -> Now {
        let process = self.process.as_ref().expect("the process runs");
        let mono_ms = world_ms - process.began_ms;
        let wrong = self.traits.without_clock && process.clock_set_ms.is_none_or(|at| world_ms < at);
        let wall_s = if wrong { mono_ms / 1000 } else { EPOCH_S + world_ms / 1000 };
        Now { mono_ms, wall_s }
    }

    /// Starts the process from what is on the disk, exactly as `muster_agent::run` does. `drawn` takes the place of
    /// the random number of a new store.
    pub fn start(&mut self, world_ms: u64, drawn: u64) {
        self.starts += 1;
        let disk = &self.disk;
        let signed = if disk.signed.is_empty() { &disk.copies } else { &disk.signed };
        let bytes = |what| signed.get(&what).map(Vec::as_slice);
        let stored = trust::Stored {
            timestamp: bytes(Signed::Timestamp),
            snapshot: bytes(Signed::Snapshot),
            targets: bytes(Signed::Targets),
        };
        let repository = match Repository::restore(bytes(Signed::Root).unwrap_or(&self.roots.0), stored) {
            Ok((repository, _)) => repository,
            Err(_) => Repository::new(&self.roots.0).expect("the root of the enrolment is sound"),
        };
        let director = match bytes(Signed::DirectorRoot).map(Director::new) {
            Some(Ok(director)) => director,
            _ => Director::new(&self.roots.1).expect("the root of the enrolment is sound"),
        };
        let manifests = disk.sound_manifests();
        let files = disk.files.iter().map(|(digest, file)| (*digest, file.bytes.len() as u64)).collect();
        let durable = match disk.load() {
            Some(durable) => durable,
            None => {
                let desired = bytes(Signed::Desired)
                    .and_then(|signed| Some((director.verify(signed, &workspace(), &self.id, None).ok()?, signed)));
                let desired = desired.as_ref().map(|(verified, signed)| (verified, *signed));
                store::rebuild(desired, &repository, &manifests, &files, drawn)
            }
        };
        let outbox = disk.outbox.iter().map(|(id, message)| (*id, message.entry)).collect();
        let on_disk = OnDisk { durable, files, manifests, outbox };
        let identity = Identity { workspace: workspace(), device: self.id.clone() };
        let (limits, agent) = (self.traits.limits.clone(), self.traits.agent.clone());
        self.process = Some(Process {
            start: self.starts,
            began_ms: world_ms,
            state: State::new(identity, limits, agent, repository, director, on_disk),
            engine: Engine::default(),
            work: VecDeque::new(),
            inbox: VecDeque::new(),
            busy: false,
            waits_for_disk: false,
            clock_set_ms: None,
        });
    }

    /// The digests of everything that version `digest` needs on the disk.
    pub fn parts(&self, digest: &Digest) -> Option<BTreeSet<Digest>> {
        let bytes = self.disk.manifests.get(digest)?;
        let manifest = muster_proto::manifest::BundleManifest::parse(bytes).ok()?;
        Some(manifest.files.iter().map(|f| f.digest).collect())
    }
}

/// A durable record without what two records of the same state may differ in.
pub fn essence(durable: &Durable) -> Durable {
    Durable { id_ceiling: 0, ..durable.clone() }
}
