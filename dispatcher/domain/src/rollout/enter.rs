//! Who a rollout is for, and in which order it comes to them.

use std::collections::BTreeMap;

use muster_proto::id::DeviceId;

use super::engine::Turn;
use super::hash::rank;
use super::line::NAMED;
use super::parts::pack;
use super::{DevicePhase, Effect, Member, Part, Rollout, Site};

/// The most sites that are told apart; further ones count as one.
const MAX_SITES: usize = 10_000;

impl Turn<'_> {
    /// Puts everybody in line so that the first so many are a fair sample of every site: a site's devices, in the order
    /// of their hashes, are spread evenly over the whole line from a start that is the site's own.
    pub(super) fn started(&mut self, mut members: Vec<Member>) {
        if !self.rollout.parts.is_empty() || !self.rollout.decisions.is_empty() {
            return;
        }
        members.sort_unstable_by(|a, b| a.device.cmp(&b.device));
        members.dedup_by(|a, b| a.device == b.device);
        let (sites, places) = self.places(&members);
        let placed = members.into_iter().zip(places);
        let parts = pack(placed.map(|(member, (site, place))| self.part(member, place, sites[site as usize])));
        self.rollout.insert(parts);
        self.effects.extend(self.rollout.parts.keys().cloned().map(Effect::SavePart));
        let text = format!("started by {} for {} devices", self.rollout.created_by, self.rollout.members());
        self.decide(text);
    }

    /// The rollout's sites in the order of their names, and for each member which of them it is at and where in line it
    /// stands. Everybody is in memory once, and here by 16 bytes: a fleet has a million of them.
    fn places(&mut self, members: &[Member]) -> (Vec<u32>, impl Iterator<Item = (u32, u64)> + use<>) {
        struct Spot {
            place: u64,
            site: u32,
            member: u32,
        }
        let salt = self.rollout.salt;
        let mut names: BTreeMap<&str, u32> = members.iter().map(|member| (&*member.site, 0)).collect();
        names.values_mut().zip(0..).for_each(|(number, n)| *number = n);
        let spot = |(i, member): (usize, &Member)| Spot {
            place: rank(salt, member.device.as_str()),
            site: names[&*member.site],
            member: i as u32,
        };
        let mut line: Vec<Spot> = members.iter().enumerate().map(spot).collect();
        line.sort_unstable_by_key(|spot| (spot.site, spot.place, spot.member));
        let mut sites = Vec::with_capacity(names.len());
        for (spots, name) in line.chunk_by_mut(|a, b| a.site == b.site).zip(names.keys()) {
            let (offset, count) = (rank(salt, &format!("site {name}")), spots.len() as u64);
            for (i, spot) in spots.iter_mut().enumerate() {
                // Half of all places are for those who come later.
                let share = (u128::from(i as u64) << 64 | u128::from(offset)) / u128::from(count);
                spot.place = (share >> 1) as u64;
            }
            sites.push(self.site(name));
        }
        line.sort_unstable_by_key(|spot| spot.member);
        (sites, line.into_iter().map(|spot| (spot.site, spot.place)))
    }

    /// Late joiners come after everybody who was there at the start.
    pub(super) fn joined(&mut self, member: Member) {
        let now = self.now;
        match self.phase(&member.device) {
            Some(DevicePhase::Superseded | DevicePhase::Excluded) => {
                let device = member.device;
                self.rollout.change(&device, now, |part| {
                    (part.online, part.comparable) = (member.online, member.comparable);
                    (part.blocked, part.held, part.heard) = (member.blocked.map(|id| id.0), false, now);
                    // Another rollout's word stands there now, if any.
                    if part.phase == DevicePhase::Superseded {
                        (part.started_at, part.not_before, part.attempts) = (0, 0, 0);
                    }
                });
                self.go(&device, DevicePhase::Waiting, None, "");
            }
            Some(_) => {}
            None if self.rollout.plan.target.snapshot => {}
            None => {
                let place = (rank(self.rollout.salt, member.device.as_str()) >> 1) | (1 << 63);
                let site = self.site(&member.site);
                let part = self.part(member, place, site);
                self.effects.push(Effect::SavePart(part.0.clone()));
                self.rollout.insert(BTreeMap::from([part]));
                self.save();
            }
        }
    }

    fn part(&self, member: Member, place: u64, site: u32) -> (DeviceId, Part) {
        let Member { device, comparable, online, blocked, .. } = member;
        let named = self.rollout.plan.stages.iter().position(|stage| stage.devices.contains(&device));
        let mut part = Part::waiting(named.map_or(place.max(NAMED), |stage| stage as u64), site, self.now);
        (part.comparable, part.online, part.blocked) = (comparable, online, blocked.map(|id| id.0));
        (device, part)
    }

    fn site(&mut self, name: &str) -> u32 {
        let sites = &mut self.rollout.sites;
        let known = sites.iter().position(|site| site.name == name);
        let index = known.unwrap_or_else(|| {
            if sites.len() < MAX_SITES {
                sites.push(Site { name: name.to_owned(), buckets: Default::default() });
            }
            sites.len() - 1
        });
        index as u32
    }

    /// Nobody takes a version away for a changed label.
    pub(super) fn left(&mut self, device: &DeviceId) {
        if self.phase(device) == Some(DevicePhase::Waiting) {
            self.go(device, DevicePhase::Excluded, None, "it no longer matches the target");
        }
    }

    pub(super) fn removed(&mut self, device: &DeviceId) {
        if self.rollout.take_out(device).is_some() {
            // It may be the last that its stage waited for.
            self.look_everywhere();
            self.save();
        }
    }

    pub(super) fn blocked(&mut self, device: &DeviceId, by: Option<u64>) {
        if self.rollout.parts.get(device).is_some_and(|part| part.blocked != by) {
            self.rollout.change(device, self.now, |part| part.blocked = by);
        }
    }

    pub(super) fn superseded(&mut self, device: &DeviceId, by: super::RolloutId) {
        if self.phase(device).is_some_and(|phase| phase != DevicePhase::Superseded) {
            self.go(device, DevicePhase::Superseded, None, &format!("{by} has the slot"));
        }
    }
}

impl Rollout {
    /// Whether `who` is one of those who may agree to the plan.
    pub fn may_approve(&self, who: &str) -> bool {
        let by = &self.plan.approval.by;
        if by.is_empty() { who != self.created_by } else { by.contains(who) }
    }
}
