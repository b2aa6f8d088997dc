//! A fleet with its storage, on a clock that the test turns, and devices that say what the test wants.

use muster_proto::code::Code;
use muster_proto::desired::Desired;
use muster_proto::id::{DeviceId, Digest, Generation, GroupName};
use muster_proto::report::{AgentInfo, DeviceReport, Failure, ModelRef, Phase, SlotReport, Transfer};

use super::check;
use super::store::Store;
use crate::fleet::step;
use crate::rollout::plan::Plan;
use crate::rollout::{Order, Part, Word};
use crate::{Device, DevicePhase, Effect, Event, Fleet, Rollout, RolloutId, RolloutStatus};

/// Every member of the group `line` at once.
pub const LINE: &str = "target.groups = ['line']\nstages = [{ size = '100%', soak = '60s' }]";

pub fn id(name: &str) -> DeviceId {
    name.parse().unwrap()
}

pub fn group(name: &str) -> GroupName {
    name.parse().unwrap()
}

pub fn digest(version: u64) -> Digest {
    Digest::of(&version.to_le_bytes())
}

pub fn agent() -> AgentInfo {
    AgentInfo { arch: "aarch64".into(), memory_bytes: 1 << 30, speaks: (1, 1), ..AgentInfo::default() }
}

pub fn device(name: &str, groups: &[&str]) -> Device {
    let mut device = Device::enrolled(id(name), vec![4; 65], "t".into(), agent(), 1);
    device.groups = groups.iter().map(|g| group(g)).collect();
    device
}

pub fn plan(text: &str) -> Plan {
    let plan: Plan = toml::from_str(text).unwrap();
    assert_eq!(plan.check(), Ok(()));
    plan
}

/// A rollout of a version of `digits` into the slot `digits`.
pub fn rollout(number: u64, version: u64, text: &str) -> Rollout {
    Rollout::new(RolloutId(number), order(version, text), 1)
}

/// The same into another slot.
pub fn rollout_into(slot: &str, number: u64, version: u64, text: &str) -> Rollout {
    Rollout::new(RolloutId(number), Order { slot: slot.parse().unwrap(), ..order(version, text) }, 1)
}

fn order(version: u64, text: &str) -> Order {
    Order {
        model: "digits".parse().unwrap(),
        version: version.to_string().parse().unwrap(),
        target: target(version),
        digest: digest(version),
        length: 100,
        bytes: 1_000,
        slot: "digits".parse().unwrap(),
        requires: Default::default(),
        plan: plan(text),
        by: "ada".into(),
    }
}

pub fn target(version: u64) -> String {
    format!("digits/{version}/manifest")
}

pub fn report(name: &str, number: u64, generation: u64, slots: Vec<SlotReport>) -> DeviceReport {
    DeviceReport {
        workspace: "default".parse().unwrap(),
        device: id(name),
        incarnation: 1,
        id: number,
        sent_at: 0,
        generation: Generation(generation),
        agent: agent(),
        slots,
        refused: None,
    }
}

/// What a device says that holds this desired state: how far it is with it, and which version answers.
pub fn slot_reports(desired: &Desired, phase: Phase, active: Option<u64>) -> Vec<SlotReport> {
    let one = |slot: &muster_proto::desired::SlotDesired| SlotReport {
        slot: slot.slot.clone(),
        rollout: slot.rollout.clone(),
        desired: Some(ModelRef { target: slot.target.clone(), digest: slot.digest }),
        phase,
        active: active.map(|v| ModelRef { target: target(v), digest: digest(v) }),
        previous: None,
        probe: None,
        failure: (phase == Phase::Failed).then(|| Failure { code: Code::ProbeMismatch, detail: "sample seven".into() }),
        transfer: Transfer::default(),
    };
    desired.slots.iter().map(one).collect()
}

pub struct Bench {
    pub fleet: Fleet,
    pub store: Store,
    pub now: u64,
    reports: u64,
}

impl Bench {
    pub fn empty() -> Self {
        let fleet = Fleet::new("default".parse().unwrap(), 0);
        Self { store: Store::new(&fleet), fleet, now: 10, reports: 0 }
    }

    /// Connected devices `d0`, `d1` … in the group `line`.
    pub fn line(count: usize) -> Self {
        let mut bench = Self::empty();
        for n in 0..count {
            bench.enrol(device(&format!("d{n}"), &["line"]));
        }
        bench
    }

    pub fn enrol(&mut self, device: Device) -> Vec<Effect> {
        let name = device.id.to_string();
        self.feed(Event::Enrolled(Box::new(device)));
        self.hello(&name, 0)
    }

