//! One device with the real core: its process, its disk, and a driver that does what the core wants at once.

use std::collections::{BTreeSet, VecDeque};

use muster_agent::core::event::{Body, LoadFailure};
use muster_agent::core::outbox::{Entry, Kind};
use muster_agent::core::{Effect, Event, Identity, Limits, Now, State, Veto, step};
use muster_dispatcher::domain::rollout::DevicePhase;
use muster_proto::code::Code;
use muster_proto::desired::{Agreement, ShadowTerms, Terms, Window};
use muster_proto::id::Digest;
use muster_proto::report::{AgentInfo, Failure, Probe};
use muster_proto::transfer::{Fetch, Frame, Object};

use super::bundles::{self, Bundles, slot, workspace};
use super::disk::Disk;
use super::source::Source;
use super::watch::Watch;
use crate::simulate::agent::{Act, Env};
use crate::simulate::chance::For;
use crate::simulate::desired::Desired;
use crate::simulate::scenario::DefectKind;
use crate::simulate::version::{FIRST, NONE};
use crate::simulate::{EPOCH, fleet};

/// How often the core looks at its clock while there is something to do, in seconds.
const LOOK: u32 = 60;
/// The trial of a version that a device goes back to, in seconds, as the dispatcher's fleet says.
const RECALL_TRIAL: u32 = 30;
/// How long an application's veto lasts, in seconds from when the version is staged.
const VETO: u32 = 3600;
/// Free bytes on a disk that is not full.
const ROOM: u64 = 64 << 30;
/// How often the power goes in the middle of what follows from an event, where power cuts happen at all.
const CUTS: f64 = 0.02;
/// The most events that may follow from one.
const MOST_EVENTS: usize = 10_000;

/// A device.
#[derive(Debug)]
pub struct Device {
    /// Its number.
    pub number: u32,
    /// What survives a power cut.
    pub disk: Disk,
    pub(super) state: State,
    /// What was seen of it.
    pub watch: Watch,
    began: u32,
    online: bool,
    pub(super) answers: Option<Digest>,
    pub(super) told: Option<Desired>,
    attempt: u32,
    /// The version whose transfer is under way in the world, and the requests that wait for it.
    transfer: Option<u8>,
    asked: Vec<Fetch>,
    came: BTreeSet<Digest>,
    pub(super) fetched: u64,
    pub(super) phase: DevicePhase,
    pub(super) since: u32,
    shadow_until: Option<u32>,
    looks_at: u32,
    /// The power goes after so many more effects.
    cut_in: Option<u64>,
}

fn agent_info(device: u32, env: &Env) -> AgentInfo {
    AgentInfo {
        version: "0.1.0".into(),
        engine: "tract 0.23.9".into(),
        arch: "aarch64".into(),
        os: "linux".into(),
        memory_bytes: memory(device, env),
        disk_bytes: ROOM,
        speaks: (1, 3),
    }
}

fn memory(device: u32, env: &Env) -> u64 {
    env.fleet.spec.hardware[env.fleet.hardware(device)].memory.0
}

fn process(device: u32, disk: &Disk, bundles: &Bundles, env: &Env) -> State {
    let (repository, director, on_disk) = disk.open(bundles);
    let identity = Identity { workspace: workspace(), device: fleet::name(device) };
    let offset = jiff::tz::Offset::from_seconds(env.fleet.zone_seconds(device) as i32);
    let zone = offset.map_or(jiff::tz::TimeZone::UTC, |offset| offset.to_time_zone());
    State::new(identity, Limits { zone, ..Limits::default() }, agent_info(device, env), repository, director, on_disk)
}

impl Device {
    /// A device that runs the first version, or nothing where the fleet says so; its process has started.
    pub fn new(number: u32, bundles: &Bundles, env: &Env) -> Self {
        let first = if env.fleet.is_empty_at_start(number) { NONE } else { FIRST };
        let mut device = Self::boot(number, Disk::with(first, bundles), bundles, env);
        device.run(Event::Started, &Source::honest(bundles), env, &mut Vec::new());
        device
    }

