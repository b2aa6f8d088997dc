//! Who waits for which chunk, and whose turn it is. Pure: time comes in as milliseconds.
//!
//! Devices take turns, one chunk each, so that a fast one starves nobody. A chunk for which
//! [`MANY`] devices wait is sent to all of them at once; one that asks for it again soon after has missed
//! it (or does not listen there) and gets it alone.

use std::collections::{HashMap, HashSet, VecDeque};

use muster_proto::id::DeviceId;
use muster_proto::transfer::Object;

/// So many devices have to wait for a chunk before it goes to the bundle topic.
pub const MANY: usize = 3;
/// The most chunks that one device may wait for: its window for a few objects at once.
pub const MAX_PER_DEVICE: usize = 64;
/// The most devices that may wait.
pub const MAX_DEVICES: usize = 50_000;
/// How long a chunk sent to many counts as received by each. Devices ask again after 10 seconds.
const MISSED_AFTER_MS: u64 = 30_000;
/// The most chunks sent to many that are remembered, per device each.
const MAX_SENT: usize = 20_000;

/// One chunk of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Want {
    /// The object.
    pub object: Object,
    /// The chunk size in bytes.
    pub chunk_size: u32,
    /// The chunk's index.
    pub index: u32,
}

/// A chunk whose turn it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The chunk.
    pub want: Want,
    /// Who gets it: one device, or many by the bundle topic.
    pub devices: Vec<DeviceId>,
}

/// Everything that is asked for and not yet sent.
#[derive(Debug, Default)]
pub struct Queue {
    ring: VecDeque<DeviceId>,
    waiting: HashMap<DeviceId, VecDeque<Want>>,
    /// Who may be served by the bundle topic, for each chunk of a blob.
    shared: HashMap<Want, HashSet<DeviceId>>,
    sent: HashMap<(DeviceId, Want), u64>,
    sent_order: VecDeque<(u64, DeviceId, Want)>,
}

impl Queue {
    /// Takes a request; answers with how many chunks had to be turned away because the queue is full. The device asks
    /// for those again. What it already waits for is not queued twice.
    pub fn push(&mut self, device: &DeviceId, object: &Object, chunk_size: u32, indices: &[u32], now_ms: u64) -> usize {
        self.forget_sent(now_ms);
        if !self.waiting.contains_key(device) {
            if self.waiting.len() >= MAX_DEVICES {
                return indices.len();
            }
            self.waiting.insert(device.clone(), VecDeque::new());
            self.ring.push_back(device.clone());
        }
        let mut refused = 0;
        for index in indices {
            let want = Want { object: object.clone(), chunk_size, index: *index };
            let waits = self.waiting.entry(device.clone()).or_default();
            if waits.contains(&want) {
                continue;
            }
            if waits.len() >= MAX_PER_DEVICE {
                refused += 1;
                continue;
            }
            waits.push_back(want.clone());
            let missed = self.sent.contains_key(&(device.clone(), want.clone()));
            if matches!(want.object, Object::Blob(_)) && !missed {
                self.shared.entry(want).or_default().insert(device.clone());
            }
        }
        refused
    }

    /// The next chunk to send.
    pub fn pop(&mut self, now_ms: u64) -> Option<Turn> {
        while let Some(device) = self.ring.pop_front() {
            let Some(want) = self.waiting.get_mut(&device).and_then(VecDeque::pop_front) else {
                self.waiting.remove(&device);
                continue;
            };
            self.ring.push_back(device.clone());
            let alone = self.shared.get_mut(&want).is_none_or(|devices| {
                let many = devices.len() >= MANY && devices.contains(&device);
                devices.remove(&device);
                !many
            });
            if alone {
                self.shared.retain_one(&want);
                return Some(Turn { want, devices: vec![device] });
            }
            let mut devices: Vec<DeviceId> = self.shared.remove(&want).into_iter().flatten().collect();
            for other in &devices {
                if let Some(waits) = self.waiting.get_mut(other) {
                    waits.retain(|w| *w != want);
                }
            }
            devices.push(device);
            devices.sort();
            for receiver in &devices {
                self.sent.insert((receiver.clone(), want.clone()), now_ms);
                self.sent_order.push_back((now_ms, receiver.clone(), want.clone()));
            }
            return Some(Turn { want, devices });
        }
        None
    }

    /// Forgets what a device waits for: it is gone, or the object does not exist.
    pub fn forget(&mut self, device: &DeviceId, object: Option<&Object>) {
        let Some(waits) = self.waiting.get_mut(device) else { return };
        let gone = |want: &Want| object.is_none_or(|object| want.object == *object);
        for want in waits.iter().filter(|want| gone(want)) {
            if let Some(devices) = self.shared.get_mut(want) {
                devices.remove(device);
            }
            self.shared.retain_one(want);
        }
        waits.retain(|want| !gone(want));
    }

