//! Who a rollout is for, and in which order it comes to them.

use std::collections::BTreeMap;

use muster_proto::id::DeviceId;

use super::engine::Turn;
use super::hash::rank;
use super::line::NAMED;
use super::{DevicePhase, Effect, Member, Part, Rollout, Site};

/// The most sites that are told apart; further ones count as one.
const MAX_SITES: usize = 10_000;

impl Turn<'_> {
    /// Puts everybody in line so that the first so many are a fair sample of every site: a site's devices, in the order
    /// of their hashes, are spread evenly over the whole line from a start that is the site's own.
    pub(super) fn started(&mut self, members: Vec<Member>) {
        if !self.rollout.parts.is_empty() || !self.rollout.decisions.is_empty() {
            return;
        }
        let salt = self.rollout.salt;
        let mut sites: BTreeMap<String, Vec<(u64, Member)>> = BTreeMap::new();
        for mut member in members {
            let rank = rank(salt, member.device.as_str());
            sites.entry(std::mem::take(&mut member.site)).or_default().push((rank, member));
        }
        let mut parts = Vec::new();
        for (site, mut members) in sites {
            members.sort_by(|a, b| (a.0, &a.1.device).cmp(&(b.0, &b.1.device)));
            let offset = rank(salt, &format!("site {site}"));
            let (site, count) = (self.site(&site), members.len() as u64);
            for (i, (_, member)) in members.into_iter().enumerate() {
                // Half of all places are for those who come later.
                let share = (u128::from(i as u64) << 64 | u128::from(offset)) / u128::from(count);
                parts.push(self.part(member, (share >> 1) as u64, site));
            }
        }
        self.effects.extend(parts.iter().map(|(device, _)| Effect::SavePart(device.clone())));
        self.rollout.insert(parts);
        let text = format!("started by {} for {} devices", self.rollout.created_by, self.rollout.members());
        self.decide(text);
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
                self.rollout.insert(vec![part]);
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
