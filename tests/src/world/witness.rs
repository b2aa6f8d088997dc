//! What the checks remember of one device, gathered from outside of the core.

use std::collections::{BTreeMap, BTreeSet};

use muster_agent::core::Durable;
use muster_proto::id::{Digest, Generation, SlotName};

/// One device's past.
#[derive(Debug, Default)]
pub struct Witness {
    /// Slots in which something has answered, and that are still desired.
    pub answered: BTreeSet<SlotName>,
    /// Files and manifests that went bad on the disk through no fault of the agent.
    pub damaged: BTreeSet<Digest>,
    /// How many desired states have come.
    pub desired_states: u32,
    /// The highest generation that was ever on the disk.
    pub generation: Generation,
    /// The generation in which a version was written off.
    pub failed: BTreeMap<(SlotName, Digest), Generation>,
    /// How often the process ended unclean while a version was on trial or loaded for the first time.
    pub deaths: BTreeMap<(SlotName, Digest), u32>,
    /// The same, for loading only, in one generation.
    pub deaths_staging: BTreeMap<(SlotName, Digest, Generation), u32>,
    /// What this process has begun to load for the first time.
    pub staging: BTreeSet<(SlotName, Digest)>,
    /// Messages of this incarnation that the dispatcher has acknowledged to the device.
    pub acknowledged: BTreeSet<u64>,
    /// Messages that were dropped without that, in this incarnation.
    pub dropped: u64,
    /// Messages for which the disk had no room, in the life of this process: their count may die with it.
    pub unstored: u64,
}

impl Witness {
    /// The process ended unclean while `durable` was on the disk.
    pub fn died(&mut self, durable: Option<&Durable>) {
        self.unstored = 0;
        let loaded = std::mem::take(&mut self.staging);
        let Some(durable) = durable else { return };
        for (slot, record) in &durable.slots {
            let digests: BTreeSet<Digest> = record.trial.iter().chain(&record.staging).map(|a| a.digest).collect();
            for digest in digests {
                *self.deaths.entry((slot.clone(), digest)).or_default() += 1;
            }
        }
        for (slot, digest) in loaded {
            let still = durable.slots.get(&slot).and_then(|r| r.staging.as_ref()).is_some_and(|s| s.digest == digest);
            if still {
                *self.deaths_staging.entry((slot, digest, durable.generation)).or_default() += 1;
            }
        }
    }

    /// The index was lost: what the agent cannot know any more is not asked of it.
    pub fn lost_index(&mut self) {
        self.failed.clear();
        self.deaths_staging.clear();
        self.acknowledged.clear();
        self.dropped = 0;
        self.unstored = 0;
    }
}
