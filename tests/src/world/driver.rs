//! Carries the effects of one core out as `muster_agent::driver` does: one after the other, with the same order of
//! writes, the same work in the background, and the same way of waiting for a full disk.

use muster_agent::core::event::{Body, Source};
use muster_agent::core::outbox::{Entry, Kind};
use muster_agent::core::{Effect, Event};
use muster_proto::code::Code;
use muster_proto::id::{Digest, SlotName};
use muster_proto::manifest::{Blob, File};
use muster_proto::report::{DeviceReport, Presence, Report, SignedReport, SlotWindow, SlotWindow2, Vitals};
use muster_proto::topic::Leaf;
use muster_proto::wire;

use super::device::Work;
use super::disk::Message;
use super::engine::{Character, Loading, damaged, failed, passed};
use super::{Item, World};

/// How long the driver waits before it tries a full disk again, in milliseconds.
const DISK_RETRY_MS: u64 = 2_000;

/// Work on the disk that takes a while.
pub(super) enum Background {
    /// Opens a partial blob.
    Open(Box<Blob>),
    /// Makes a file out of its blob.
    Assemble(Box<File>, Source),
}

/// Whether the driver can go on.
enum Outcome {
    Done,
    /// There is no room for what has to be on disk before anything else is done.
    NoRoom(Effect),
}

impl World {
    /// Does what is left to do of the last event, then takes the next one.
    pub(super) fn carry_on(&mut self, i: usize) {
        loop {
            let Some(process) = self.devices[i].process.as_mut() else { return };
            process.waits_for_disk = false;
            match process.work.pop_front() {
                Some(Work::Effect(effect)) => {
                    if self.power_goes_now(i) {
                        return self.cut_power(i, Some(effect));
                    }
                    if let Outcome::NoRoom(effect) = self.perform(i, effect) {
                        let process = self.devices[i].running();
                        process.work.push_front(Work::Effect(effect));
                        process.waits_for_disk = true;
                        let start = process.start;
                        return self.plan(DISK_RETRY_MS, Item::DiskRetry(i, start));
                    }
                }
                Some(Work::Answer(slot, digest)) => {
                    if process.state.answering().get(&slot) == Some(&digest) {
                        self.answers(i, slot, digest);
                    }
                }
                Some(Work::Exit) => return self.exit(i),
                None => {
                    if std::mem::take(&mut process.busy) {
                        self.check_device(i);
                    }
                    let process = self.devices[i].running();
                    let Some((event, then)) = process.inbox.pop_front() else { return };
                    process.busy = true;
                    self.take(i, event, then);
                }
            }
        }
    }

    fn power_goes_now(&mut self, i: usize) -> bool {
        let Some(left) = &mut self.devices[i].cut_in else { return false };
        match left.checked_sub(1) {
            Some(less) => *left = less,
            None => return true,
        }
        false
    }

