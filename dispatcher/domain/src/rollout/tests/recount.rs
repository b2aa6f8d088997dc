//! What is kept with every change against what a recount over all parts gives.

use std::collections::{BTreeMap, BTreeSet};

use crate::rollout::line::{NAMED, deadline, patience};
use crate::rollout::{Counts, DevicePhase, PRESTAGE, Rollout, RolloutStatus, Site};

/// Panics where a counter is wrong.
pub fn check(rollout: &Rollout, now: u64) {
    let line = &rollout.line;
    let mut counts = Counts::default();
    let mut stages = vec![Counts::default(); rollout.stages.len()];
    let mut sites: BTreeMap<usize, u32> = BTreeMap::new();
    let (mut ready, mut prestaged, mut timers) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut held: BTreeSet<(u8, _)> = BTreeSet::new();
    let (mut prestaging, mut retrying, mut comparable, mut awaited) = (0, 0, 0, 0);
    for (device, part) in &rollout.parts {
        counts.add(part.phase);
        if part.phase.has_started() && usize::from(part.stage) < stages.len() {
            stages[usize::from(part.stage)].add(part.phase);
        }
        let waits = part.phase == DevicePhase::Waiting;
        let later = part.place < NAMED && part.place > rollout.stage as u64;
        let free = part.online && part.blocked.is_none();
        if waits && free && part.not_before == 0 && (!later || rollout.plan.schedule.prestage) {
            ready.insert((part.place, device.clone()));
        }
        let beforehand = part.stage == PRESTAGE && part.phase.is_updating();
        let staged = part.held && part.phase == DevicePhase::Staged;
        if beforehand && staged && part.online && !later {
            prestaged.insert((part.place, device.clone()));
        }
        prestaging += u32::from(beforehand && !staged);
        retrying += u32::from(waits && part.not_before > 0);
        comparable += u32::from(part.comparable && (waits || beforehand));
        awaited += u32::from(part.phase == DevicePhase::Recalling && part.armed > 0);
        if part.phase.is_updating() && part.held && part.stage != PRESTAGE {
            held.insert((part.stage, device.clone()));
        }
        if part.phase.is_updating() && !staged {
            *sites.entry(part.site as usize).or_default() += 1;
        }
        if part.armed > 0 {
            timers.insert((part.armed, device.clone()));
        }
        if part.phase.is_updating() && !(beforehand && staged) {
            let lease = part.heard.max(part.since) + patience(&rollout.plan, part) + 1;
            let due = lease.min(deadline(&rollout.plan, part, line.loaded_at)).max(now + 1);
            assert!(part.armed > 0 && part.armed <= due, "{device} is looked at by {due}, not at {}", part.armed);
        }
    }
    assert_eq!(rollout.counts, counts, "counts");
    for (state, counts) in rollout.stages.iter().zip(stages) {
        assert_eq!(state.counts, counts, "counts of a stage");
        assert!(state.excused_failures <= counts.of(DevicePhase::Failed), "more failures excused than there are");
        assert!(state.excused_silence <= counts.of(DevicePhase::Silent), "more silence excused than there is");
    }
    assert_eq!(line.ready.devices(), ready, "ready");
    assert_eq!(line.ready.is_empty(), ready.is_empty(), "whether anybody is ready");
    assert_eq!(line.prestaged.devices(), prestaged, "prestaged");
    assert_eq!(line.timers, timers, "timers");
    assert_eq!(line.in_flight, sites.values().sum::<u32>(), "in flight");
    let kept = line.site_in_flight.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
    assert_eq!(sites, kept, "in flight by site");
    let kept = line.held.iter().flat_map(|(stage, held)| held.iter().map(|d| (*stage, d.clone()))).collect();
    assert_eq!(held, kept, "held");
    assert_eq!((line.prestaging, line.retrying), (prestaging, retrying), "prestaging and retrying");
    assert_eq!((line.comparable, line.awaited), (comparable, awaited), "comparable and awaited");
    let whole: Vec<&Site> = rollout.sites.iter().collect();
    assert!(rollout.parts.values().all(|part| (part.site as usize) < whole.len().max(1)), "a site");
    if rollout.status != RolloutStatus::Running && rollout.status != RolloutStatus::Pending {
        assert!(rollout.started_at > 0 || rollout.ended_at > 0 || rollout.status == RolloutStatus::Recalling);
    }
}
