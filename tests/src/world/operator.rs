//! What operators do: enrol devices, register versions, start and cancel rollouts, move devices among groups.

use std::collections::BTreeMap;

use muster_dispatcher::domain::rollout::plan::{OnBreach, Plan, Target};
use muster_dispatcher::domain::rollout::units::{Amount, Share};
use muster_dispatcher::domain::rollout::{Order, Word};
use muster_dispatcher::domain::{Device, Event, Rollout, RolloutId};
use muster_proto::desired::{Desired, Window};
use muster_proto::id::{Digest, GroupName, SlotName};

use super::catalogue::{Catalogue, EPOCH_S, VERSIONS};
use super::{Item, World};
use crate::plans::at_once;

/// Something that an operator does.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Registers so many more versions.
    Register(usize),
    /// Starts a rollout of something that is registered.
    Start,
    /// Says something to a rollout.
    Tell(Word),
    /// Moves a device into the group or out of it.
    Move(usize),
    /// Takes a slot away from a device.
    Unassign(usize),
    /// Holds back whatever a device has not switched to yet.
    Hold(usize),
    /// Lets it go on.
    Release(usize),
}

/// The group that about half of the devices are in.
pub fn group() -> GroupName {
    "line".parse().expect("valid")
}

impl World {
    pub(super) fn plan_operators(&mut self, end: u64) {
        self.queue.plan(0, Item::Operator(Action::Register(2)));
        self.queue.plan(1, Item::Operator(Action::Start));
        for _ in 0..self.rng.within(6, 16) {
            let i = self.rng.below(self.devices.len() as u64) as usize;
            let action = match self.rng.below(14) {
                0..=2 => Action::Register(self.rng.within(1, 4) as usize),
                3..=9 => Action::Start,
                10 => Action::Tell(self.any_word()),
                11 | 12 => Action::Move(i),
                _ => Action::Unassign(i),
            };
            let at = self.rng.below(end);
            self.queue.plan(at, Item::Operator(action));
        }
        for _ in 0..if self.setup.terms { self.rng.within(2, 8) } else { 0 } {
            let i = self.rng.below(self.devices.len() as u64) as usize;
            let (at, later) = (self.rng.below(end), self.rng.below(end));
            self.queue.plan(at, Item::Operator(Action::Hold(i)));
            self.queue.plan(at.max(later), Item::Operator(Action::Release(i)));
        }
    }

    /// Lets a device into the fleet.
    pub(super) fn enrol(&mut self, i: usize) {
        let device = &self.devices[i];
        let token = format!("token-{i}");
        let now = self.wall_s();
        let mut record = Device::enrolled(device.id.clone(), vec![4; 65], token, device.traits.agent.clone(), now);
        if i.is_multiple_of(2) {
            record.groups.insert(group());
        }
        self.tell_cloud(Event::Enrolled(Box::new(record)));
    }

    pub(super) fn operate(&mut self, action: Action) {
        self.trace.note(self.now, || format!("operator: {action:?}"));
        if !self.cloud.up {
            return;
        }
        match action {
            Action::Register(count) => self.register(self.cloud.registered + count),
            Action::Start => self.start_any(),
            Action::Tell(word) => {
                let ids: Vec<RolloutId> = self.cloud.fleet.rollouts.keys().copied().collect();
                if !ids.is_empty() {
                    let id = *self.rng.pick(&ids);
                    self.tell_cloud(Event::RolloutTold(id, word));
                }
            }
            Action::Move(i) => {
                let device = self.devices[i].id.clone();
                let mut groups = self.cloud.fleet.devices.get(&device).map(|d| d.groups.clone()).unwrap_or_default();
                if !groups.remove(&group()) {
                    groups.insert(group());
                }
                self.tell_cloud(Event::GroupsChanged { device, labels: BTreeMap::new(), groups });
            }
            Action::Hold(i) => {
                let id = self.devices[i].id.clone();
                if let Some(record) = self.cloud.fleet.devices.get(&id).filter(|r| r.generation.0 > 0) {
                    self.holds.insert(id, record.generation.0 + 1);
                    self.sign_anew(i);
                }
            }
            Action::Release(i) => self.release(i),
            Action::Unassign(i) => {
                let record = self.cloud.fleet.devices.get(&self.devices[i].id);
                let slots: Vec<SlotName> = record.iter().flat_map(|r| r.slots.keys().cloned()).collect();
                if !slots.is_empty() {
                    let slot = self.rng.pick(&slots).clone();
                    self.unassign(i, &slot);
                }
            }
        }
    }

    /// Registers versions until there are `count` of them, in the order of [`VERSIONS`].
    pub fn register(&mut self, count: usize) {
        self.cloud.registered = count.min(VERSIONS.len()).max(self.cloud.registered);
    }

    fn start_any(&mut self) {
        let count = self.cloud.registered.min(VERSIONS.len());
        if count == 0 {
            return;
        }
        let version = VERSIONS[self.rng.below(count as u64) as usize];
        let slot = if self.rng.chance(150) { "spare".to_owned() } else { version.0.to_owned() };
        let ids: Vec<_> = self.devices.iter().map(|d| d.id.clone()).collect();
        let target = match self.rng.below(6) {
            0 => Target { groups: [group()].into(), ..Target::default() },
            1 => Target {
                devices: ids.into_iter().filter(|_| self.rng.chance(300)).collect(),
                snapshot: self.rng.chance(500),
                ..Target::default()
            },
            _ => everyone(),
        };
        let plan = self.any_plan(target);
        let rollout = self.rollout(version, &slot, plan);
        self.tell_cloud(Event::RolloutStarted(Box::new(rollout)));
    }

