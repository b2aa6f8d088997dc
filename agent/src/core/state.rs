//! The agent's state: what is durable, what is trusted, what is on disk, and what is going on.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use muster_proto::desired::{Desired, SlotDesired};
use muster_proto::id::{DeviceId, Digest, SlotName, Workspace};
use muster_proto::manifest::{BundleManifest, File};
use muster_proto::report::{AgentInfo, Failure, ModelRef, Phase, Probe, Transfer};
use muster_proto::transfer::Delta;
use muster_proto::trust::{Approvers, Director, Repository, TargetRef, Verified};

use super::durable::Durable;
use super::fetch::{Download, Gather};
use super::hold::{Shadow, Veto};
use super::outbox::{Bounds, Entry, Outbox};
use super::walk::Walk;
use super::window::Opening;

/// Who this device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its workspace.
    pub workspace: Workspace,
    /// Its id.
    pub device: DeviceId,
}

/// The owner's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of disk that are never used.
    pub disk_headroom: u64,
    /// The largest bundle that is accepted, uncompressed, in bytes.
    pub max_bundle: u64,
    /// Bytes that versions beyond active and previous may take.
    pub keep_bytes: u64,
    /// After this many unclean ends in one trial the version before comes back. One is not enough:
    /// a power cut is not the model's fault.
    pub max_unclean_ends: u8,
    /// The outbox's bounds.
    pub outbox: Bounds,
    /// In which windows for switching are meant.
    pub zone: TimeZone,
    /// Whose approval a plan needs here.
    pub approvers: Approvers,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            disk_headroom: 64 << 20,
            max_bundle: 4 << 30,
            keep_bytes: 512 << 20,
            max_unclean_ends: 3,
            outbox: Bounds::default(),
            zone: TimeZone::UTC,
            approvers: Approvers::default(),
        }
    }
}

/// What the store holds at the start.
#[derive(Debug, Default)]
pub struct OnDisk {
    /// The durable state; the default where there was none.
    pub durable: Durable,
    /// Whole files by digest, with their sizes in bytes.
    pub files: BTreeMap<Digest, u64>,
    /// Manifests that were verified before they were stored, by digest.
    pub manifests: BTreeMap<Digest, BundleManifest>,
    /// The messages in the outbox.
    pub outbox: Vec<(u64, Entry)>,
}

/// Everything the agent knows.
#[derive(Debug)]
pub struct State {
    pub(super) identity: Identity,
    pub(super) limits: Limits,
    pub(super) agent: AgentInfo,
    pub(super) durable: Durable,
    pub(super) repository: Repository,
    pub(super) director: Director,
    pub(super) desired: Option<Verified<Desired>>,
    pub(super) files: BTreeMap<Digest, u64>,
    pub(super) manifests: BTreeMap<Digest, BundleManifest>,
    pub(super) outbox: Outbox,

    pub(super) online: bool,
    pub(super) next_id: u64,
    pub(super) walk: Walk,
    /// A desired state that only a newer director root could make valid.
    pub(super) unproven: Option<Vec<u8>>,
    /// A time that real time was not before when this process was so old, in seconds since 1970 and milliseconds.
    pub(super) known_time: (u64, u64),
    /// Somebody at the device asks to wait.
    pub(super) veto: Option<Veto>,
    /// Why the last desired state was refused.
    pub(super) refused: Option<Failure>,
    pub(super) jobs: BTreeMap<SlotName, Job>,
    /// What the engine answers with.
    pub(super) answering: BTreeMap<SlotName, Digest>,
    /// Active versions that could not be loaded for now: how often that was tried, and when to try again.
    pub(super) reload: BTreeMap<SlotName, (u32, u64)>,
    /// Until when active versions are on trial that no job watches over, in milliseconds.
    pub(super) probation: BTreeMap<SlotName, u64>,
    pub(super) report_due: bool,
    /// The newest report that was not an outcome and is not acknowledged, and when it was sent.
    pub(super) unheard: Option<(u64, u64)>,
    /// The record has outcomes that may not have been put into the outbox.
    pub(super) untold: bool,
}

/// The update of one slot.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub want: SlotDesired,
    pub stage: Stage,
    pub attempts: u32,
    pub not_before: u64,
    pub transfer: Transfer,
    pub probe: Option<Probe>,
    /// Why it waits, or why it ended.
    pub failure: Option<Failure>,
    /// From when on its waiting is counted that is not written down, in milliseconds.
    pub held_ms: u64,
    /// Its plan has the approvals that are asked for.
    pub approved: bool,
    /// When windows were looked at, in seconds since 1970, and how that went.
    pub opening: Option<(u64, Opening)>,
    /// Whether it runs beside the active version.
    pub shadow: Shadow,
}