    /// A process that is about to start with what is on `disk`.
    pub fn boot(number: u32, disk: Disk, bundles: &Bundles, env: &Env) -> Self {
        Self {
            number,
            state: process(number, &disk, bundles, env),
            disk,
            watch: Watch::default(),
            began: env.now,
            online: false,
            answers: None,
            told: None,
            attempt: 0,
            transfer: None,
            asked: Vec::new(),
            came: BTreeSet::new(),
            fetched: 0,
            phase: DevicePhase::Healthy,
            since: 0,
            shadow_until: None,
            looks_at: 0,
            cut_in: None,
        }
    }

    /// What did not hold, for the world.
    pub fn drain_breaches(&mut self, number: u32, all: &mut Vec<(u32, String)>) {
        all.extend(self.watch.take().into_iter().map(|what| (number, what)));
    }

    /// A desired state arrives, signed as the dispatcher signs it.
    pub fn told(&mut self, desired: Desired, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        let known = self.generation();
        if desired.generation > known {
            let again =
                self.told.is_some_and(|told| told.version == desired.version && told.rollout == desired.rollout);
            let ended = matches!(self.phase, DevicePhase::Failed | DevicePhase::Refused);
            self.attempt = if !again { 0 } else { self.attempt + u32::from(ended) };
            if self.transfer.is_some_and(|version| version != desired.version) {
                (self.transfer, self.fetched) = (None, 0);
                acts.push(Act::GiveUp);
            }
        }
        let generation = u64::from(desired.generation);
        let issued_at = EPOCH + u64::from(env.now);
        let slots = self.want(&desired, bundles, env).into_iter().collect();
        let signed = bundles.desired(fleet::name(self.number), generation, issued_at, slots);
        let signed = bundles.publisher.sign_desired(&signed);
        if desired.generation > known {
            self.told = Some(desired);
            let wishes = env.fleet.vetoes(self.number, desired.version) && !desired.recall;
            self.feed(Event::VetoChanged(wishes.then(|| Veto { reason: "busy".into() })), bundles, env, acts);
        }
        self.linked(true, bundles, env, acts);
        let draws = desired.generation > known && env.faulty && env.fleet.spec.faults.power_cuts_per_day > 0.0;
        if draws && env.chance.is(For::Cut, self.number, generation, CUTS) {
            self.cut_in = Some(env.chance.below(For::Cut, self.number, generation << 1, 12));
        }
        self.feed(Event::DesiredArrived(signed.clone()), bundles, env, acts);
        if generation.is_multiple_of(4) && self.cut_in.is_none() && self.generation() == desired.generation {
            let once = self.disk.durable.clone();
            self.feed(Event::DesiredArrived(signed), bundles, env, acts);
            self.watch.twice(&once, &self.disk.durable);
        }
    }

    fn want(&self, told: &Desired, bundles: &Bundles, env: &Env) -> Option<muster_proto::desired::SlotDesired> {
        let terms = usize::from(told.rollout).checked_sub(1).and_then(|index| env.terms.get(index));
        let windows = terms.map(|terms| terms.cron.clone()).unwrap_or_default();
        let veto_seconds = terms.map_or(0, |terms| terms.veto);
        let patience = Terms { windows, veto_seconds, ..Terms::default() };
        let trial = terms.map_or(0, |terms| match terms.soak.get(usize::from(told.stage)) {
            Some(soak) => *soak,
            None => terms.soak.last().copied().unwrap_or(0),
        });
        let shadows = terms.is_some_and(|terms| terms.shadows.get(usize::from(told.stage)) == Some(&true));
        let (trial, wire) = if told.recall {
            let urgent = Terms { urgent: true, ..Terms::default() };
            (RECALL_TRIAL.min(trial), if told.urgent { urgent } else { patience })
        } else {
            (trial, Terms { hold: told.held, shadow: (told.held && shadows).then(shadow_terms), ..patience })
        };
        let rollout = match self.attempt {
            0 => format!("r{}", told.rollout),
            attempt => format!("r{}.{attempt}", told.rollout),
        };
        bundles.want(told.version, rollout, trial, wire)
    }

    /// The transfer is through.
    pub fn fetched(&mut self, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        let Some(bundle) = self.transfer.take().and_then(|version| bundles.get(version)) else { return };
        self.came.extend(bundle.manifest.files.iter().map(|file| file.digest));
        self.linked(true, bundles, env, acts);
        let source = Source::honest(bundles);
        for fetch in std::mem::take(&mut self.asked) {
            for event in source.answer(&fetch) {
                self.run(event, &source, env, acts);
            }
        }
    }

