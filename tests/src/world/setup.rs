//! What kind of world it is: how many devices, how good the network, what goes wrong and for how long.

use std::collections::BTreeMap;

use muster_agent::core::Limits;
use muster_agent::core::outbox::Bounds;
use muster_proto::id::Digest;
use muster_proto::report::AgentInfo;

use super::authority::Authority;
use super::catalogue::{Catalogue, HUNGRY, MAX_BUNDLE};
use super::device::{Device, Traits};
use super::engine::Character;
use super::link::{Link, Quality};
use super::rng::Rng;
use super::transfer::Sloppiness;

const MINUTE_MS: u64 = 60_000;

/// The kind of world.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How many devices there are.
    pub devices: usize,
    /// For how long things go wrong, in milliseconds; nothing ever does where it is 0.
    pub trouble_ms: u64,
    /// Whether devices, versions and links differ from each other.
    pub mixed: bool,
    /// What is wrong with transfers.
    pub sloppiness: Sloppiness,
    /// So many of 1000 events are given to a core twice (invariant 6).
    pub repeated: u32,
    /// So many of 1000 connections get the retained desired state.
    pub retains: u32,
    /// So many of 1000 messages for a device that is away are kept by the broker.
    pub keeps: u32,
    /// The trial of every rollout, in seconds.
    pub trial_seconds: u64,
    /// The length of a telemetry window in milliseconds; 0 for none.
    pub window_ms: u64,
    /// Whether the director's keys can be changed.
    pub rotating: bool,
    /// Whether some offers come with terms: windows, a time to begin, and holds that an operator lifts.
    pub terms: bool,
    /// Whether the broker lives in the dispatcher; drawn where it is not said.
    pub embedded: Option<bool>,
}

impl Setup {
    /// Nothing goes wrong, and all devices are alike.
    pub fn calm(devices: usize) -> Self {
        Self {
            devices,
            trouble_ms: 0,
            mixed: false,
            sloppiness: Sloppiness::default(),
            repeated: 0,
            retains: 1000,
            keeps: 0,
            trial_seconds: 30,
            window_ms: 0,
            rotating: false,
            terms: false,
            embedded: Some(true),
        }
    }

    /// Everything goes wrong at times.
    pub fn mixed(devices: usize) -> Self {
        Self {
            devices,
            trouble_ms: 45 * MINUTE_MS,
            mixed: true,
            sloppiness: Sloppiness {
                corrupt: 15,
                wrong_delta: 200,
                no_delta: 200,
                broadcast: 300,
                missing: 5,
                huge: 3,
            },
            repeated: 40,
            retains: 800,
            keeps: 500,
            trial_seconds: 40,
            window_ms: 5 * MINUTE_MS,
            rotating: false,
            terms: true,
            embedded: None,
        }
    }

    pub(super) fn devices(&self, authority: &Authority, rng: &mut Rng) -> Vec<Device> {
        let roots = authority.first_roots();
        let one = |i: usize| {
            let id = format!("d{i:02}").parse().expect("valid");
            let (traits, quality) =
                if self.mixed { (drawn_traits(i, rng), drawn_quality(rng)) } else { (calm_traits(i), Quality::CALM) };
            Device::new(id, traits, Link::new(quality), roots.clone())
        };
        (0..self.devices).map(one).collect()
    }

    /// What each version does; the first of each model is good, so that there is something to lose.
    pub(super) fn characters(&self, rng: &mut Rng) -> BTreeMap<Digest, Character> {
        let mut characters = BTreeMap::new();
        for bundle in &Catalogue::shared().bundles {
            let character = match rng.below(20) {
                _ if !self.mixed || (bundle.manifest.version.0 == 1 && !rng.chance(200)) => continue,
                0..=2 => Character::FailsProbe,
                3 | 4 => Character::KillsOnLoad,
                5..=7 => Character::KillsInTrial,
                _ => continue,
            };
            characters.insert(bundle.digest, character);
        }
        characters
    }
}

fn limits() -> Limits {
    Limits {
        disk_headroom: 32 << 10,
        max_bundle: MAX_BUNDLE,
        keep_bytes: 100 << 10,
        max_unclean_ends: 3,
        outbox: Bounds { bytes: 128 << 10, count: 64, age_s: 7 * 24 * 3600 },
        ..Limits::default()
    }
}

fn calm_traits(i: usize) -> Traits {
    let agent = AgentInfo {
        version: "0.1.0".into(),
        engine: "tract 0.23.9".into(),
        arch: if i % 4 == 3 { "armv7".into() } else { "aarch64".into() },
        os: "linux".into(),
        memory_bytes: HUNGRY * 2,
        disk_bytes: 4 << 20,
        speaks: (1, 3),
    };
    let memory = HUNGRY * 3 / 2;
    Traits { limits: limits(), agent, memory, unlucky: i % 2 == 1, slowness: 1, without_clock: false }
}

fn drawn_traits(i: usize, rng: &mut Rng) -> Traits {
    let mut traits = calm_traits(i);
    traits.without_clock = rng.chance(400);
    traits.slowness = *rng.pick(&[1, 1, 1, 5]);
    traits.memory = *rng.pick(&[HUNGRY * 3 / 2, HUNGRY / 2]);
    traits.agent.disk_bytes = *rng.pick(&[900 << 10, 2 << 20, 8 << 20]);
    traits.limits.keep_bytes = *rng.pick(&[0, 100 << 10, 1 << 20]);
    traits.limits.outbox.count = *rng.pick(&[12, 64]);
    traits
}

fn drawn_quality(rng: &mut Rng) -> Quality {
    match rng.below(4) {
        0 => Quality { latency_ms: 2, jitter_ms: 5, loss: 0, doubled: 5, late: 0 },
        1 => Quality { latency_ms: 40, jitter_ms: 60, loss: 5, doubled: 20, late: 2 },
        2 => Quality { latency_ms: 300, jitter_ms: 900, loss: 30, doubled: 50, late: 10 },
        _ => Quality { latency_ms: 600, jitter_ms: 3_000, loss: 100, doubled: 100, late: 20 },
    }
}
