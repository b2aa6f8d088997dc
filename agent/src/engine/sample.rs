//! Which requests are kept as samples, and how they leave the path of the answers: over a short queue to whoever
//! writes them. It does not know how they are kept. Nobody waits for it: what does not fit is counted and dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use muster_proto::id::Digest;
use muster_proto::manifest::Tensor;

use super::loaded::Loaded;

/// How many samples may wait to be written.
const WAITING: usize = 32;

/// One request and what was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// What answered.
    pub answer: Answer,
    /// What it was asked.
    pub inputs: BTreeMap<String, Tensor>,
    /// What the version in its shadow answered, where the two disagreed.
    pub shadow: Option<Answer>,
}

/// What one version answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The version's target, e.g. `vision/digits/2/manifest`.
    pub target: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its outputs by name.
    pub outputs: BTreeMap<String, Tensor>,
}

impl Answer {
    /// What `loaded` answered.
    pub fn of(loaded: &Loaded, outputs: BTreeMap<String, Tensor>) -> Self {
        Self { target: loaded.manifest.target_path(), digest: loaded.digest, outputs }
    }
}

/// Takes every so-manieth request and passes it on.
#[derive(Debug)]
pub struct Sampler {
    every: u64,
    disagreements: bool,
    requests: AtomicU64,
    dropped: AtomicU64,
    sender: SyncSender<Sample>,
}

impl Sampler {
    /// Takes one of `every` requests, none where that is 0, and with `disagreements` those on which a shadow answered
    /// otherwise. Whoever holds the receiver writes them.
    pub fn new(every: u64, disagreements: bool) -> (Arc<Self>, Receiver<Sample>) {
        let (sender, receiver) = sync_channel(WAITING);
        let (requests, dropped) = Default::default();
        (Arc::new(Self { every, disagreements, requests, dropped, sender }), receiver)
    }

    /// Whether the request that was just answered is taken. Each request has to be asked about once.
    pub fn wants(&self) -> bool {
        let number = self.requests.fetch_add(1, Relaxed);
        number.checked_rem(self.every) == Some(0)
    }

    /// Whether requests are taken on which a shadow answered otherwise.
    pub fn wants_disagreements(&self) -> bool {
        self.disagreements
    }

    /// Passes `sample` on, or drops it where too many wait.
    pub fn keep(&self, sample: Sample) {
        if self.sender.try_send(sample).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// How many samples were dropped because they could not be written fast enough.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        let answer = Answer { target: "digits/1/manifest".into(), digest: Digest([1; 32]), outputs: BTreeMap::new() };
        Sample { answer, inputs: BTreeMap::new(), shadow: None }
    }

    #[test]
    fn one_of_so_many_is_taken() {
        for (every, expected) in [(0, 0), (1, 1000), (4, 250), (5000, 1)] {
            let (sampler, _receiver) = Sampler::new(every, false);
            assert_eq!((0..1000).filter(|_| sampler.wants()).count(), expected, "{every}");
        }
    }

    /// Invariant 10.
    #[test]
    fn what_nobody_writes_is_dropped_and_counted() {
        let (sampler, receiver) = Sampler::new(1, true);
        (0..WAITING + 3).for_each(|_| sampler.keep(sample()));
        assert_eq!((receiver.try_iter().count(), sampler.dropped()), (WAITING, 3));
        drop(receiver);
        sampler.keep(sample());
        assert_eq!(sampler.dropped(), 4);
    }
}
