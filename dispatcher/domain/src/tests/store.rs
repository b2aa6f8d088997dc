//! A database that stores exactly what the rules ask to be stored.

use crate::{Effect, Fleet};

pub struct Store(Fleet);

impl Store {
    pub fn new(fleet: &Fleet) -> Self {
        Self(fleet.clone())
    }

    pub fn apply(&mut self, fleet: &Fleet, effects: &[Effect]) {
        for effect in effects {
            self.take(fleet, effect);
        }
    }

    fn take(&mut self, fleet: &Fleet, effect: &Effect) {
        let Self(stored) = self;
        match effect {
            Effect::SaveFloor(floor) => stored.floor = *floor,
            Effect::SaveGroup(name) => {
                stored.groups.extend(fleet.groups.get(name).map(|group| (name.clone(), group.clone())));
            }
            Effect::DeleteGroup(name) => drop(stored.groups.remove(name)),
            Effect::SaveDevice(id) => {
                stored.devices.extend(fleet.devices.get(id).map(|device| (id.clone(), device.clone())));
            }
            Effect::DeleteDevice(id) => {
                stored.devices.remove(id);
                for rollout in stored.rollouts.values_mut() {
                    rollout.parts.remove(id);
                }
            }
            Effect::SaveRollout(id) => {
                let Some(rollout) = fleet.rollouts.get(id) else { return };
                let mut record = rollout.without_parts();
                record.parts = stored.rollouts.remove(id).map(|r| r.parts).unwrap_or_default();
                stored.rollouts.insert(*id, record);
            }
            Effect::SaveProgress { rollout: id, device } => {
                let part = fleet.rollouts.get(id).and_then(|rollout| rollout.parts.get(device));
                if let (Some(part), Some(rollout)) = (part, stored.rollouts.get_mut(id)) {
                    rollout.parts.insert(device.clone(), part.clone());
                }
            }
            Effect::DeleteRollout(id) => drop(stored.rollouts.remove(id)),
            Effect::SaveDenied(digest) => match fleet.denied.get(digest) {
                Some(denied) => drop(stored.denied.insert(*digest, denied.clone())),
                None => drop(stored.denied.remove(digest)),
            },
            Effect::PublishDesired { .. }
            | Effect::ClearDesired(_)
            | Effect::Ack { .. }
            | Effect::Record { .. }
            | Effect::Notify(_) => {}
        }
    }

    /// The fleet as a dispatcher finds it that starts now.
    pub fn load(&self, now: u64) -> Fleet {
        let mut fleet = as_stored(&self.0);
        fleet.listening_since = now;
        fleet.wake(now);
        fleet
    }

    /// Panics where something is known that is not stored.
    pub fn compare(&self, fleet: &Fleet) {
        let (mut stored, mut known) = (as_stored(&self.0), as_stored(fleet));
        for device in stored.devices.values_mut().chain(known.devices.values_mut()) {
            // A few windows of telemetry may be lost, and when it was heard.
            device.usual.clear();
            device.last_seen = 0;
        }
        assert_eq!(stored.floor, known.floor);
        assert_eq!(stored.devices, known.devices);
        assert_eq!(stored.groups, known.groups);
        assert_eq!(stored.denied, known.denied);
        assert_eq!(stored.rollouts.keys().collect::<Vec<_>>(), known.rollouts.keys().collect::<Vec<_>>());
        for (stored, known) in stored.rollouts.values_mut().zip(known.rollouts.values()) {
            for (device, part) in &known.parts {
                assert_eq!(stored.parts.get(device), Some(part), "{device} of {}", known.id);
            }
            assert_eq!(stored.parts.len(), known.parts.len(), "parts of {}", known.id);
            assert_eq!((stored.status, &stored.counts, stored.stage), (known.status, &known.counts, known.stage));
            assert_eq!(stored.plan, known.plan);
        }
    }
}

/// Without what is kept in memory only.
fn as_stored(fleet: &Fleet) -> Fleet {
    let mut fleet = fleet.clone();
    for device in fleet.devices.values_mut() {
        let text = serde_json::to_string(device).unwrap();
        *device = serde_json::from_str(&text).unwrap();
    }
    for rollout in fleet.rollouts.values_mut() {
        let parts = std::mem::take(&mut rollout.parts);
        let text = serde_json::to_string(&rollout.without_parts()).unwrap();
        *rollout = serde_json::from_str(&text).unwrap();
        rollout.parts = parts;
        for part in rollout.parts.values_mut() {
            let text = serde_json::to_string(part).unwrap();
            *part = serde_json::from_str(&text).unwrap();
        }
    }
    fleet
}
