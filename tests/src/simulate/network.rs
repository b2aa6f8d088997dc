//! Links: how long messages and transfers take, which messages are lost or arrive twice. Messages are only counted.

use super::chance::{Chance, For};
use super::scenario::NetworkSpec;

/// Where messages go.
#[derive(Debug)]
pub struct Network {
    spec: NetworkSpec,
    chance: Chance,
    /// Whether it loses, doubles and damages anything now.
    pub faulty: bool,
    /// Messages that were sent, in both directions.
    pub messages: u64,
    /// Of those, the ones that were lost.
    pub lost: u64,
    /// Bytes of bundles that devices received.
    pub bytes: u64,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// When it arrives; never, where it is lost.
    pub first: Option<u32>,
    /// When it arrives a second time.
    pub second: Option<u32>,
}

impl Network {
    /// An empty network.
    pub fn new(spec: &NetworkSpec, chance: Chance) -> Self {
        Self { spec: spec.clone(), chance, faulty: true, messages: 0, lost: 0, bytes: 0 }
    }

    /// Sends a message to or from `device` now.
    pub fn send(&mut self, device: u32, now: u32) -> Fate {
        self.messages += 1;
        let salt = self.messages;
        let delay = |what| 1 + self.chance.below(what, device, salt, self.spec.delay.0.max(1)) as u32;
        if self.faulty && self.chance.is(For::Loss, device, salt, self.spec.loss) {
            self.lost += 1;
            return Fate { first: None, second: None };
        }
        let doubled = self.faulty && self.chance.is(For::Double, device, salt, self.spec.doubled);
        let first = now + delay(For::Delay);
        Fate { first: Some(first), second: doubled.then(|| first + delay(For::Double)) }
    }

    /// Whether the transfer that ends now arrives damaged.
    pub fn damages(&self, device: u32, now: u32) -> bool {
        self.faulty && self.chance.is(For::Corrupt, device, u64::from(now), self.spec.damaged)
    }
}
