//! What versions do to the devices that run them.

use super::chance::{Chance, For};
use super::fleet::Fleet;
use super::scenario::{DefectKind, DefectSpec, VersionSpec};

/// The version that devices run at the start.
pub const FIRST: u8 = 1;
/// No version.
pub const NONE: u8 = 0;

/// All versions; numbers count from 1.
#[derive(Debug)]
pub struct Versions {
    specs: Vec<VersionSpec>,
    /// For each defect the place of its hardware.
    hardware: Vec<Vec<Option<usize>>>,
    chance: Chance,
}

impl Versions {
    /// The versions of a scenario.
    pub fn new(specs: &[VersionSpec], fleet: &Fleet, chance: Chance) -> Self {
        let place = |name: &Option<String>| {
            name.as_ref().map(|name| fleet.spec.hardware.iter().position(|h| h.name == *name).unwrap_or(usize::MAX))
        };
        let hardware = specs.iter().map(|v| v.defects.iter().map(|d| place(&d.hardware)).collect()).collect();
        Self { specs: specs.to_vec(), hardware, chance }
    }

    /// One of them.
    pub fn spec(&self, version: u8) -> Option<&VersionSpec> {
        self.specs.get(usize::from(version).checked_sub(1)?)
    }

    /// What is wrong with `version` on `device`.
    pub fn defects(&self, fleet: &Fleet, version: u8, device: u32) -> impl Iterator<Item = &DefectSpec> {
        let at = usize::from(version).wrapping_sub(1);
        let specs = self.specs.get(at).map_or(&[][..], |v| &v.defects);
        let places = self.hardware.get(at).map_or(&[][..], |places| places);
        let hardware = fleet.hardware(device);
        let chance = self.chance;
        specs.iter().zip(places).enumerate().filter_map(move |(i, (defect, place))| {
            let here = place.is_none_or(|place| place == hardware);
            let salt = u64::from(version) << 8 | i as u64;
            (here && (defect.share >= 1.0 || chance.is(For::Defect, device, salt, defect.share))).then_some(defect)
        })
    }

    /// Whether running `version` harms `device`.
    pub fn is_bad(&self, fleet: &Fleet, version: u8, device: u32) -> bool {
        version != NONE && self.defects(fleet, version, device).next().is_some()
    }

    /// The first defect of `kind`.
    pub fn defect(&self, fleet: &Fleet, version: u8, device: u32, kind: DefectKind) -> Option<&DefectSpec> {
        self.defects(fleet, version, device).find(|d| d.kind == kind)
    }

    /// What `device` fetches for `version`, with or without an earlier version to start from.
    pub fn bytes(&self, version: u8, has_earlier: bool) -> u64 {
        let Some(spec) = self.spec(version) else { return 0 };
        if has_earlier { (spec.bytes.0 as f64 * spec.delta).ceil() as u64 } else { spec.bytes.0 }
    }

    /// Whether `device` has the memory for `version`.
    pub fn fits(&self, fleet: &Fleet, version: u8, device: u32) -> bool {
        let memory = fleet.spec.hardware[fleet.hardware(device)].memory;
        self.spec(version).is_none_or(|spec| spec.needs <= memory)
    }
}
