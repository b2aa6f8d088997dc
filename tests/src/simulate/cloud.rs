//! The dispatcher's side: the real engine for each rollout, the desired state of each device, and what follows from
//! effects. Who has a device's slot is in `arbiter`, what a crash leaves in `crash`.

use std::collections::VecDeque;

use muster_dispatcher::domain::rollout::{
    Decision, DevicePhase, Effect, Event, Order, Rollout, RolloutId, RolloutStatus, step,
};
use muster_proto::id::{DeviceId, Digest, Version};
use muster_proto::report::Transfer;

use super::agent::View;
use super::checks::Checks;
use super::desired::{Desired, Told};
use super::scenario::{RolloutSpec, Scenario};
use super::store::Store;
use super::version::{FIRST, NONE};
use super::{EPOCH, fleet};

/// A rollout under way.
#[derive(Debug)]
pub struct Managed {
    /// The engine's record.
    pub rollout: Rollout,
    /// The version, counted from 1.
    pub version: u8,
    /// What is stored of it.
    pub store: Store,
    /// The token with which this replica writes.
    pub token: u64,
    /// What was decided: the time in seconds since the world began, and what.
    pub decided: Vec<(u32, Decision)>,
    /// How often devices moved.
    pub moves: u64,
    /// How it stood when it was last looked at by the arbiter.
    pub known: RolloutStatus,
    /// In how many saves from now it dies, where a crash is near.
    pub dies_in: Option<u32>,
}

/// The dispatcher.
#[derive(Debug)]
pub struct Cloud {
    /// The rollouts that have been started.
    pub rollouts: Vec<Managed>,
    /// What each device was told.
    pub told: Vec<Told>,
    /// Devices whose desired state has to be sent.
    pub outbox: Vec<u32>,
    /// Whether it is down.
    pub dead: bool,
    /// Until when, in seconds since the world began.
    pub down_until: u32,
    down: u32,
    /// Whether it dies after what it is storing now.
    pub dies_now: bool,
    /// Whether it dies at every decision.
    pub dies_at_decisions: bool,
    /// The rollout whose last step was not stored when it died.
    pub(super) lost: Option<usize>,
    /// How often it died.
    pub crashes: u32,
    /// Steps of the engine.
    pub steps: u64,
    pub(super) pending: VecDeque<(usize, Event)>,
    pub(super) keeps: bool,
}

impl Cloud {
    /// A dispatcher with nothing to do, for devices that run the first version.
    pub fn new(scenario: &Scenario, fleet: &fleet::Fleet) -> Self {
        let first = |d| if fleet.is_empty_at_start(d) { NONE } else { FIRST };
        let told = |d| Told::proven(first(d));
        let dispatcher = &scenario.dispatcher;
        let keeps =
            dispatcher.crash_at_decisions || !dispatcher.crashes.is_empty() || !dispatcher.lease_changes.is_empty();
        Self {
            rollouts: Vec::new(),
            told: (0..fleet.len()).map(told).collect(),
            outbox: Vec::new(),
            dead: false,
            down_until: 0,
            down: (dispatcher.down.0 as u32).max(1),
            dies_now: false,
            dies_at_decisions: dispatcher.crash_at_decisions,
            lost: None,
            crashes: 0,
            steps: 0,
            pending: VecDeque::new(),
            keeps,
        }
    }

    /// Makes the record of a rollout; it begins with the event `Started`.
    pub fn create(&mut self, spec: &RolloutSpec, bytes: u64, now: u32) -> usize {
        let index = self.rollouts.len();
        let target = format!("sim/model/{}/manifest", spec.version);
        let order = Order {
            model: "sim/model".parse().expect("a model's name"),
            version: spec.version.to_string().parse::<Version>().expect("a version's number"),
            digest: Digest::of(target.as_bytes()),
            target,
            length: 1000,
            bytes,
            slot: "model".parse().expect("a slot's name"),
            requires: Default::default(),
            plan: spec.completed_plan(),
            by: "simulator".to_owned(),
        };
        let rollout = Rollout::new(RolloutId(index as u64 + 1), order, EPOCH + u64::from(now));
        let store = Store::new(self.told.len() as u32, self.keeps);
        let (token, known) = (store.token(), rollout.status);
        self.rollouts.push(Managed {
            rollout,
            version: spec.version,
            store,
            token,
            decided: Vec::new(),
            moves: 0,
            known,
            dies_in: None,
        });
        index
    }

    /// Whether it takes anything now.
    pub fn is_up(&self) -> bool {
        !self.dead
    }

    /// Plans an event for a rollout.
    pub fn push(&mut self, index: usize, event: Event) {
        self.pending.push_back((index, event));
    }

    /// Plans the same event for every rollout that has begun with the device.
    pub fn push_all(&mut self, event: &Event) {
        for index in 0..self.rollouts.len() {
            self.pending.push_back((index, event.clone()));
        }
    }

    /// Lets the engine take everything that is planned, and all that follows from it.
    pub fn work(&mut self, now: u32, checks: &mut Checks) {
        while let Some((index, event)) = self.pending.pop_front() {
            if !self.is_up() {
                self.pending.clear();
                return;
            }
            self.take(index, event, now, checks);
        }
    }

