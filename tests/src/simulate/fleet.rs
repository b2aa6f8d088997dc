//! What devices are and never change: hardware, site, pattern of presence, link, zone. Four bytes each; the rest is drawn
//! from the seed whenever it is asked for.

use std::sync::Arc;

use muster_proto::id::DeviceId;

use super::chance::{Chance, For};
use super::scenario::WorldSpec;

/// What one device is.
#[derive(Debug, Clone, Copy)]
struct Traits {
    hardware: u8,
    pattern: u8,
    site: u16,
}

/// All devices.
#[derive(Debug)]
pub struct Fleet {
    /// What it was made after.
    pub spec: WorldSpec,
    chance: Chance,
    traits: Vec<Traits>,
    sites: Vec<Arc<str>>,
}

impl Fleet {
    /// Makes `devices` devices after `spec`.
    pub fn new(spec: &WorldSpec, devices: u32, chance: Chance) -> Self {
        let hardware: Vec<f64> = spec.hardware.iter().map(|h| h.share).collect();
        let patterns: Vec<f64> = spec.presence.iter().map(|p| p.share()).collect();
        let traits = (0..devices).map(|d| Traits {
            hardware: pick(&hardware, chance.unit(For::Hardware, d, 0)),
            pattern: pick(&patterns, chance.unit(For::Pattern, d, 0)),
            site: chance.below(For::Site, d, 0, u64::from(spec.sites.max(1))) as u16,
        });
        let sites = (0..spec.sites.max(1)).map(|site| format!("site-{site}").into()).collect();
        Self { spec: spec.clone(), chance, traits: traits.collect(), sites }
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.traits.len() as u32
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.traits.is_empty()
    }

    /// The place of its hardware in the scenario.
    pub fn hardware(&self, device: u32) -> usize {
        usize::from(self.traits[device as usize].hardware)
    }

    /// The place of its presence in the scenario.
    pub fn pattern(&self, device: u32) -> usize {
        usize::from(self.traits[device as usize].pattern)
    }

    /// Its site's name.
    pub fn site(&self, device: u32) -> Arc<str> {
        self.sites[usize::from(self.traits[device as usize].site)].clone()
    }

    /// Bytes per second of its link.
    pub fn speed(&self, device: u32) -> f64 {
        let [slow, fast] = self.spec.network.bytes_per_second;
        slow * (fast / slow).powf(self.chance.unit(For::Link, device, 0))
    }

    /// Whether it runs nothing at the start.
    pub fn is_empty_at_start(&self, device: u32) -> bool {
        self.chance.is(For::Empty, device, 0, self.spec.empty)
    }

    /// Whether it boots in 1970.
    pub fn has_no_clock(&self, device: u32) -> bool {
        self.chance.is(For::Clock, device, 0, self.spec.faults.clock_1970)
    }

    /// Whether there is no room on its disk while faults may be.
    pub fn disk_is_full(&self, device: u32) -> bool {
        self.chance.is(For::Disk, device, 0, self.spec.faults.disk_full)
    }

    /// Whether an application on it vetoes the switch to `version`.
    pub fn vetoes(&self, device: u32, version: u8) -> bool {
        self.chance.is(For::Veto, device, u64::from(version), self.spec.faults.vetoes)
    }

    /// Seconds that the clock on its wall is ahead of UTC.
    pub fn zone_seconds(&self, device: u32) -> i64 {
        let zones = &self.spec.zones;
        let at = self.chance.below(For::Zone, device, 0, zones.len() as u64) as usize;
        i64::from(zones.get(at).copied().unwrap_or(0)) * 3600
    }

    /// Bytes that one device takes here.
    pub fn bytes_per_device() -> usize {
        size_of::<Traits>()
    }
}

/// Its name.
pub fn name(device: u32) -> DeviceId {
    format!("d{device:07}").parse().expect("a letter and digits are a device's id")
}

/// The device of that name.
pub fn number(device: &DeviceId) -> u32 {
    device.as_str()[1..].parse().expect("only the fleet makes names")
}

fn pick(shares: &[f64], at: f64) -> u8 {
    let mut sum = 0.0;
    let place = shares.iter().position(|share| {
        sum += share;
        at < sum
    });
    place.unwrap_or(shares.len().saturating_sub(1)) as u8
}