    /// Time passed.
    pub fn tick(&mut self, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        // How long a transfer takes is the world's business: the core's patience with it does not run out meanwhile.
        if self.transfer.is_some() {
            return;
        }
        if self.shadow_until.take_if(|until| env.now >= *until).is_some()
            && let Some(want) = self.told.and_then(|told| bundles.get(told.version))
        {
            let digest = want.digest;
            self.feed(Event::ShadowEnded { slot: slot(), digest, refused: None }, bundles, env, acts);
        }
        if self.phase == DevicePhase::Staged && env.now >= self.since + VETO {
            self.feed(Event::VetoChanged(None), bundles, env, acts);
        }
        self.feed(Event::Ticked, bundles, env, acts);
    }

    /// The process died of the version that answers, and starts again.
    pub fn crashed(&mut self, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        self.restart(bundles, env, acts);
    }

    /// The power was gone and is back.
    pub fn power_cut(&mut self, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        self.online = false;
        self.restart(bundles, env, acts);
    }

    /// The dispatcher has made safe what was said of `generation`.
    pub fn heard(&mut self, generation: u32, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        let heard = self.disk.outbox.iter().filter(|(_, (_, about))| *about <= u64::from(generation));
        let ids: Vec<u64> = heard.map(|(id, _)| *id).collect();
        self.feed(Event::Acknowledged(ids), bundles, env, acts);
    }

    /// The connection is up, or gone.
    pub fn linked(&mut self, up: bool, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        if std::mem::replace(&mut self.online, up) != up {
            self.feed(if up { Event::LinkUp } else { Event::LinkDown }, bundles, env, acts);
        }
    }

    pub(super) fn generation(&self) -> u32 {
        self.disk.durable.generation.0 as u32
    }

    fn now(&self, env: &Env) -> Now {
        let mono_ms = u64::from(env.now - self.began) * 1000;
        let clock = !env.fleet.has_no_clock(self.number);
        Now { mono_ms, wall_s: if clock { EPOCH + u64::from(env.now) } else { mono_ms / 1000 } }
    }

    fn restart(&mut self, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        let was_online = std::mem::take(&mut self.online);
        self.state = process(self.number, &self.disk, bundles, env);
        (self.began, self.cut_in, self.shadow_until) = (env.now, None, None);
        self.asked.clear();
        let before = self.answers.take().and_then(|digest| bundles.version(&digest)).unwrap_or(NONE);
        let source = Source::honest(bundles);
        let veto = self.told.filter(|told| env.fleet.vetoes(self.number, told.version) && !told.recall);
        let mut then = Vec::new();
        self.run(Event::Started, &source, env, &mut then);
        if veto.is_some() {
            self.run(Event::VetoChanged(Some(Veto { reason: "busy".into() })), &source, env, &mut then);
        }
        // What answers after the start is seen from outside only once it is all over.
        let after = self.answering(bundles);
        then.retain(|act| !matches!(act, Act::Switch { .. }));
        let had_previous =
            after == NONE && before != NONE && self.record().is_some_and(|record| record.active.is_some());
        if had_previous {
            self.watch.breach("invariant 2: nothing answers after a start");
        }
        if before != NONE || after != NONE {
            acts.push(Act::Switch { from: before, to: after });
        }
        if self.phase == DevicePhase::Active {
            self.since = env.now;
        }
        acts.extend(then);
        if was_online {
            self.linked(true, bundles, env, acts);
        }
    }

    fn feed(&mut self, event: Event, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        self.run(event, &Source::honest(bundles), env, acts);
    }

    /// Gives the core an event and does all that follows, at once.
    pub fn run(&mut self, event: Event, source: &Source, env: &Env, acts: &mut Vec<Act>) {
        let (answered, had_previous) =
            (self.answers.is_some(), self.record().is_some_and(|record| record.previous.is_some()));
        let mut events = VecDeque::from([event]);
        let (mut reports, mut count) = (false, 0);
        while let Some(event) = events.pop_front() {
            count += 1;
            if count > MOST_EVENTS {
                self.watch.breach("it never comes to rest");
                break;
            }
            let now = self.now(env);
            for effect in step(&mut self.state, event, now) {
                if let Some(left) = &mut self.cut_in {
                    match left.checked_sub(1) {
                        Some(less) => *left = less,
                        None => return self.restart(source.bundles, env, acts),
                    }
                }
                self.perform(effect, source, env, &mut events, (&mut *acts, &mut reports));
            }
        }
        self.cut_in = None;
        let wants_nothing = self.told.is_some_and(|told| told.version == NONE);
        let names_one = self.record().is_some_and(|record| record.active.is_some());
        self.watch.done(answered, self.answers.is_some(), !names_one && (wants_nothing || !had_previous));
        self.look(source.bundles, env, acts);
        if reports {
            acts.push(Act::Report);
        }
    }