    /// Stages, limits and gates of all sorts; the gates are those that need no figures.
    fn any_plan(&mut self, target: Target) -> Plan {
        let mut plan = at_once(target, self.setup.trial_seconds);
        for count in [1, 3] {
            if self.rng.chance(400) {
                let mut stage = plan.stages[0].clone();
                stage.size = Amount::Count(count);
                let last = plan.stages.len() - 1;
                plan.stages.insert(last, stage);
            }
        }
        for stage in &mut plan.stages {
            stage.gates.failures = match self.rng.below(3) {
                0 => Some(Amount::Count(0)),
                1 => Some(Amount::Part(Share(0.5))),
                _ => None,
            };
            stage.gates.on_breach = self.rng.chance(500).then_some(OnBreach::Abort);
        }
        plan.rate.in_flight = Some(*self.rng.pick(&[2, 5, 100]));
        plan.priority = if self.rng.chance(200) { 1 } else { 0 };
        plan.schedule.prestage = self.rng.chance(200);
        plan.retry.attempts = if self.rng.chance(300) { 2 } else { 0 };
        plan
    }

    fn any_word(&mut self) -> Word {
        match self.rng.below(8) {
            0 => Word::Pause("to look".into()),
            1 => Word::Resume,
            2 | 3 => Word::Recall { now: self.rng.chance(500), reason: "it is bad".into() },
            4 => Word::Skip("enough".into()),
            5 => Word::Retry(Vec::new()),
            6 => Word::Release,
            _ => Word::Cancel("no more".into()),
        }
    }

    /// A rollout of `version` to `slot`.
    pub fn rollout(&self, version: (&str, u64), slot: &str, plan: Plan) -> Rollout {
        let bundle = Catalogue::shared().get(version);
        let order = Order {
            model: bundle.manifest.model.clone(),
            version: bundle.manifest.version,
            target: bundle.target.clone(),
            digest: bundle.digest,
            length: bundle.bytes.len() as u64,
            bytes: bundle.manifest.files.iter().map(|file| file.blob.size).sum(),
            slot: slot.parse().expect("valid"),
            // What the device says of its own is what is looked at here.
            requires: Default::default(),
            plan,
            by: "the world".into(),
        };
        Rollout::new(self.cloud.fleet.next_rollout(), order, self.wall_s())
    }

    /// Rolls `version` out to the slot of its model on every device, at once.
    pub fn roll_out(&mut self, version: (&str, u64)) {
        let plan = at_once(everyone(), self.setup.trial_seconds);
        let rollout = self.rollout(version, version.0, plan);
        self.tell_cloud(Event::RolloutStarted(Box::new(rollout)));
    }

    /// Rolls `version` out to `slot` on some devices, at once.
    pub fn roll_out_to(&mut self, version: (&str, u64), slot: &str, devices: &[usize]) {
        let devices = devices.iter().map(|i| self.devices[*i].id.clone()).collect();
        let plan = at_once(Target { devices, ..Target::default() }, self.setup.trial_seconds);
        let rollout = self.rollout(version, slot, plan);
        self.tell_cloud(Event::RolloutStarted(Box::new(rollout)));
    }

    /// What binds the offers of a desired state. A generation always says the same.
    pub(super) fn put_terms(&self, desired: &mut Desired) {
        if !self.setup.terms {
            return;
        }
        let generation = desired.generation.0;
        let held = self.holds.get(&desired.device) == Some(&generation);
        for (number, slot) in (0..).zip(&mut desired.slots) {
            let draw = Digest::of(format!("{} {generation} {number}", desired.device).as_bytes()).0;
            let terms = &mut slot.terms;
            terms.hold |= held;
            match draw[0] % 5 {
                0 => {
                    terms.windows =
                        vec![Window { cron: format!("{0},{1} * * * *", draw[1] % 30, draw[1] % 30 + 30), seconds: 300 }]
                }
                1 => terms.not_before = EPOCH_S + self.setup.trouble_ms / 1000 * u64::from(draw[1]) / 256,
                _ => {}
            }
        }
    }

    /// Lets a device go on that is held back.
    pub(super) fn release(&mut self, i: usize) {
        let held = self.holds.remove(&self.devices[i].id);
        let generation = self.cloud.fleet.devices.get(&self.devices[i].id).map(|r| r.generation.0);
        // The generation has been told with the hold.
        if held.is_some() && held == generation {
            self.sign_anew(i);
        }
    }

    /// Gives a device's desired state a new generation, and with it other terms.
    fn sign_anew(&mut self, i: usize) {
        let id = self.devices[i].id.clone();
        self.cloud.edit(&id, |record| record.generation.0 += 1);
        let generation = self.cloud.fleet.devices[&id].accepted;
        self.tell_cloud(Event::Online { device: id, generation });
    }

    /// Takes a slot away from a device. The rules have no event for this yet, so the record is changed from outside.
    pub fn unassign(&mut self, i: usize, slot: &SlotName) {
        let id = self.devices[i].id.clone();
        self.cloud.edit(&id, |record| {
            record.slots.remove(slot);
            record.generation.0 += 1;
        });
        // A hello makes the dispatcher send the desired state.
        let generation = self.cloud.fleet.devices[&id].accepted;
        self.tell_cloud(Event::Online { device: id, generation });
    }
}

fn everyone() -> Target {
    Target { all: true, ..Target::default() }
}
