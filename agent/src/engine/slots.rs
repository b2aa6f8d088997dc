//! The slots: named places where models answer. A slot changes by one atomic switch (invariant 2).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use muster_proto::id::SlotName;
use muster_proto::report::{SlotWindow, SlotWindow2};

use super::loaded::Loaded;

/// The slots that have a model. Reading takes a shared lock for as long as an `Arc` takes to clone.
///
/// A request holds the `Arc` of the model that it began with, so that a switch never takes a model away
/// from under it; the memory of the old one is freed when the last request has dropped it.
#[derive(Debug, Default)]
pub struct Slots {
    slots: RwLock<BTreeMap<SlotName, Arc<Loaded>>>,
}

impl Slots {
    /// What answers in `slot`.
    pub fn get(&self, slot: &SlotName) -> Option<Arc<Loaded>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(slot).cloned()
    }

    /// Makes `loaded` answer in `slot` from now on; gives what answered before. Its last window of
    /// statistics is still to be taken.
    pub fn activate(&self, slot: SlotName, loaded: Arc<Loaded>) -> Option<Arc<Loaded>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner).insert(slot, loaded)
    }

    /// Leaves `slot` empty; gives what answered before.
    pub fn clear(&self, slot: &SlotName) -> Option<Arc<Loaded>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner).remove(slot)
    }

    /// Every slot and what answers in it.
    pub fn all(&self) -> Vec<(SlotName, Arc<Loaded>)> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|(slot, loaded)| (slot.clone(), Arc::clone(loaded))).collect()
    }

    /// What every slot did since the last call.
    pub fn take_windows(&self) -> Vec<SlotWindow2> {
        self.all().into_iter().map(|(slot, loaded)| window(slot, &loaded)).collect()
    }
}

/// What `loaded` did since its last window, as telemetry of `slot`.
pub fn window(slot: SlotName, loaded: &Loaded) -> SlotWindow2 {
    let window = loaded.stats.take_window();
    let window = SlotWindow {
        slot,
        digest: loaded.digest,
        ok: window.counts.ok,
        errors: window.counts.errors,
        rejected: window.counts.rejected,
        latency: window.counts.latency.to_vec(),
        queue_peak: window.queue_peak,
    };
    SlotWindow2 { window, outputs: loaded.stats.sketch.take() }
}

#[cfg(test)]
mod tests;