    /// Notes how it stands, and when it has to look at its clock.
    fn look(&mut self, bundles: &Bundles, env: &Env, acts: &mut Vec<Act>) {
        let phase = self.phase_now(bundles);
        if phase != self.phase && !(self.phase == DevicePhase::Active && phase == DevicePhase::Healthy) {
            self.since = env.now;
        }
        self.phase = phase;
        let idle = self.transfer.is_some() || self.state.is_settled();
        if !idle && (self.looks_at <= env.now || self.looks_at > env.now + LOOK) {
            self.looks_at = env.now + LOOK;
            acts.push(Act::Wake(self.looks_at));
        }
    }

    fn perform(
        &mut self,
        effect: Effect,
        source: &Source,
        env: &Env,
        events: &mut VecDeque<Event>,
        (acts, reports): (&mut Vec<Act>, &mut bool),
    ) {
        let bundles = source.bundles;
        match effect {
            Effect::Persist(durable) => {
                self.watch.persisted(&durable);
                self.disk.durable = *durable;
            }
            Effect::KeepSigned(all) => {
                for (what, bytes) in all {
                    match bytes {
                        Some(bytes) => drop(self.disk.signed.insert(what, bytes)),
                        None => drop(self.disk.signed.remove(&what)),
                    }
                }
            }
            Effect::KeepManifest { digest, bytes } => {
                self.watch.kept(&digest, &bytes, bundles);
                if let Some(bundle) = bundles.all.iter().find(|bundle| bundle.digest == digest) {
                    self.disk.manifests.insert(digest, bundle.manifest.clone());
                }
            }
            Effect::Request(fetch) => self.request(fetch, source, env, events, acts),
            Effect::MeasureRoom => {
                let full = env.faulty && env.fleet.disk_is_full(self.number);
                let memory_available = memory(self.number, env);
                events.push_back(Event::RoomMeasured { disk_free: if full { 0 } else { ROOM }, memory_available });
            }
            Effect::OpenBlob(blob) => {
                events.push_back(Event::BlobOpened { digest: blob.digest, have: Ok(vec![false; blob.chunks.len()]) });
            }
            Effect::WriteChunk { data, .. } => self.watch.wrote(&data, bundles),
            Effect::Assemble { file, .. } => {
                self.disk.files.insert(file.digest, file.size);
                events.push_back(Event::FileAssembled { file: file.digest, result: Ok(()) });
            }
            Effect::Stage { slot, manifest, digest } => {
                self.watch.loads(&digest, &manifest, true, &self.disk, bundles);
                let version = bundles.version(&digest).unwrap_or(NONE);
                acts.push(Act::Probe(version));
                let bad = env.versions.defect(env.fleet, version, self.number, DefectKind::Probe).is_some();
                let result = if bad { Err(mismatch()) } else { Ok(passed()) };
                events.push_back(Event::ModelStaged { slot, digest, result });
            }
            Effect::Load { slot, manifest, digest } => {
                self.watch.loads(&digest, &manifest, false, &self.disk, bundles);
                self.switch(digest, bundles, acts);
                let loaded = Event::ModelLoaded { slot: slot.clone(), digest, result: Ok(passed()) };
                events.extend([loaded, Event::Activated { slot, digest }]);
                self.plan_end_of_trial(env, acts);
            }
            Effect::Activate { slot, digest } => {
                self.switch(digest, bundles, acts);
                events.push_back(Event::Activated { slot, digest });
                self.plan_end_of_trial(env, acts);
            }
            Effect::Clear { .. } => {
                let from = self.answering(bundles);
                self.answers = None;
                acts.push(Act::Switch { from, to: NONE });
            }
            Effect::Shadow { terms, .. } => {
                self.shadow_until = (terms.seconds > 0).then(|| env.now + terms.seconds);
            }
            Effect::EndShadow { .. } => self.shadow_until = None,
            Effect::Collect { manifests, files } => {
                self.disk.manifests.retain(|digest, _| !manifests.contains(digest));
                self.disk.files.retain(|digest, _| !files.contains(digest));
                self.came.retain(|digest| !files.contains(digest));
            }
            Effect::Put { id, kind, body } => {
                if let (Kind::Outcome, Body::Report(report)) = (kind, *body) {
                    let made_at = self.now(env).wall_s;
                    self.disk.outbox.insert(id, (Entry { kind, size: 500, made_at }, report.generation.0));
                }
            }
            Effect::Remove(ids) => self.disk.outbox.retain(|id, _| !ids.contains(id)),
            Effect::SendReport(_) => *reports = true,
            Effect::Send { kind, .. } => *reports |= kind == Kind::Outcome,
            Effect::SayHello | Effect::Join(_) | Effect::Leave(_) | Effect::DropBlob(_) | Effect::Unstage { .. } => {}
        }
    }