/// Where an update stands.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// Waits for its turn, for metadata, or for `not_before`.
    Queued,
    /// The manifest is on its way.
    Manifest { gather: Gather, target: Box<Verified<TargetRef>> },
    /// Waits for the room to be measured.
    Room { swept: bool },
    /// Files are on their way.
    Files(Box<FileJob>),
    /// The engine loads and probes.
    Staging,
    /// Ready, and not to answer yet.
    Held,
    /// Answers; goes back after too many unclean ends until then.
    Trial { until_ms: u64 },
    /// Confirmed.
    Healthy,
    /// Ended; nothing is tried again for this want.
    Failed,
}

/// The file that is being made.
#[derive(Debug, Clone)]
pub(super) struct FileJob {
    pub file: File,
    pub step: FileStep,
}

#[derive(Debug, Clone)]
pub(super) enum FileStep {
    /// Has asked for a delta.
    AskedDelta { held: Vec<Digest>, since_ms: u64 },
    /// The partial blob is being opened.
    Opening { delta: Option<Box<Delta>> },
    /// Chunks are on their way.
    Chunks { delta: Option<Box<Delta>>, download: Box<Download> },
    /// The file is being made out of its blob.
    Assembling { delta: Option<Box<Delta>> },
}

impl Job {
    pub fn new(want: SlotDesired) -> Self {
        Self {
            want,
            stage: Stage::Queued,
            attempts: 0,
            not_before: 0,
            transfer: Transfer::default(),
            probe: None,
            failure: None,
            held_ms: 0,
            approved: false,
            opening: None,
            shadow: Shadow::Off,
        }
    }

    /// Whether it occupies the one place where work is done.
    pub fn is_working(&self) -> bool {
        matches!(self.stage, Stage::Manifest { .. } | Stage::Room { .. } | Stage::Files(_) | Stage::Staging)
    }

    pub fn phase(&self) -> Phase {
        match self.stage {
            Stage::Queued => Phase::Offered,
            Stage::Manifest { .. } | Stage::Room { .. } | Stage::Files(_) => Phase::Fetching,
            Stage::Staging => Phase::Verified,
            Stage::Held => Phase::Staged,
            Stage::Trial { .. } => Phase::Active,
            Stage::Healthy => Phase::Healthy,
            Stage::Failed => Phase::Failed,
        }
    }
}

pub(super) fn model_ref(want: &SlotDesired) -> ModelRef {
    ModelRef { target: want.target.clone(), digest: want.digest }
}

impl State {
    /// The state at the start of the process; the first event has to be [`super::Event::Started`].
    pub fn new(
        identity: Identity,
        limits: Limits,
        agent: AgentInfo,
        repository: Repository,
        director: Director,
        on_disk: OnDisk,
    ) -> Self {
        let OnDisk { durable, files, manifests, outbox } = on_disk;
        Self {
            outbox: Outbox::new(limits.outbox, outbox),
            next_id: durable.id_ceiling,
            identity,
            limits,
            agent,
            durable,
            repository,
            director,
            desired: None,
            files,
            manifests,
            online: false,
            walk: Walk::default(),
            unproven: None,
            known_time: (0, 0),
            veto: None,
            refused: None,
            jobs: BTreeMap::new(),
            answering: BTreeMap::new(),
            reload: BTreeMap::new(),
            probation: BTreeMap::new(),
            report_due: false,
            unheard: None,
            untold: false,
        }
    }

    /// The durable part.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// What the engine answers with in each slot.
    pub fn answering(&self) -> &BTreeMap<SlotName, Digest> {
        &self.answering
    }

    /// The verified manifests on disk.
    pub fn manifests(&self) -> &BTreeMap<Digest, BundleManifest> {
        &self.manifests
    }

    /// Whether the connection is up.
    pub fn is_online(&self) -> bool {
        self.online
    }

    /// Whether nothing is left to do but to wait for the dispatcher.
    pub fn is_settled(&self) -> bool {
        self.jobs.values().all(|j| matches!(j.stage, Stage::Healthy | Stage::Failed))
    }

    /// How many messages wait in the outbox, and their bytes.
    pub fn outbox_size(&self) -> (usize, u64) {
        (self.outbox.len(), self.outbox.bytes())
    }

    /// The time, where it can be trusted: not before the newest time in a verified message (invariant 11).
    pub(super) fn trusted_time(&self, now: super::Now) -> Option<u64> {
        let floor = self.durable.time_floor;
        (floor > 0 && now.wall_s >= floor).then_some(now.wall_s)
    }

    /// The manifests that slots run, ran, or are about to run.
    pub(super) fn manifests_in_use(&self) -> BTreeSet<Digest> {
        let mut used: BTreeSet<Digest> = BTreeSet::new();
        for record in self.durable.slots.values() {
            used.extend(record.active.iter().chain(&record.previous).map(|r| r.digest));
        }
        used.extend(self.answering.values());
        used.extend(self.jobs.values().filter(|j| !matches!(j.stage, Stage::Failed)).map(|j| j.want.digest));
        used
    }
}
