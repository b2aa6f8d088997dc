//! The connection between one device and the broker. Each message makes its own way: it may come late, twice, not at
//! all, or after one that was sent later. What is under way when the connection breaks is lost, kept by the broker for
//! the next connection, or arrives all the same.

use std::collections::{BTreeSet, VecDeque};

use muster_proto::id::Digest;
use muster_proto::topic::Leaf;

use super::rng::Rng;

/// How many messages the broker keeps for a device that is away.
const KEPT: usize = 20;

/// How good a connection is.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// The least time that a message takes, in milliseconds.
    pub latency_ms: u64,
    /// How much longer it may take, in milliseconds.
    pub jitter_ms: u64,
    /// So many of 1000 messages get lost.
    pub loss: u32,
    /// So many of 1000 come twice.
    pub doubled: u32,
    /// So many of 1000 are delayed by up to two minutes.
    pub late: u32,
}

impl Quality {
    /// Nothing goes wrong, and everything keeps its order.
    pub const CALM: Self = Self { latency_ms: 20, jitter_ms: 0, loss: 0, doubled: 0, late: 0 };
}

/// One device's connection.
#[derive(Debug)]
pub struct Link {
    /// How good it is.
    pub quality: Quality,
    /// Which connection this is; what was sent on an earlier one is under way without it.
    pub session: u32,
    /// Whether it is up.
    pub up: bool,
    /// The connection whose last will the broker has not sent yet.
    pub will: Option<u32>,
    /// There is no network until then, in milliseconds.
    pub away_until: u64,
    /// The bundle topics that the device receives.
    pub joined: BTreeSet<Digest>,
    /// What the broker keeps for the next connection.
    kept: VecDeque<(Leaf, Vec<u8>)>,
}

impl Link {
    /// A connection that is down.
    pub fn new(quality: Quality) -> Self {
        Self {
            quality,
            session: 0,
            up: false,
            will: None,
            away_until: 0,
            joined: BTreeSet::new(),
            kept: VecDeque::new(),
        }
    }

    /// The delays after which a message arrives: none, one, or two of them.
    pub fn delays(&self, rng: &mut Rng) -> Vec<u64> {
        let quality = self.quality;
        if rng.chance(quality.loss) {
            return Vec::new();
        }
        let mut one = || {
            let late = if rng.chance(quality.late) { rng.below(120_000) } else { 0 };
            quality.latency_ms + rng.below(quality.jitter_ms + 1) + late
        };
        let first = one();
        let again = one();
        if rng.chance(quality.doubled) { vec![first, again] } else { vec![first] }
    }

    /// A message to the device came to a connection that is gone: the broker may keep it.
    pub fn keep(&mut self, leaf: Leaf, payload: Vec<u8>) {
        if self.kept.len() < KEPT {
            self.kept.push_back((leaf, payload));
        }
    }

    /// What the broker kept, in its order.
    pub fn kept(&mut self) -> VecDeque<(Leaf, Vec<u8>)> {
        std::mem::take(&mut self.kept)
    }

    /// The connection breaks. Subscriptions to bundle topics are not remembered.
    pub fn cut(&mut self) {
        self.up = false;
        self.session += 1;
        self.joined.clear();
    }
}
