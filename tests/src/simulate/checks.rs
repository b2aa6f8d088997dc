//! The invariants of design.md, section 2, as far as they can be broken here, looked at with every step:
//!
//! 1. a device switches only to what it fetched whole or had (its bytes are not modelled);
//! 2. who had a working model has one; 3. generations never go back; 5. and 13. are looked at in the end (`settle`);
//! 6. a report that comes twice moves nothing; 7. no second try of a refused version in one generation;
//! 8. nothing starts once a stage's failure budget is used up, nor beyond the places for devices that update at once;
//! 9. outcomes are repeated until acknowledged (in the end); 10. what the engine keeps is bounded;
//! 11. devices in 1970 converge like any other (in the end); 12. healthy is what really answered for the soak time.
//!
//! 4, and of 14 what devices can do for it, are tried at the real cores (`real::takeover`), and so are 1 to 3, 6 and 7 from
//! closer by (`real::watch`). Besides: the engine's counters are held against a
//! recount, always in small worlds and now and then in large ones.

use std::collections::HashMap;

use muster_dispatcher::domain::rollout::units::Amount;
use muster_dispatcher::domain::rollout::{DevicePhase, Effect, Rollout};

use super::agent::{Act, Terms, View};
use super::cloud::Managed;
use super::version::{FIRST, NONE};

/// The most breaches that are kept.
const MAX_BREACHES: usize = 20;
/// Steps between two recounts, for each device of the fleet.
const RECOUNT: u64 = 4;
/// The most decisions that a rollout may keep (invariant 10).
const MAX_DECISIONS: usize = 200;

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Breach {
    /// When, in seconds since the world began.
    pub at: u32,
    /// On which device, where it is about one.
    pub device: Option<u32>,
    /// What.
    pub what: String,
}

/// What was seen of every device, to hold the next thing against.
#[derive(Debug, Default)]
pub struct Checks {
    /// What did not hold, the first ones.
    pub breaches: Vec<Breach>,
    /// How many did not.
    pub count: u64,
    /// The versions that a device had whole, one bit each; the ninth and later share the last bit.
    had: Vec<u8>,
    refused: HashMap<u32, (u32, u8)>,
    starts: Vec<u32>,
    next_recount: u64,
    steps: u64,
    /// How many checks were made.
    pub made: u64,
}

impl Checks {
    /// For so many devices that run the first version.
    pub fn new(devices: u32) -> Self {
        Self { had: vec![bit(FIRST); devices as usize], ..Self::default() }
    }

    /// Keeps a breach.
    pub fn breach(&mut self, at: u32, device: Option<u32>, what: impl Into<String>) {
        self.count += 1;
        if self.breaches.len() < MAX_BREACHES {
            self.breaches.push(Breach { at, device, what: what.into() });
        }
    }

    /// A device has fetched all of a version, and its digest is right.
    pub fn fetched(&mut self, device: u32, version: u8) {
        self.had[device as usize] |= bit(version);
    }

    /// What an agent did.
    pub fn acted(&mut self, device: u32, view: &View, act: &Act, now: u32) {
        self.made += 1;
        match *act {
            Act::Switch { to, .. } if to != NONE && self.had[device as usize] & bit(to) == 0 => {
                self.breach(now, Some(device), format!("invariant 1: it switched to version {to}, which it never had"));
            }
            Act::Switch { from, to: NONE } if from != NONE && view.wanted != NONE && view.previous != NONE => {
                self.breach(now, Some(device), "invariant 2: it had a working version, and nothing answers any more");
            }
            Act::Probe(version) if self.refused.get(&device) == Some(&(view.generation, version)) => {
                let what = format!("invariant 7: version {version} was refused in this generation and is tried again");
                self.breach(now, Some(device), what);
            }
            _ => {}
        }
    }

    /// How a device stands after all that it did at once.
    pub fn stands(&mut self, device: u32, view: &View) {
        if view.phase == DevicePhase::Failed {
            self.refused.insert(device, (view.generation, view.wanted));
        }
    }

    /// A desired state arrived.
    pub fn told(&mut self, device: u32, generation: u32, before: &View, after: &View, now: u32) {
        self.made += 1;
        let outdated = generation < before.generation && before != after;
        if after.generation < before.generation || outdated {
            let what = format!("invariant 3: generation {generation} came after {} and changed it", before.generation);
            self.breach(now, Some(device), what);
        }
    }