    /// Forgets everything that is waited for.
    pub fn clear(&mut self) {
        self.ring.clear();
        self.waiting.clear();
        self.shared.clear();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    fn forget_sent(&mut self, now_ms: u64) {
        while let Some((at, ..)) = self.sent_order.front() {
            if now_ms < at.saturating_add(MISSED_AFTER_MS) && self.sent_order.len() <= MAX_SENT {
                return;
            }
            let Some((at, device, want)) = self.sent_order.pop_front() else { return };
            let key = (device, want);
            // It may have been sent again since.
            if self.sent.get(&key) == Some(&at) {
                self.sent.remove(&key);
            }
        }
    }
}

/// Drops an entry that became empty.
trait RetainOne {
    fn retain_one(&mut self, want: &Want);
}

impl RetainOne for HashMap<Want, HashSet<DeviceId>> {
    fn retain_one(&mut self, want: &Want) {
        if self.get(want).is_some_and(HashSet::is_empty) {
            self.remove(want);
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::id::Digest;
    use muster_proto::transfer::Metadata;

    use super::*;

    fn id(name: &str) -> DeviceId {
        name.parse().expect("valid")
    }

    fn blob(name: &str) -> Object {
        Object::Blob(Digest::of(name.as_bytes()))
    }

    /// Who gets which index, in order.
    fn drain(queue: &mut Queue, now_ms: u64) -> Vec<(u32, Vec<String>)> {
        let shown = |turn: Turn| (turn.want.index, turn.devices.iter().map(ToString::to_string).collect());
        std::iter::from_fn(|| queue.pop(now_ms)).map(shown).collect()
    }

    fn one(index: u32, device: &str) -> (u32, Vec<String>) {
        (index, vec![device.into()])
    }

    #[test]
    fn devices_take_turns() {
        let mut queue = Queue::default();
        queue.push(&id("a"), &blob("x"), 4096, &[0, 1, 2], 0);
        queue.push(&id("b"), &blob("y"), 4096, &[0, 1], 0);
        assert_eq!(drain(&mut queue, 0), [one(0, "a"), one(0, "b"), one(1, "a"), one(1, "b"), one(2, "a")]);
        assert!(queue.waiting.is_empty() && queue.shared.is_empty());
    }

    #[test]
    fn what_is_asked_for_twice_is_sent_once_and_nobody_waits_for_too_much() {
        let mut queue = Queue::default();
        queue.push(&id("a"), &blob("x"), 4096, &[0, 0], 0);
        queue.push(&id("a"), &blob("x"), 4096, &[0], 1);
        assert_eq!(drain(&mut queue, 2), [one(0, "a")]);
        let indices: Vec<u32> = (0..100).collect();
        assert_eq!(queue.push(&id("a"), &blob("x"), 4096, &indices, 3), 100 - MAX_PER_DEVICE);
        assert_eq!(queue.len(), MAX_PER_DEVICE);
    }

    #[test]
    fn a_chunk_that_many_want_is_sent_once_to_all() {
        let mut queue = Queue::default();
        for device in ["a", "b", "c"] {
            queue.push(&id(device), &blob("x"), 4096, &[0, 1], 0);
        }
        let all = |index| (index, vec!["a".into(), "b".into(), "c".into()]);
        assert_eq!(drain(&mut queue, 0), [all(0), all(1)]);
        // b missed one: it gets it alone, and later ones with the others again.
        for device in ["a", "b", "c", "d", "e"] {
            queue.push(&id(device), &blob("x"), 4096, &[2], 9_000);
        }
        queue.push(&id("b"), &blob("x"), 4096, &[0], 10_000);
        queue.push(&id("d"), &blob("x"), 4096, &[0], 10_000);
        queue.push(&id("e"), &blob("x"), 4096, &[0], 10_000);
        let five = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
        assert_eq!(drain(&mut queue, 10_000), [(2, five), one(0, "b"), one(0, "d"), one(0, "e")]);
        // Long after, everything may be shared again.
        for device in ["a", "b", "c"] {
            queue.push(&id(device), &blob("x"), 4096, &[0], 60_000);
        }
        assert_eq!(drain(&mut queue, 60_000), [all(0)]);
        assert!(queue.sent.len() == 3 && queue.shared.is_empty());
    }

    #[test]
    fn metadata_and_other_chunk_sizes_are_never_shared() {
        let mut queue = Queue::default();
        for device in ["a", "b", "c"] {
            queue.push(&id(device), &Object::Metadata(Metadata::Timestamp), 4096, &[0], 0);
        }
        assert_eq!(drain(&mut queue, 0).len(), 3);
        for (device, size) in [("a", 4096), ("b", 4096), ("c", 8192)] {
            queue.push(&id(device), &blob("x"), size, &[0], 0);
        }
        assert_eq!(drain(&mut queue, 0).len(), 3);
    }

    #[test]
    fn a_device_that_is_gone_is_not_served() {
        let mut queue = Queue::default();
        for device in ["a", "b", "c"] {
            queue.push(&id(device), &blob("x"), 4096, &[0], 0);
            queue.push(&id(device), &blob("y"), 4096, &[0], 0);
        }
        queue.forget(&id("a"), None);
        queue.forget(&id("b"), Some(&blob("x")));
        let sent = drain(&mut queue, 0);
        assert_eq!(sent, [one(0, "b"), one(0, "c"), one(0, "c")]);
        assert!(queue.shared.is_empty());
    }
}
