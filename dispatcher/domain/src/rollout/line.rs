//! Who is where, kept with every change: nothing is ever counted over the whole fleet.

mod queue;

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::code::Code;
use muster_proto::id::DeviceId;

use super::part::{Counts, DevicePhase, Part};
use super::parts::{find, pack};
use super::plan::{MAX_STAGES, Plan};
use super::{PRESTAGE, Rollout, StageState};
pub(super) use queue::Queue;

/// How much longer a connected device is believed to be there: nobody saw its connection end.
const CONNECTED_PATIENCE: u64 = 6;

/// Places below this are those of devices that a stage names; the place is the stage's number.
pub(super) const NAMED: u64 = MAX_STAGES as u64;

/// What can be told of a rollout's parts at once. It is made anew when the rollout is loaded.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Line {
    /// Devices that could be offered the version now.
    pub ready: Queue,
    /// Connected devices that hold the version staged, until the stages reach them.
    pub prestaged: Queue,
    /// When to look at a device again. A device may be looked at too early, never too late.
    pub timers: BTreeSet<(u64, DeviceId)>,
    /// Devices that update, without those that are held.
    pub in_flight: u32,
    /// The same by site.
    pub site_in_flight: Vec<u32>,
    /// Devices of each stage that are held for a shadow run.
    pub held: BTreeMap<u8, BTreeSet<DeviceId>>,
    /// Devices that are fetching the version beforehand.
    pub prestaging: u32,
    /// Devices that wait to try again after a failure.
    pub retrying: u32,
    /// Devices that have not come to a stage yet, connected or not, and could be compared with what they run.
    pub comparable: u32,
    /// Devices that were told to go back and may still be heard.
    pub awaited: u32,
    /// When the rollout was loaded; 0 where it never was.
    pub loaded_at: u64,
    /// Since when nobody is left in line; 0 while somebody is.
    pub empty_since: u64,
    /// Since when nobody in line runs anything that a shadow could be held against; 0 while somebody does.
    pub bare_since: u64,
}

impl Rollout {
    /// Makes the line anew, after loading; everybody is as well as heard now.
    pub fn rebuild(&mut self, now: u64) {
        self.line = Line { loaded_at: now, ..Line::default() };
        let parts = std::mem::take(&mut self.parts);
        let heard = |(device, mut part): (DeviceId, Part)| {
            part.heard = now;
            part.armed = next_look(&self.plan, &part, now, now);
            self.line.enter(&device, &part, self.stage, self.plan.schedule.prestage);
            (device, part)
        };
        self.parts = pack(parts.into_iter().map(heard));
    }

    /// Changes one device's part and everything that is known of all. False where there is no such part.
    pub(super) fn change(&mut self, device: &DeviceId, now: u64, change: impl FnOnce(&mut Part)) -> bool {
        let Rollout { parts, line, plan, counts, stages, stage, .. } = self;
        let Some((device, part)) = find(parts, device) else { return false };
        let (phase, was_in, armed) = (part.phase, part.stage, part.armed);
        line.leave(device, part);
        count(counts, stages, part, Counts::remove);
        change(part);
        count(counts, stages, part, Counts::add);
        let look = next_look(plan, part, line.loaded_at, now);
        // One that comes too early costs less than moving it with every report.
        part.armed = if armed > now && armed <= look { armed } else { look };
        if part.armed != armed {
            line.timers.remove(&(armed, device.clone()));
        }
        line.enter(device, part, *stage, plan.schedule.prestage);
        // Whom an operator has excused is excused no longer once it is something else.
        if (part.phase != phase || part.stage != was_in)
            && let Some(stage) = stages.get_mut(usize::from(was_in))
        {
            match phase {
                DevicePhase::Failed => stage.excused_failures = stage.excused_failures.saturating_sub(1),
                DevicePhase::Silent => stage.excused_silence = stage.excused_silence.saturating_sub(1),
                _ => {}
            }
        }
        true
    }

    /// Takes in devices that have no part yet.
    pub(super) fn insert(&mut self, new: BTreeMap<DeviceId, Part>) {
        for (device, part) in &new {
            count(&mut self.counts, &mut self.stages, part, Counts::add);
            self.line.enter(device, part, self.stage, self.plan.schedule.prestage);
        }
        if self.parts.is_empty() {
            self.parts = new;
        } else {
            self.parts.extend(new);
        }
    }

    pub(super) fn take_out(&mut self, device: &DeviceId) -> Option<Part> {
        // Whoever leaves is excused no longer, and its timer goes.
        self.change(device, 0, |part| part.phase = DevicePhase::Excluded);
        let part = self.parts.remove(device)?;
        self.line.leave(device, &part);
        count(&mut self.counts, &mut self.stages, &part, Counts::remove);
        Some(part)
    }
}