    fn perform(&mut self, i: usize, effect: Effect) -> Outcome {
        let id = &self.devices[i].id;
        self.trace.note(self.now, || format!("{id} → {}", super::describe::effect(&effect)));
        match effect {
            Effect::Persist(durable) => {
                if !self.devices[i].disk.save(&durable) {
                    return Outcome::NoRoom(Effect::Persist(durable));
                }
                self.check_record(i);
            }
            Effect::KeepSigned(signed) => {
                let disk = &mut self.devices[i].disk;
                disk.keep_copies(&signed, signed.len());
                if !disk.keep_signed(&signed) {
                    return Outcome::NoRoom(Effect::KeepSigned(signed));
                }
            }
            Effect::KeepManifest { digest, bytes } => {
                self.check_manifest(i, digest, &bytes);
                let device = &mut self.devices[i];
                if !device.disk.keep_manifest(digest, &bytes) {
                    return Outcome::NoRoom(Effect::KeepManifest { digest, bytes });
                }
                device.witness.damaged.remove(&digest);
            }
            Effect::SayHello => {
                let generation = self.devices[i].running().state.durable().generation;
                self.send_up(i, Leaf::State, wire::encode(&Presence::OnlineV1 { generation }));
            }
            Effect::Request(fetch) => self.send_up(i, Leaf::Fetch, wire::encode(&fetch)),
            Effect::Join(digest) => {
                let link = &mut self.devices[i].link;
                if link.up {
                    link.joined.insert(digest);
                }
            }
            Effect::Leave(digest) => drop(self.devices[i].link.joined.remove(&digest)),
            Effect::MeasureRoom => {
                let device = &self.devices[i];
                let (disk_free, memory_available) = (device.disk.free(), device.traits.memory);
                self.result(i, 1, Event::RoomMeasured { disk_free, memory_available });
            }
            Effect::OpenBlob(blob) => self.in_background(i, Background::Open(blob)),
            Effect::Assemble { file, source } => self.in_background(i, Background::Assemble(file, source)),
            Effect::WriteChunk { digest, offset, data } => {
                if let Err(failure) = self.devices[i].disk.write_chunk(&digest, offset, &data) {
                    self.result(i, 1, Event::WriteFailed { digest, failure });
                }
            }
            Effect::DropBlob(digest) => drop(self.devices[i].disk.partial.remove(&digest)),
            Effect::Stage { slot, manifest, digest } => {
                self.check_staging(i, &slot, digest, &manifest);
                self.load(i, Loading { slot, digest, manifest, beside: true });
            }
            Effect::Load { slot, manifest, digest } => {
                self.check_bundle(i, digest, &manifest);
                self.load(i, Loading { slot, digest, manifest, beside: false });
            }
            Effect::Activate { slot, digest } => {
                if self.devices[i].running().engine.staged.remove(&slot) == Some(digest) {
                    self.answers(i, slot, digest);
                }
            }
            // Nobody offers a shadow here.
            Effect::Shadow { .. } | Effect::EndShadow { .. } => {}
            Effect::Unstage { slot } => drop(self.devices[i].running().engine.staged.remove(&slot)),
            Effect::Clear { slot } => {
                let device = &mut self.devices[i];
                device.witness.answered.remove(&slot);
                let engine = &mut device.running().engine;
                engine.staged.remove(&slot);
                engine.answers.remove(&slot);
                engine.short.remove(&slot);
            }
            Effect::Collect { manifests, files } => {
                let disk = &mut self.devices[i].disk;
                disk.manifests.retain(|digest, _| !manifests.contains(digest));
                disk.files.retain(|digest, _| !files.contains(digest));
                self.check_record(i);
            }
            Effect::SendReport(report) => self.send_up(i, Leaf::Report, Ok(signed(&report))),
            Effect::Put { id, kind, body } => {
                if !self.put(i, id, kind, &body) {
                    if kind == Kind::Outcome {
                        return Outcome::NoRoom(Effect::Put { id, kind, body });
                    }
                    self.result(i, 1, Event::PutFailed { id });
                }
            }
            Effect::Send { id, kind } => {
                let leaf = match kind {
                    Kind::Outcome => Leaf::Report,
                    Kind::Telemetry => Leaf::Telemetry,
                };
                if let Some(message) = self.devices[i].disk.outbox.get(&id) {
                    let payload = message.payload.clone();
                    self.send_up(i, leaf, Ok(payload));
                }
            }
            Effect::Remove(ids) => {
                let device = &mut self.devices[i];
                let dropped = ids.iter().filter(|id| !device.witness.acknowledged.contains(id));
                device.witness.dropped += dropped.count() as u64;
                device.disk.remove(&ids);
            }
        }
        Outcome::Done
    }

    /// What a power cut leaves of the effect that it interrupts: of most nothing, because they are atomic.
    pub(super) fn tear(&mut self, i: usize, effect: Effect) {
        let disk = &mut self.devices[i].disk;
        match effect {
            Effect::KeepSigned(signed) => {
                let count = self.rng.below(signed.len() as u64 + 1) as usize;
                disk.keep_copies(&signed, count);
            }
            Effect::WriteChunk { digest, offset, data } => drop(disk.write_chunk(&digest, offset, &data)),
            Effect::Collect { manifests, files } => {
                let count = self.rng.below((manifests.len() + files.len()) as u64 + 1) as usize;
                for digest in manifests.iter().chain(&files).take(count) {
                    disk.manifests.remove(digest);
                    disk.files.remove(digest);
                }
            }
            _ => {}
        }
    }

    /// Brings a result back as an event after `after` milliseconds.
    pub(super) fn result(&mut self, i: usize, after: u64, event: Event) {
        let start = self.devices[i].running().start;
        self.plan(after, Item::Result(i, start, Box::new(event)));
    }

    fn in_background(&mut self, i: usize, work: Background) {
        let device = &mut self.devices[i];
        let (slowness, start) = (device.traits.slowness, device.running().start);
        let takes = slowness * self.rng.within(2, 60);
        self.plan(takes, Item::Done(i, start, Box::new(work)));
    }

    pub(super) fn background_done(&mut self, i: usize, work: Background) {
        let device = &mut self.devices[i];
        let event = match work {
            Background::Open(blob) => {
                let have = device.disk.open_blob(&blob);
                Event::BlobOpened { digest: blob.digest, have }
            }
            Background::Assemble(file, source) => {
                let result = device.disk.assemble(&file, &source);
                if result.is_ok() {
                    device.witness.damaged.remove(&file.digest);
                }
                Event::FileAssembled { file: file.digest, result }
            }
        };
        self.feed(i, event);
    }

