//! What holds after every event.

use crate::fleet::step;
use crate::rollout::Word;
use crate::{Assignment, Device, DevicePhase, Event, Fleet, Part, Rollout};

/// Invariant 6. A window of telemetry is counted once before it comes here; and to skip, to retry or to go on twice is
/// more than once.
pub fn twice(fleet: &Fleet, event: Event, now: u64) {
    if matches!(event, Event::Measured { .. } | Event::RolloutTold(_, Word::Skip(_) | Word::Retry(_) | Word::Resume)) {
        return;
    }
    let mut again = fleet.clone();
    step(&mut again, event.clone(), now);
    assert!(again == *fleet, "twice: {event:?}");
}

/// Panics where what rollouts believe of devices and what devices are told differ.
pub fn consistent(fleet: &Fleet) {
    for rollout in fleet.rollouts.values() {
        for (device, part) in &rollout.parts {
            let record = fleet.devices.get(device).expect("a part is of a device");
            part_fits(fleet, rollout, record, part);
        }
        let denied = fleet.denied.contains_key(&rollout.digest);
        assert!(!denied || !rollout.status.is_open(), "{} brings a version that was recalled", rollout.id);
    }
    for device in fleet.devices.values() {
        for (slot, want) in &device.slots {
            assert!(want.since <= device.generation, "{} since {}", device.id, want.since);
            let Some(rollout) = fleet.rollouts.get(&want.rollout) else { continue };
            assert_eq!(rollout.slot, *slot);
            let part = rollout.parts.get(&device.id).expect("who is told something has a part in it");
            assert_ne!(part.phase, DevicePhase::Superseded, "{} still has {}", device.id, rollout.id);
        }
    }
}

fn part_fits(fleet: &Fleet, rollout: &Rollout, device: &Device, part: &Part) {
    let has = device.slots.get(&rollout.slot).filter(|want| want.rollout == rollout.id);
    let has_it = has.is_some_and(|want| want.digest == rollout.digest);
    let is_back = |want: &Assignment| want.digest != rollout.digest;
    let fits = match part.phase {
        // Invariant 12: nobody is healthy with what it was never told.
        phase if phase.is_updating() || phase == DevicePhase::Healthy || phase == DevicePhase::Silent => has_it,
        DevicePhase::Recalling => has.is_some_and(is_back) || !device.slots.contains_key(&rollout.slot),
        DevicePhase::Recalled => !has_it,
        DevicePhase::Superseded => has.is_none(),
        _ => true,
    };
    let (phase, slot) = (part.phase, device.slots.get(&rollout.slot));
    assert!(fits, "{} is {phase:?} in {} and has {slot:?}", device.id, rollout.id);
    let by = fleet.blocker(rollout, &device.id);
    if phase == DevicePhase::Waiting && rollout.status.is_open() {
        assert_eq!(part.blocked, by.map(|id| id.0), "who keeps {} from {}", rollout.id, device.id);
    }
    // Nothing is blocked for ever.
    if phase == DevicePhase::Superseded && rollout.status.is_open() && fleet.excluded(rollout, device).is_none() {
        assert!(by.is_some(), "{} could come back to {}", device.id, rollout.id);
    }
}
