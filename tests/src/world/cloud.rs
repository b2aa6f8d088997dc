//! The dispatcher: the real rules, a database that stores exactly what they ask to be stored, and a broker that keeps
//! the desired states.

use std::collections::{BTreeMap, BTreeSet};

use muster_dispatcher::domain::fleet::step;
use muster_dispatcher::domain::rollout::Word;
use muster_dispatcher::domain::{Device, Effect, Event, Fleet};
use muster_proto::id::{DeviceId, Digest, SlotName};
use muster_proto::report::{ModelRef, Phase, SlotReport};

use super::authority::workspace;

/// An outcome of an update: slot, rollout, digest and phase.
pub type Outcome = (SlotName, String, Digest, Phase);

/// The dispatcher and its broker.
pub struct Cloud {
    /// What it knows.
    pub fleet: Fleet,
    /// What it would know after a restart.
    stored: Fleet,
    /// Whether it runs.
    pub up: bool,
    /// Whether its broker lives and dies with it.
    pub embedded: bool,
    /// How many versions are registered.
    pub registered: usize,
    /// The desired states that the broker retains.
    pub retained: BTreeMap<DeviceId, Vec<u8>>,
    /// Every desired state that was ever sent, for replays.
    pub history: BTreeMap<DeviceId, Vec<Vec<u8>>>,
    /// Blobs that it offers and that no publisher signed.
    pub forged: BTreeMap<Digest, Vec<u8>>,
    /// It dies at its next event, after storing and before anything else.
    pub dies_next: bool,
    /// What it has stored of outcomes.
    pub told: BTreeMap<DeviceId, BTreeSet<Outcome>>,
}

impl Cloud {
    /// An empty dispatcher.
    pub fn new(embedded: bool) -> Self {
        let fleet = Fleet::new(workspace(), 0);
        Self {
            stored: fleet.clone(),
            fleet,
            up: true,
            embedded,
            registered: 0,
            retained: BTreeMap::new(),
            history: BTreeMap::new(),
            forged: BTreeMap::new(),
            dies_next: false,
            told: BTreeMap::new(),
        }
    }

    /// Lets the rules answer, stores what they want stored, and returns the rest. The same event once more has to leave
    /// the same state (invariant 6), which is tried where `twice` says so.
    pub fn step(&mut self, event: Event, now_s: u64, twice: bool) -> Result<Vec<Effect>, String> {
        // To pass a stage is said of the one under way, which is then another.
        let skips = matches!(event, Event::RolloutTold(_, Word::Skip(_)));
        let again = (twice && !skips).then(|| event.clone());
        let effects = step(&mut self.fleet, event, now_s);
        if let Some(event) = again {
            let mut fleet = self.fleet.clone();
            step(&mut fleet, event.clone(), now_s);
            if fleet != self.fleet {
                return Err(format!("invariant 6: the dispatcher is not where it was after the same event: {event:?}"));
            }
        }
        for effect in &effects {
            self.store(effect);
        }
        for (id, record) in &self.stored.devices {
            let now = self.fleet.devices.get(id).map(|d| d.generation);
            if now.is_some_and(|now| now < record.generation) {
                return Err(format!("invariant 3: the dispatcher took {id} back to {now:?}"));
            }
        }
        Ok(effects)
    }

    /// A device that would be offered something at the next tick; none where nothing is left to offer.
    pub fn still_offers(&self, now_s: u64) -> Option<DeviceId> {
        let effects = step(&mut self.fleet.clone(), Event::Tick, now_s);
        effects.into_iter().find_map(|effect| match effect {
            Effect::PublishDesired { device, .. } => Some(device),
            _ => None,
        })
    }

    fn store(&mut self, effect: &Effect) {
        match effect {
            Effect::SaveDevice(id) => {
                let Some(record) = self.fleet.devices.get(id) else { return };
                let slots = record.report.iter().flat_map(|r| &r.slots).filter(|s| s.is_final());
                let proved = |s: &&SlotReport| {
                    let digest = |m: &Option<ModelRef>| m.as_ref().map(|m| m.digest);
                    s.phase != Phase::Healthy || digest(&s.active) == digest(&s.desired)
                };
                let slots = slots.filter(proved);
                let said = slots.filter_map(|s| {
                    let desired = s.desired.as_ref()?;
                    Some((s.slot.clone(), s.rollout.clone(), desired.digest, s.phase))
                });
                self.told.entry(id.clone()).or_default().extend(said);
                self.stored.devices.insert(id.clone(), record.clone());
            }
            Effect::DeleteDevice(id) => {
                self.stored.devices.remove(id);
                for rollout in self.stored.rollouts.values_mut() {
                    rollout.parts.remove(id);
                }
            }
            Effect::SaveFloor(floor) => self.stored.floor = *floor,
            Effect::SaveGroup(name) => {
                if let Some(group) = self.fleet.groups.get(name) {
                    self.stored.groups.insert(name.clone(), group.clone());
                }
            }
            Effect::DeleteGroup(name) => drop(self.stored.groups.remove(name)),
            Effect::SaveRollout(id) => {
                let Some(rollout) = self.fleet.rollouts.get(id) else { return };
                let parts = self.stored.rollouts.remove(id).map(|r| r.parts).unwrap_or_default();
                let mut record = rollout.without_parts();
                record.parts = parts;
                self.stored.rollouts.insert(*id, record);
            }
            Effect::SaveProgress { rollout, device } => {
                let part = self.fleet.rollouts.get(rollout).and_then(|r| r.parts.get(device));
                if let (Some(part), Some(record)) = (part, self.stored.rollouts.get_mut(rollout)) {
                    record.parts.insert(device.clone(), part.clone());
                }
            }
            Effect::DeleteRollout(id) => drop(self.stored.rollouts.remove(id)),
            Effect::SaveDenied(digest) => match self.fleet.denied.get(digest) {
                Some(denied) => drop(self.stored.denied.insert(*digest, denied.clone())),
                None => drop(self.stored.denied.remove(digest)),
            },
            Effect::PublishDesired { .. }
            | Effect::ClearDesired(_)
            | Effect::Ack { .. }
            | Effect::Record { .. }
            | Effect::Notify(_) => {}
        }
    }

    /// Changes a device's record behind the back of the rules, in memory and in the database.
    pub fn edit(&mut self, id: &DeviceId, change: impl Fn(&mut Device)) {
        for fleet in [&mut self.fleet, &mut self.stored] {
            fleet.devices.get_mut(id).map(&change);
        }
    }

    /// The dispatcher ends without a word.
    pub fn die(&mut self) {
        self.up = false;
        self.dies_next = false;
        if self.embedded {
            self.retained.clear();
        }
    }

    /// It starts again from its database.
    pub fn start(&mut self, now_s: u64) {
        self.up = true;
        self.fleet = self.stored.clone();
        self.fleet.listening_since = now_s;
        for device in self.fleet.devices.values_mut() {
            device.online = false;
        }
        for part in self.fleet.rollouts.values_mut().flat_map(|rollout| rollout.parts.values_mut()) {
            (part.online, part.blocked) = (false, None);
        }
        self.fleet.wake(now_s);
    }
}