    /// Metadata and manifests come at once; what the world carries waits for it.
    fn request(&mut self, fetch: Fetch, source: &Source, env: &Env, events: &mut VecDeque<Event>, acts: &mut Vec<Act>) {
        if let Fetch::DeltaV1 { want, .. } = fetch {
            return events.push_back(Event::FrameArrived(Frame::DeltaV1 { want, offer: None }));
        }
        let version = match &fetch {
            Fetch::ChunksV1 { object: Object::Blob(digest), .. } if !self.came.contains(digest) => {
                let has =
                    |bundle: &bundles::Bundle| bundle.manifest.files.iter().any(|file| file.blob.digest == *digest);
                source.bundles.all.iter().position(has).map(|at| at as u8 + 1)
            }
            _ => None,
        };
        // The samples are the same in every version: whose they are tells what is wanted.
        let version = version.map(|version| self.told.map_or(version, |told| told.version));
        let Some(version) = version.filter(|_| source.swapped.is_empty()) else {
            return events.extend(source.answer(&fetch));
        };
        if self.transfer != Some(version) {
            let bytes = env.versions.bytes(version, self.answers.is_some());
            (self.transfer, self.fetched) = (Some(version), bytes);
            acts.push(Act::Fetch(bytes));
        }
        self.asked.push(fetch);
    }

    fn switch(&mut self, digest: Digest, bundles: &Bundles, acts: &mut Vec<Act>) {
        self.watch.switches(&digest, &self.disk);
        let from = self.answering(bundles);
        self.answers = Some(digest);
        let to = self.answering(bundles);
        if from != to {
            acts.push(Act::Switch { from, to });
        }
    }

    fn plan_end_of_trial(&mut self, env: &Env, acts: &mut Vec<Act>) {
        let record = self.record().filter(|record| record.trial.is_some());
        let trial = record.and_then(|record| record.outcome.as_ref()).map(|outcome| outcome.want.trial_seconds);
        acts.extend(trial.map(|trial| Act::Wake(env.now + trial)));
    }

    pub(super) fn record(&self) -> Option<&muster_agent::core::durable::SlotRecord> {
        self.disk.durable.slots.get(&slot())
    }

    pub(super) fn answering(&self, bundles: &Bundles) -> u8 {
        self.answers.and_then(|digest| bundles.version(&digest)).unwrap_or(NONE)
    }
}

fn passed() -> Probe {
    Probe { samples: 2, passed: 2, max_abs_error: 0.0, load_us: 1000, inference_us: 100 }
}

fn mismatch() -> LoadFailure {
    let detail = "sample 1 of 2 gave another answer than recorded".to_owned();
    LoadFailure { failure: Failure { code: Code::ProbeMismatch, detail }, damaged: Vec::new() }
}

fn shadow_terms() -> ShadowTerms {
    let (seconds, inferences, share_permille) = (3600, 0, 1000);
    ShadowTerms { seconds, inferences, share_permille, cpu_permille: 500, memory_bytes: 0, rule: Agreement::Top1 }
}

/// A plan's windows as they travel.
pub fn windows(windows: &[muster_dispatcher::domain::rollout::plan::Window]) -> Vec<Window> {
    let seconds = |seconds: u64| u32::try_from(seconds).unwrap_or(u32::MAX);
    windows.iter().map(|w| Window { cron: w.cron.clone(), seconds: seconds(w.length.0) }).collect()
}
