//! The frames that were sent last: a rollout asks for the same ones again and again.

use std::collections::HashMap;
use std::hash::Hash;

use bytes::Bytes;

/// A cache of about the most recently used values, bounded by their bytes. Two halves take turns: what was used while
/// the younger one filled up survives, the rest goes at once.
#[derive(Debug)]
pub struct Cache<K> {
    young: HashMap<K, Bytes>,
    old: HashMap<K, Bytes>,
    young_bytes: usize,
    half_bytes: usize,
}

impl<K: Hash + Eq> Cache<K> {
    /// At most `bytes` bytes of values.
    pub fn new(bytes: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), young_bytes: 0, half_bytes: bytes / 2 }
    }

    /// The value of `key`.
    pub fn get(&mut self, key: &K) -> Option<Bytes> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.insert(key, value.clone());
        Some(value)
    }

    /// Keeps a value, unless it alone is too large.
    pub fn insert(&mut self, key: K, value: Bytes) {
        if value.len() > self.half_bytes {
            return;
        }
        if self.young_bytes + value.len() > self.half_bytes {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
        self.young_bytes += value.len();
        if let Some(before) = self.young.insert(key, value) {
            self.young_bytes -= before.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut cache = Cache::new(100);
        for n in 0..1000u32 {
            cache.insert(n, Bytes::from(vec![0; 10]));
            assert!(cache.get(&0).is_some());
        }
        assert!(cache.get(&500).is_none());
        assert!(cache.get(&999).is_some());
        assert!(cache.young.len() + cache.old.len() <= 10);
        cache.insert(0, Bytes::from(vec![0; 51]));
        assert_eq!(cache.get(&0).map(|v| v.len()), Some(10), "too large to keep");
    }
}