fn count(counts: &mut Counts, stages: &mut [StageState], part: &Part, change: impl Fn(&mut Counts, DevicePhase)) {
    change(counts, part.phase);
    if part.phase.has_started()
        && let Some(stage) = stages.get_mut(usize::from(part.stage))
    {
        change(&mut stage.counts, part.phase);
    }
}

impl Line {
    /// Takes a device in, while the rollout is at `stage`. Whom a later stage names is passed over until then.
    fn enter(&mut self, device: &DeviceId, part: &Part, stage: usize, prestage: bool) {
        let is_later = part.place < NAMED && part.place > stage as u64;
        if is_ready(part) && (prestage || !is_later) {
            self.ready.insert(part, device);
        }
        if is_prestaged(part) && !is_later {
            self.prestaged.insert(part, device);
        }
        if part.is_shadowing() {
            self.held.entry(part.stage).or_default().insert(device.clone());
        }
        if part.in_flight() {
            let site = part.site as usize;
            if self.site_in_flight.len() <= site {
                self.site_in_flight.resize(site + 1, 0);
            }
            self.site_in_flight[site] += 1;
        }
        if part.armed > 0 {
            self.timers.insert((part.armed, device.clone()));
        }
        self.tally(part, |count| *count += 1);
    }

    /// The reverse, but for the timer. A device may have been passed over.
    fn leave(&mut self, device: &DeviceId, part: &Part) {
        if is_ready(part) {
            self.ready.remove(part, device);
        }
        if is_prestaged(part) {
            self.prestaged.remove(part, device);
        }
        if part.is_shadowing()
            && let Some(held) = self.held.get_mut(&part.stage)
        {
            held.remove(device);
        }
        if part.in_flight()
            && let Some(site) = self.site_in_flight.get_mut(part.site as usize)
        {
            *site = site.saturating_sub(1);
        }
        self.tally(part, |count| *count = count.saturating_sub(1));
    }

    fn tally(&mut self, part: &Part, change: impl Fn(&mut u32)) {
        let waits = part.phase == DevicePhase::Waiting;
        let beforehand = part.stage == PRESTAGE && part.phase.is_updating();
        for (count, applies) in [
            (&mut self.in_flight, part.in_flight()),
            (&mut self.prestaging, beforehand && !part.is_held()),
            (&mut self.retrying, waits && part.not_before > 0),
            (&mut self.comparable, part.comparable && (waits || beforehand)),
            (&mut self.awaited, part.phase == DevicePhase::Recalling && part.armed > 0),
        ] {
            if applies {
                change(count);
            }
        }
    }
}

/// Whether a device could be offered the version, as far as it is up to the device.
fn is_ready(part: &Part) -> bool {
    part.phase == DevicePhase::Waiting && part.online && part.blocked.is_none() && part.not_before == 0
}

/// Whether a device could switch to what it fetched beforehand.
fn is_prestaged(part: &Part) -> bool {
    part.stage == PRESTAGE && part.is_held() && part.online
}

/// When to look at a device again: at the end of its wait, of its lease, or of its time; 0 for never.
fn next_look(plan: &Plan, part: &Part, loaded_at: u64, now: u64) -> u64 {
    let lease = part.heard.max(part.since).saturating_add(patience(plan, part)) + 1;
    match part.phase {
        DevicePhase::Waiting => part.not_before,
        phase if phase.is_updating() && !(part.is_held() && part.stage == PRESTAGE) => {
            lease.min(deadline(plan, part, loaded_at)).max(now + 1)
        }
        // Whoever is away by then is not waited for.
        DevicePhase::Recalling if lease > now => lease,
        _ => 0,
    }
}

/// How long a device may be silent, in seconds.
pub(super) fn patience(plan: &Plan, part: &Part) -> u64 {
    plan.silence_seconds().saturating_mul(if part.online { CONNECTED_PATIENCE } else { 1 })
}

/// Until when an updating device has to be healthy. What waits for a window or a word has time, and nobody is late
/// because the dispatcher was away.
pub(super) fn deadline(plan: &Plan, part: &Part, loaded_at: u64) -> u64 {
    if part.waits() {
        return u64::MAX;
    }
    let soak = plan.stages.get(usize::from(part.stage)).map_or(0, |stage| stage.soak.0);
    let begun = if part.phase == DevicePhase::Active { part.since } else { part.started_at };
    let again = if loaded_at > 0 { loaded_at.saturating_add(2 * plan.silence_seconds()) } else { 0 };
    begun.saturating_add(plan.device_timeout_seconds()).saturating_add(soak).max(again)
}

/// Whether a code says that the device waits as it was told, or as its owner wants.
pub(super) fn waits(code: Code) -> bool {
    matches!(code, Code::Held | Code::NotYet | Code::OutsideWindow | Code::Vetoed)
}
