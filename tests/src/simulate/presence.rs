//! When devices are connected: worked out from their patterns minute by minute, without anything planned per device.
//!
//! Devices of a pattern that changes are sorted once by the minute at which they change, so that a minute costs what
//! changes in it and not the fleet.

use super::chance::{Chance, For};
use super::fleet::Fleet;
use super::scenario::PresenceSpec;

/// How long a slot of time is, in seconds.
pub const SLOT: u32 = 60;

/// Who comes and goes when.
#[derive(Debug)]
pub struct Presence {
    chance: Chance,
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    spec: PresenceSpec,
    /// Devices by phase; empty for patterns that never change.
    members: Vec<u32>,
    /// Where each phase begins in `members`.
    starts: Vec<u32>,
}

impl PresenceSpec {
    /// In how many slots its devices are told apart.
    fn slots(&self) -> u32 {
        let slots = |seconds: u64| (seconds / u64::from(SLOT)).max(1) as u32;
        match self {
            Self::Cycle { period, .. } => slots(period.0),
            Self::Joins { from, to, .. } => slots(to.0.saturating_sub(from.0)),
            Self::Always { .. } | Self::Away { .. } | Self::Dead { .. } => 1,
        }
    }
}

impl Presence {
    /// Sorts the devices of `fleet`.
    pub fn new(fleet: &Fleet, chance: Chance) -> Self {
        let patterns =
            fleet.spec.presence.iter().map(|spec| Pattern { spec: spec.clone(), members: vec![], starts: vec![] });
        let mut presence = Self { chance, patterns: patterns.collect() };
        for index in 0..presence.patterns.len() {
            let (slots, spec) = (presence.patterns[index].spec.slots(), &presence.patterns[index].spec);
            if matches!(spec, PresenceSpec::Always { .. }) {
                continue;
            }
            let mut starts = vec![0u32; slots as usize + 1];
            let mine = || (0..fleet.len()).filter(|d| fleet.pattern(*d) == index);
            mine().for_each(|d| starts[presence.phase(d, slots) as usize + 1] += 1);
            for i in 1..starts.len() {
                starts[i] += starts[i - 1];
            }
            let mut next = starts.clone();
            let mut members = vec![0; mine().count()];
            for device in mine() {
                let at = &mut next[presence.phase(device, slots) as usize];
                members[*at as usize] = device;
                *at += 1;
            }
            (presence.patterns[index].members, presence.patterns[index].starts) = (members, starts);
        }
        presence
    }

    fn phase(&self, device: u32, slots: u32) -> u32 {
        self.chance.below(For::Phase, device, 0, u64::from(slots)) as u32
    }

    /// Whether the device is connected at `now`, as far as its pattern goes.
    pub fn is_online(&self, fleet: &Fleet, device: u32, now: u32) -> bool {
        let spec = &self.patterns[fleet.pattern(device)].spec;
        let (slot, slots) = (now / SLOT, spec.slots());
        match spec {
            PresenceSpec::Always { .. } => true,
            PresenceSpec::Cycle { online, .. } => {
                (slot + self.phase(device, slots)) % slots < (online.0 / u64::from(SLOT)) as u32
            }
            PresenceSpec::Away { from, to, .. } => slot < slot_of(from.0) || slot >= slot_of(to.0),
            PresenceSpec::Dead { from, .. } => slot < slot_of(from.0),
            PresenceSpec::Joins { from, .. } => slot >= slot_of(from.0) + self.phase(device, slots),
        }
    }

    /// Whether the device is there at all at `now`, connected or not.
    pub fn exists(&self, fleet: &Fleet, device: u32, now: u32) -> bool {
        match self.patterns[fleet.pattern(device)].spec {
            PresenceSpec::Joins { .. } => self.is_online(fleet, device, now),
            _ => true,
        }
    }

    /// Calls `change` with each device that comes (`true`) or goes at the beginning of the slot of `now`.
    pub fn changes(&self, now: u32, mut change: impl FnMut(u32, bool)) {
        let slot = now / SLOT;
        for pattern in &self.patterns {
            let slots = pattern.spec.slots();
            let mut all = |phase: u32, online: bool| pattern.of(phase).iter().for_each(|d| change(*d, online));
            match &pattern.spec {
                PresenceSpec::Always { .. } => {}
                PresenceSpec::Cycle { online, .. } => {
                    let online = (online.0 / u64::from(SLOT)) as u32;
                    if online > 0 && online < slots {
                        all((online + slots - slot % slots) % slots, false);
                        all((slots - slot % slots) % slots, true);
                    }
                }
                PresenceSpec::Away { from, to, .. } => {
                    if slot == slot_of(from.0) {
                        all(0, false);
                    }
                    if slot == slot_of(to.0) {
                        all(0, true);
                    }
                }
                PresenceSpec::Dead { from, .. } if slot == slot_of(from.0) => all(0, false),
                PresenceSpec::Dead { .. } => {}
                PresenceSpec::Joins { from, .. } => {
                    if let Some(phase) = slot.checked_sub(slot_of(from.0)).filter(|phase| *phase < slots) {
                        all(phase, true);
                    }
                }
            }
        }
    }

    /// Whether the device is one that joins later.
    pub fn joins_later(&self, fleet: &Fleet, device: u32) -> bool {
        matches!(self.patterns[fleet.pattern(device)].spec, PresenceSpec::Joins { .. })
    }

    /// Bytes that all of it takes.
    pub fn bytes(&self) -> usize {
        self.patterns.iter().map(|p| (p.members.capacity() + p.starts.capacity()) * size_of::<u32>()).sum()
    }
}

impl Pattern {
    fn of(&self, phase: u32) -> &[u32] {
        match self.starts.get(phase as usize..phase as usize + 2) {
            Some(&[from, to]) => &self.members[from as usize..to as usize],
            _ => &[],
        }
    }
}

fn slot_of(seconds: u64) -> u32 {
    (seconds / u64::from(SLOT)) as u32
}