    /// Puts a message into the outbox; false where there is no room.
    fn put(&mut self, i: usize, id: u64, kind: Kind, body: &Body) -> bool {
        let now = self.devices[i].now(self.now);
        let payload = match body {
            Body::Report(report) => signed(report),
            Body::Telemetry(telemetry) => wire::encode(telemetry).expect("within the cap"),
        };
        let entry = Entry { kind, size: payload.len() as u64, made_at: now.wall_s };
        let device = &mut self.devices[i];
        device.witness.acknowledged.remove(&id);
        device.disk.put(id, Message { entry, payload })
    }

    fn load(&mut self, i: usize, loading: Loading) {
        let engine = &mut self.devices[i].running().engine;
        engine.queue.push_back(loading);
        if engine.queue.len() == 1 {
            self.plan_load(i);
        }
    }

    fn plan_load(&mut self, i: usize) {
        let device = &mut self.devices[i];
        let (slowness, start) = (device.traits.slowness, device.running().start);
        let takes = slowness * self.rng.within(200, 4_000);
        self.plan(takes, Item::Loaded(i, start));
    }

    /// The engine has finished with the first of its queue.
    pub(super) fn loaded(&mut self, i: usize) {
        let cramped = self.now < self.devices[i].cramped_until;
        let device = &mut self.devices[i];
        let Some(Loading { slot, digest, manifest, beside }) = device.running().engine.queue.pop_front() else {
            return;
        };
        if !device.running().engine.queue.is_empty() {
            self.plan_load(i);
        }
        let character = self.character(i, &digest);
        let device = &mut self.devices[i];
        let bad = device.disk.lay_out(&manifest);
        if !bad.is_empty() && !beside {
            self.witness_start(i);
        }
        let device = &mut self.devices[i];
        let result = match character {
            _ if !bad.is_empty() => Err(damaged(bad)),
            Character::KillsOnLoad => return self.crash(i, "a version killed it while it was loaded"),
            _ if cramped => Err(failed(Code::MemoryShort)),
            Character::FailsProbe => Err(failed(Code::ProbeMismatch)),
            Character::Good | Character::KillsInTrial => Ok(passed()),
        };
        if beside {
            self.feed(i, Event::ModelStaged { slot, digest, result });
        } else {
            match &result {
                Err(failure) if failure.failure.code == Code::MemoryShort => {
                    device.running().engine.short.insert(slot.clone())
                }
                _ => device.running().engine.short.remove(&slot),
            };
            let answer = result.is_ok().then(|| Work::Answer(slot.clone(), digest));
            self.feed_then(i, Event::ModelLoaded { slot, digest, result }, answer);
        }
    }

    /// What a version does on this device.
    pub fn character(&self, i: usize, digest: &Digest) -> Character {
        let bad = self.characters.get(digest).copied().unwrap_or(Character::Good);
        if self.devices[i].traits.unlucky { bad } else { Character::Good }
    }

    /// A version begins to answer.
    fn answers(&mut self, i: usize, slot: SlotName, digest: Digest) {
        self.check_signed(i, digest);
        self.check_switch(i, &slot, digest);
        let trial_ms = self.setup.trial_seconds * 1000;
        let device = &mut self.devices[i];
        device.witness.answered.insert(slot.clone());
        device.running().engine.answers.insert(slot.clone(), digest);
        device.running().engine.short.remove(&slot);
        let start = device.running().start;
        self.result(i, 0, Event::Activated { slot: slot.clone(), digest });
        if self.character(i, &digest) == Character::KillsInTrial {
            let after = self.rng.below(trial_ms.max(2) - 1);
            self.plan(after, Item::Killed(i, start, slot, digest));
        }
    }

    pub(super) fn killed(&mut self, i: usize, slot: &SlotName, digest: Digest) {
        if self.devices[i].running().engine.answers.get(slot) == Some(&digest) {
            self.crash(i, "a version killed it while it answered");
        }
    }

    pub(super) fn close_window(&mut self, i: usize, start: u32) {
        if self.setup.window_ms == 0 {
            return;
        }
        let now = self.devices[i].now(self.now);
        let process = self.devices[i].running();
        let window = |(slot, digest): (&SlotName, &Digest)| {
            SlotWindow2::from(SlotWindow {
                slot: slot.clone(),
                digest: *digest,
                ok: 7,
                errors: 0,
                rejected: 0,
                latency: vec![7; 23],
                queue_peak: 1,
            })
        };
        let slots = process.engine.answers.iter().map(window).collect();
        let length_ms = self.setup.window_ms;
        let started_at = now.wall_s.saturating_sub(length_ms / 1000);
        self.feed(
            i,
            Event::WindowClosed { started_at, length_ms, slots, shadows: Vec::new(), vitals: Vitals::default() },
        );
        self.plan(length_ms, Item::Window(i, start));
    }
}

/// A report as it travels. The cores do not look at the signature, so it is only as long as one.
fn signed(report: &DeviceReport) -> Vec<u8> {
    let payload = wire::encode(&Report::V1(report.clone())).expect("within the cap");
    wire::encode(&SignedReport::V1 { payload, signature: vec![0; 71] }).expect("within the cap")
}
