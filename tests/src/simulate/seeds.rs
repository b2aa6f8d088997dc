//! Many worlds of one scenario, on several threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Outcome, Scenario, Share, simulate_with};

/// What came of many worlds.
#[derive(Debug, Default, serde::Serialize)]
pub struct Summary {
    /// How many there were.
    pub worlds: u64,
    /// How many ended each way.
    pub status: std::collections::BTreeMap<String, u64>,
    /// The most devices that were harmed in one.
    pub harmed_at_most: u32,
    /// Devices that were harmed in all of them.
    pub harmed: u64,
    /// Devices that were healthy in all of them.
    pub healthy: u64,
    /// Messages in all of them.
    pub messages: u64,
    /// Steps of the engine in all of them.
    pub steps: u64,
    /// Checks that were made.
    pub checks: u64,
    /// Breaches in all of them.
    pub breaches: u64,
    /// Seeds whose world had one, the first ones.
    pub bad_seeds: Vec<u64>,
}

/// Which worlds.
#[derive(Debug, Clone, Copy)]
pub struct Worlds {
    /// How many devices each has; as the scenario says unless given.
    pub devices: Option<u32>,
    /// The first seed.
    pub first: u64,
    /// How many seeds.
    pub count: u64,
    /// Which devices run the real core.
    pub share: Share,
}

/// Runs the worlds of `scenario` on `threads` threads; `look` sees each outcome as it comes, with what it fell short of.
pub fn run(scenario: &Scenario, worlds: &Worlds, threads: usize, look: impl Fn(&Outcome, &[String]) + Sync) -> Summary {
    let Worlds { devices, first, count, share } = *worlds;
    let next = AtomicU64::new(first);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let outcome = simulate_with(scenario, devices, seed, share);
                    look(&outcome, &outcome.disappoints(&scenario.expect));
                    summary.lock().unwrap_or_else(PoisonError::into_inner).add(&outcome);
                }
            });
        }
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.bad_seeds.sort_unstable();
    summary.bad_seeds.truncate(20);
    summary
}

impl Summary {
    fn add(&mut self, outcome: &Outcome) {
        self.worlds += 1;
        let status: Vec<String> = outcome.status.iter().map(|s| format!("{s:?}").to_lowercase()).collect();
        *self.status.entry(status.join(", ")).or_default() += 1;
        self.harmed_at_most = self.harmed_at_most.max(outcome.harmed);
        self.harmed += u64::from(outcome.harmed);
        self.healthy += u64::from(outcome.healthy);
        self.messages += outcome.messages;
        self.steps += outcome.steps;
        self.checks += outcome.checks;
        self.breaches += outcome.breaches;
        if outcome.breaches > 0 {
            self.bad_seeds.push(outcome.seed);
        }
    }
}
