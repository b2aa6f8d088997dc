//! What a slot proved to run, and what is usual there: where a recall leads, and what a new version is held against.

use muster_proto::id::{Digest, SlotName};
use serde::{Deserialize, Serialize};

use super::{Assignment, Device};
use crate::rollout::evidence::{Reading, Usual};

/// What a slot proved to run well, and what it did before that: where a recall leads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The version that was healthy last.
    pub now: Option<Assignment>,
    /// The version that was healthy before it.
    pub before: Option<Assignment>,
}

impl Proven {
    /// Takes in that `assignment` proved healthy. A version that was recalled since is nothing to go back to.
    pub(crate) fn prove(&mut self, assignment: &Assignment, recalled: impl Fn(Digest) -> bool) {
        let last = self.now.replace(assignment.clone());
        if let Some(last) = last.filter(|last| last.digest != assignment.digest && !recalled(last.digest)) {
            self.before = Some(last);
        }
        self.before.take_if(|before| before.digest == assignment.digest);
    }

    /// Takes in that the version with `digest` failed here, or is no more: nobody goes back to it.
    pub(crate) fn forget(&mut self, digest: Digest) -> bool {
        let known = |known: &mut Assignment| known.digest == digest;
        let (before, now) = (self.before.take_if(known).is_some(), self.now.take_if(known).is_some());
        if now {
            self.now = self.before.take();
        }
        now || before
    }

    /// Where a device goes back to from `digest`, but not to what was recalled; none where it had nothing.
    pub(crate) fn other_than(&self, digest: Digest, recalled: impl Fn(Digest) -> bool) -> Option<&Assignment> {
        let good = |assignment: &&Assignment| assignment.digest != digest && !recalled(assignment.digest);
        [&self.now, &self.before].into_iter().flatten().find(good)
    }
}

impl Device {
    /// What is usual for a version in a slot.
    pub(crate) fn usual_of(&self, slot: &SlotName, digest: Digest) -> Usual {
        let known = self.usual.get(slot).into_iter().flatten();
        known.into_iter().find(|(of, _)| *of == digest).map(|(_, usual)| *usual).unwrap_or_default()
    }

    /// What was usual for the version that a slot proved to run before this one.
    pub(crate) fn usual_before(&self, slot: &SlotName, digest: Digest) -> Usual {
        let known = self.usual.get(slot).into_iter().flatten();
        known.into_iter().find(|(of, _)| *of != digest).map(|(_, usual)| *usual).unwrap_or_default()
    }

    /// Learns what is usual for a version that proved healthy, and keeps it until two later ones have. True where it is
    /// worth storing: a restart may forget a few windows of many.
    pub(crate) fn learn(&mut self, slot: &SlotName, digest: Digest, reading: &Reading) -> bool {
        let is_now = |assignment: &Assignment| assignment.digest == digest;
        let proven = self.proven.get(slot).and_then(|proven| proven.now.as_ref()).is_some_and(is_now);
        let all = self.usual.entry(slot.clone()).or_default();
        let place = all.iter().position(|(of, _)| *of == digest);
        let mut known = match place {
            Some(place) => all.remove(place),
            None if proven => (digest, Usual::default()),
            None => return false,
        };
        known.1.add(reading);
        let windows = known.1.windows;
        // The one that runs comes first.
        all.insert(if proven { 0 } else { place.unwrap_or(0) }, known);
        all.truncate(2);
        windows.is_power_of_two() || windows % 16 == 0
    }
}
