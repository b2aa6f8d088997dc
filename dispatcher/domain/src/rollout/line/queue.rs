//! Devices in line, first come first, so that a site that has no room keeps no other site waiting.

use std::collections::BTreeSet;

use muster_proto::id::DeviceId;

use crate::rollout::part::Part;

/// Devices in line: those that run something in the slot, and those that do not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Queue {
    comparable: Lane,
    other: Lane,
}

/// Devices in line by site, and the sites by their first device.
#[derive(Debug, Clone, Default, PartialEq)]
struct Lane {
    sites: Vec<BTreeSet<(u64, DeviceId)>>,
    heads: BTreeSet<(u64, u32)>,
    /// Sites that had no room at `parked_at`; they are not among the heads until the next second.
    parked: BTreeSet<u32>,
    parked_at: u64,
}

impl Queue {
    fn lane(&mut self, part: &Part) -> &mut Lane {
        if part.comparable { &mut self.comparable } else { &mut self.other }
    }

    pub fn insert(&mut self, part: &Part, device: &DeviceId) {
        self.lane(part).edit(part.site, |site| site.insert((part.place, device.clone())));
    }

    pub fn remove(&mut self, part: &Part, device: &DeviceId) {
        self.lane(part).edit(part.site, |site| site.remove(&(part.place, device.clone())));
    }

    pub fn is_empty(&self) -> bool {
        self.comparable.is_empty() && self.other.is_empty()
    }

    /// Whether somebody in line runs something in the slot.
    pub fn has_comparable(&self) -> bool {
        !self.comparable.is_empty()
    }

    /// The first device whose site has `room`; of those that run something in the slot, if `comparable`.
    pub fn first(&mut self, comparable: bool, now: u64, mut room: impl FnMut(u32) -> bool) -> Option<DeviceId> {
        let one = self.comparable.first(now, &mut room);
        let other = if comparable { None } else { self.other.first(now, &mut room) };
        [one, other].into_iter().flatten().min().map(|(_, device)| device.clone())
    }

    /// How many devices stand before `place`, as far as `most`.
    pub fn ahead(&self, place: u64, most: usize) -> usize {
        let sites = self.comparable.sites.iter().chain(&self.other.sites);
        sites.flat_map(|site| site.iter().take_while(|(at, _)| *at < place)).take(most).count()
    }

    /// Everybody in line.
    #[cfg(test)]
    pub fn devices(&self) -> BTreeSet<(u64, DeviceId)> {
        self.comparable.sites.iter().chain(&self.other.sites).flatten().cloned().collect()
    }
}

impl Lane {
    fn edit(&mut self, site: u32, change: impl FnOnce(&mut BTreeSet<(u64, DeviceId)>) -> bool) {
        let at = site as usize;
        if self.sites.len() <= at {
            self.sites.resize_with(at + 1, BTreeSet::new);
        }
        let line = &mut self.sites[at];
        let before = line.first().map(|(place, _)| *place);
        change(line);
        let after = line.first().map(|(place, _)| *place);
        if before != after {
            if let Some(place) = before {
                self.heads.remove(&(place, site));
            }
            match after {
                Some(place) if !self.parked.contains(&site) => {
                    self.heads.insert((place, site));
                }
                Some(_) => {}
                None => {
                    self.parked.remove(&site);
                }
            }
        }
    }

    fn first(&mut self, now: u64, mut room: impl FnMut(u32) -> bool) -> Option<&(u64, DeviceId)> {
        if self.parked_at != now {
            self.parked_at = now;
            for site in std::mem::take(&mut self.parked) {
                if let Some((place, _)) = self.sites[site as usize].first() {
                    self.heads.insert((*place, site));
                }
            }
        }
        while let Some((_, site)) = self.heads.first().copied() {
            if room(site) {
                return self.sites[site as usize].first();
            }
            self.heads.pop_first();
            self.parked.insert(site);
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.heads.is_empty() && self.parked.is_empty()
    }
}