    /// A device says that it is healthy.
    pub fn healthy(&mut self, device: u32, view: &View, soak: u32, recall: bool, now: u32) {
        self.made += 1;
        if view.active != view.wanted || view.trial || (!recall && view.fetched > 0 && now < view.since + soak) {
            let View { active, wanted, since, .. } = view;
            let what =
                format!("invariant 12: healthy with {active} active, {wanted} wanted, since {since}, soak {soak}");
            self.breach(now, Some(device), what);
        }
    }

    /// What the engine wants after a step.
    pub fn effects(&mut self, index: usize, managed: &Managed, effects: &[Effect], now: u32) {
        self.steps += 1;
        let rollout = &managed.rollout;
        if effects.iter().any(|effect| matches!(effect, Effect::Offer(_))) {
            self.offers(index, rollout, now);
        }
        if rollout.decisions.len() > MAX_DECISIONS {
            self.breach(now, None, format!("invariant 10: {} decisions are kept", rollout.decisions.len()));
        }
        if self.steps >= self.next_recount {
            self.next_recount = self.steps + RECOUNT * rollout.parts.len() as u64 + 1000;
            self.recount(rollout, now);
        }
    }

    fn offers(&mut self, index: usize, rollout: &Rollout, now: u32) {
        self.made += 1;
        if self.starts.len() <= index {
            self.starts.resize(index + 1, 0);
        }
        if rollout.starts <= self.starts[index] {
            return;
        }
        self.starts[index] = rollout.starts;
        if let Some(most) = rollout.plan.rate.in_flight.filter(|most| rollout.in_flight() > *most) {
            self.breach(
                now,
                None,
                format!("invariant 8: {} devices update at once, at most {most}", rollout.in_flight()),
            );
        }
        for (state, plan) in rollout.stages.iter().zip(&rollout.plan.stages).take(rollout.stage + 1) {
            let failed = state.counts.of(DevicePhase::Failed).saturating_sub(state.excused_failures);
            let started = state.counts.sum(|phase| phase.is_updating() || phase.is_decided());
            let budget = match plan.gates.failures {
                None => continue,
                Some(Amount::Count(count)) => count,
                Some(Amount::Part(share)) => (share.0 * f64::from(started.max(plan.gates.min_sample())) + 1e-9) as u32,
            };
            if failed > budget {
                self.breach(
                    now,
                    None,
                    format!("invariant 8: offers go out with {failed} failed, the budget is {budget}"),
                );
            }
        }
    }

    /// Holds the engine's counters against the parts that they count.
    pub fn recount(&mut self, rollout: &Rollout, now: u32) {
        self.made += 1;
        let (mut counts, mut in_flight) = ([0u32; DevicePhase::ALL.len()], 0);
        for part in rollout.parts.values() {
            counts[part.phase as usize] += 1;
            in_flight += u32::from(part.in_flight());
        }
        for phase in DevicePhase::ALL {
            let (kept, counted) = (rollout.counts.of(phase), counts[phase as usize]);
            if kept != counted {
                self.breach(now, None, format!("the engine counts {kept} devices as {phase:?}, there are {counted}"));
            }
        }
        if rollout.in_flight() != in_flight {
            let kept = rollout.in_flight();
            self.breach(now, None, format!("the engine counts {kept} devices in flight, there are {in_flight}"));
        }
    }

    /// A report came twice: the second one moves nothing of this device (invariant 6).
    pub fn twice(&mut self, device: u32, before: Option<DevicePhase>, after: Option<DevicePhase>, now: u32) {
        self.made += 1;
        if before != after {
            self.breach(
                now,
                Some(device),
                format!("invariant 6: a report that came twice moved it from {before:?} to {after:?}"),
            );
        }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.had.capacity() + self.refused.capacity() * 16
    }
}

/// The soak time that counts for a view.
pub fn soak_of(terms: &[Terms], view: &View) -> u32 {
    terms.get(usize::from(view.rollout).wrapping_sub(1)).map_or(0, |terms| terms.soak(view.stage))
}

fn bit(version: u8) -> u8 {
    1 << version.saturating_sub(1).min(7)
}