    fn take(&mut self, index: usize, event: Event, now: u32, checks: &mut Checks) {
        let managed = &mut self.rollouts[index];
        self.steps += 1;
        let effects = step(&mut managed.rollout, event, EPOCH + u64::from(now));
        checks.effects(index, managed, &effects, now);
        let admitted = managed.store.admits(managed.token);
        debug_assert!(admitted, "the replica that works has the lease");
        if managed.dies_in == Some(0) && effects.first() == Some(&Effect::Save) {
            // It dies before this is stored: the step never was.
            self.lost = Some(index);
            return self.die(now);
        }
        let decides = self.dies_at_decisions && effects.iter().any(|e| matches!(e, Effect::Decided(_)));
        if decides && self.may_die_at_decision(index, true) {
            self.lost = Some(index);
            return self.die(now);
        }
        self.save(index, &effects);
        if self.dies_now || (decides && self.may_die_at_decision(index, false)) {
            // What was stored is stored; nothing of it was carried out.
            let managed = &mut self.rollouts[index];
            managed.store.save(&managed.rollout);
            self.note_decisions(index, effects, now);
            return self.die(now);
        }
        self.carry_out(index, effects, now);
        self.arbitrate(index);
    }

    fn save(&mut self, index: usize, effects: &[Effect]) {
        let managed = &mut self.rollouts[index];
        for effect in effects {
            if let Effect::SavePart(device) = effect {
                managed.store.save_part(fleet::number(device), managed.rollout.parts.get(device));
            }
        }
        let saves = effects.first() == Some(&Effect::Save);
        if saves && (managed.dies_in.is_some() || self.dies_at_decisions) {
            managed.store.save(&managed.rollout);
            managed.dies_in = managed.dies_in.map(|left| left - 1);
        }
    }

    fn note_decisions(&mut self, index: usize, effects: Vec<Effect>, now: u32) {
        for effect in effects {
            if let Effect::Decided(decision) = effect {
                self.rollouts[index].decided.push((now, *decision));
            }
        }
    }

    fn carry_out(&mut self, index: usize, effects: Vec<Effect>, now: u32) {
        for effect in effects {
            match effect {
                Effect::Save | Effect::SavePart(_) => {}
                Effect::Moved(_) => self.rollouts[index].moves += 1,
                Effect::Decided(decision) => self.rollouts[index].decided.push((now, *decision)),
                Effect::Offer(device) => self.offer(index, &device),
                Effect::Recall(device) => self.recall(index, &device),
            }
        }
    }

    /// Lets the device's desired state name the version, on the terms of its part.
    pub(super) fn offer(&mut self, index: usize, device: &DeviceId) {
        let (managed, number) = (&self.rollouts[index], fleet::number(device));
        let Some(part) = managed.rollout.parts.get(device) else { return };
        let told = &mut self.told[number as usize];
        let owner = told.rollout;
        if owner != index as u8 + 1 || told.is_recall() {
            told.base = told.proven;
        }
        let wish = Desired {
            generation: 0,
            version: managed.version,
            rollout: index as u8 + 1,
            stage: part.stage,
            held: part.held,
            urgent: false,
            recall: false,
        };
        told.tell(wish);
        self.outbox.push(number);
        if owner != 0 && owner != index as u8 + 1 {
            let by = self.rollouts[index].rollout.id;
            self.push(usize::from(owner) - 1, Event::Superseded { device: device.clone(), by });
        }
    }

    /// Lets the device's desired state name what it had before.
    pub(super) fn recall(&mut self, index: usize, device: &DeviceId) {
        let number = fleet::number(device);
        let urgent = self.rollouts[index].rollout.urgent;
        let told = &mut self.told[number as usize];
        let wish = Desired {
            generation: 0,
            version: told.base,
            rollout: index as u8 + 1,
            stage: told.stage,
            held: false,
            urgent,
            recall: true,
        };
        if told.rollout == index as u8 + 1 && !told.says_the_same(&wish) {
            told.tell(wish);
            self.outbox.push(number);
        }
    }

    /// A device's report, with how it stands.
    pub fn reported(&mut self, number: u32, view: &View) {
        let told = &mut self.told[number as usize];
        told.accepted = told.accepted.max(view.generation);
        let current = *told;
        if current.rollout == 0 {
            return;
        }
        let (index, device) = (usize::from(current.rollout) - 1, fleet::name(number));
        if view.generation != current.generation {
            return self.push(index, Event::Heard(device));
        }
        if current.is_recall() {
            if view.phase == DevicePhase::Healthy && view.active == current.version {
                self.told[number as usize].proven = current.version;
                return self.push(index, Event::WentBack(device));
            }
            return self.push(index, Event::Heard(device));
        }
        if view.phase == DevicePhase::Healthy && view.active == current.version {
            self.told[number as usize].proven = current.version;
        }
        let transfer = Transfer { fetched: view.fetched, saved: 0, resumed: 0, chunks: (view.fetched >> 16) as u32 };
        let (phase, code) = (view.phase, view.code);
        let detail = code.map(|code| code.name().to_owned()).unwrap_or_default();
        self.push(index, Event::Reported { device, phase, code, detail, transfer });
    }

    pub(super) fn die(&mut self, now: u32) {
        self.crashes += 1;
        (self.dead, self.dies_now, self.down_until) = (true, false, now + self.down);
        self.pending.clear();
        self.outbox.clear();
    }

    /// Bytes that its own records take, without the engine's.
    pub fn bytes(&self) -> usize {
        let stores: usize = self.rollouts.iter().map(|m| m.store.bytes()).sum();
        self.told.capacity() * size_of::<Told>() + stores
    }
}