    /// One event, with everything that has to hold after it.
    pub fn feed(&mut self, event: Event) -> Vec<Effect> {
        let effects = step(&mut self.fleet, event.clone(), self.now);
        check::twice(&self.fleet, event, self.now);
        check::consistent(&self.fleet);
        self.store.apply(&self.fleet, &effects);
        self.store.compare(&self.fleet);
        effects
    }

    pub fn start(&mut self, number: u64, version: u64, text: &str) -> Vec<Effect> {
        self.begin(rollout(number, version, text))
    }

    pub fn begin(&mut self, rollout: Rollout) -> Vec<Effect> {
        self.feed(Event::RolloutStarted(Box::new(rollout)))
    }

    pub fn told(&mut self, number: u64, word: Word) -> Vec<Effect> {
        self.feed(Event::RolloutTold(RolloutId(number), word))
    }

    pub fn roll_back(&mut self, number: u64) -> Vec<Effect> {
        self.told(number, Word::Recall { now: false, reason: "bad".into() })
    }

    pub fn cancel(&mut self, number: u64) {
        self.told(number, Word::Cancel("done with".into()));
    }

    pub fn pause(&mut self, number: u64) {
        self.told(number, Word::Pause("look".into()));
    }

    pub fn hello(&mut self, name: &str, generation: u64) -> Vec<Effect> {
        self.feed(Event::Online { device: id(name), generation: Generation(generation) })
    }

    pub fn gone(&mut self, name: &str) {
        self.feed(Event::Offline(id(name)));
    }

    /// Lets time pass, to the end of which the clock ticks.
    pub fn wait(&mut self, seconds: u64) -> Vec<Effect> {
        self.now += seconds;
        self.feed(Event::Tick)
    }

    /// What a device is told now.
    pub fn desired(&self, name: &str) -> Desired {
        self.fleet.devices[&id(name)].desired(&self.fleet.workspace, Vec::new(), self.now).unwrap()
    }

    /// A device has accepted its newest desired state and says how far it is with it.
    pub fn says(&mut self, name: &str, phase: Phase, active: Option<u64>) -> Vec<Effect> {
        let desired = self.desired(name);
        let slots = slot_reports(&desired, phase, active);
        self.sends(report(name, 0, desired.generation.0, slots))
    }

    /// A report under the next number.
    pub fn sends(&mut self, report: DeviceReport) -> Vec<Effect> {
        self.reports += 1;
        let report = DeviceReport { id: self.reports, ..report };
        self.feed(Event::ReportArrived(Box::new(report)))
    }

    /// A device does what it is told, and proves it.
    pub fn obeys(&mut self, name: &str) {
        let wanted = self.desired(name).slots.first().map(|slot| version_of(&slot.target));
        self.says(name, Phase::Healthy, wanted);
    }

    pub fn fails(&mut self, name: &str) {
        self.says(name, Phase::Failed, None);
    }

    pub fn part(&self, number: u64, name: &str) -> &Part {
        &self.fleet.rollouts[&RolloutId(number)].parts[&id(name)]
    }

    pub fn phase(&self, number: u64, name: &str) -> DevicePhase {
        self.part(number, name).phase
    }

    /// The phases of `d0`, `d1` … in a rollout.
    pub fn phases(&self, number: u64) -> Vec<DevicePhase> {
        self.fleet.rollouts[&RolloutId(number)].parts.values().map(|part| part.phase).collect()
    }

    pub fn status(&self, number: u64) -> RolloutStatus {
        self.fleet.rollouts[&RolloutId(number)].status
    }

    /// What the slot `digits` of a device shall run and who says so, such as `r2 v1`.
    pub fn slot(&self, name: &str) -> String {
        let slots = &self.fleet.devices[&id(name)].slots;
        let want = slots.get(&"digits".parse().unwrap());
        want.map_or("-".into(), |want| format!("{} v{}", want.reference(), version_of(&want.target)))
    }
}

pub fn version_of(target: &str) -> u64 {
    target.split('/').nth(1).unwrap().parse().unwrap()
}

/// Who was sent what: the device and the generation.
pub fn published(effects: &[Effect]) -> Vec<(String, u64)> {
    let pick = |effect: &Effect| match effect {
        Effect::PublishDesired { device, desired } => Some((device.to_string(), desired.generation.0)),
        _ => None,
    };
    let mut sent: Vec<_> = effects.iter().filter_map(pick).collect();
    sent.sort();
    sent
}

pub fn acks(effects: &[Effect]) -> Vec<u64> {
    let pick = |effect: &Effect| match effect {
        Effect::Ack { ids, .. } => ids.clone(),
        _ => vec![],
    };
    effects.iter().flat_map(pick).collect()
}
