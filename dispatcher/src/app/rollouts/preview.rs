//! What a rollout would do, without doing it.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::id::{DeviceId, Digest};
use muster_proto::manifest::BundleManifest;

use super::check_start;
use crate::app::view::{Excluded, Overlap, Principal, RolloutDocument, RolloutPreview, TransferForecast};
use crate::app::{App, Result};
use crate::domain::rollout::Order;
use crate::domain::rollout::forecast::forecast;
use crate::domain::{Fleet, Rollout};

/// How many reasons are told apart.
const MAX_REASONS: usize = 20;
/// How many devices stand for the others.
const EXAMPLES: usize = 5;
/// What a device takes besides its soak time, where nothing was measured, in seconds.
const SECONDS_EACH: u64 = 60;

impl App {
    /// Says who matches and who does not and why, the stages, the bytes, and when it would end.
    pub async fn preview_rollout(&self, document: RolloutDocument, by: &Principal) -> Result<RolloutPreview> {
        let named = document.version.is_some();
        let order = self.order(document, by).await?;
        let now = crate::now();
        let (mut preview, running) = {
            let fleet = self.0.driver.fleet();
            let refused = check_start(&fleet, &order, named).err().map(|error| error.to_string());
            let rollout = Rollout::new(fleet.next_rollout(), order.clone(), now);
            (preview(&fleet, &rollout, &order, refused, now), running(&fleet, &rollout))
        };
        for (from, devices) in running {
            let delta = match from {
                Some((_, digest)) => self.delta_bytes(digest, &order).await?,
                None => None,
            };
            let from = from.map(|(target, _)| target);
            preview.transfers.push(TransferForecast { from, devices, full: order.bytes, delta });
        }
        Ok(preview)
    }

    /// What the deltas from one version to another take together, where every file has one.
    async fn delta_bytes(&self, from: Digest, order: &Order) -> Result<Option<u64>> {
        let storage = &self.0.storage;
        let Some((model, version)) = storage.version_of_manifest(from).await? else { return Ok(None) };
        let (have, want) = (
            self.download_manifest(&model, version).await?,
            self.download_manifest(&order.model, order.version).await?,
        );
        let (Ok(have), Ok(want)) = (BundleManifest::parse(&have), BundleManifest::parse(&want)) else {
            return Ok(None);
        };
        let mut bytes = 0u64;
        for file in &want.files {
            if have.files.iter().any(|held| held.digest == file.digest) {
                continue;
            }
            let base = have.files.iter().find(|held| held.path == file.path);
            let Some(base) = base else { return Ok(None) };
            let delta = storage.delta(base.digest, file.digest).await?;
            let Some(offer) = delta.and_then(|delta| delta.offer) else { return Ok(None) };
            bytes += offer.size;
        }
        Ok(Some(bytes))
    }
}

fn preview(fleet: &Fleet, rollout: &Rollout, order: &Order, refused: Option<String>, now: u64) -> RolloutPreview {
    let mut members = fleet.members_of(rollout);
    let online = members.iter().filter(|member| member.online).count() as u32;
    let mut excluded: BTreeMap<String, (u32, BTreeSet<DeviceId>)> = BTreeMap::new();
    for device in fleet.devices.values() {
        let Some(reason) = fleet.excluded(rollout, device) else { continue };
        let known = excluded.contains_key(&reason) || excluded.len() < MAX_REASONS;
        let reason = if known { reason } else { "other reasons".to_owned() };
        let (count, examples) = excluded.entry(reason).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.insert(device.id.clone());
        }
    }
    let mut excluded: Vec<Excluded> =
        excluded.into_iter().map(|(reason, (devices, examples))| Excluded { reason, devices, examples }).collect();
    excluded.sort_by_key(|excluded| std::cmp::Reverse(excluded.devices));
    let names: BTreeSet<&DeviceId> = members.iter().map(|member| &member.device).collect();
    let overlaps =
        fleet.rollouts.values().filter(|r| r.slot == rollout.slot && !r.status.has_ended()).filter_map(|r| {
            let devices = r.parts.keys().filter(|device| names.contains(device)).count() as u32;
            let goes_first = r.precedence() > rollout.precedence();
            (devices > 0).then_some(Overlap { rollout: r.id, devices, goes_first })
        });
    let conflicts = overlaps.collect();
    members.sort_by_key(|member| crate::domain::rollout::hash::rank(rollout.salt, member.device.as_str()));
    let first = members.iter().map(|member| member.device.clone()).take(EXAMPLES).collect();
    let matching = members.len() as u32;
    let (version, slot) = (Some(rollout.version), Some(rollout.slot.clone()));
    let document = RolloutDocument { model: rollout.model.clone(), version, slot, plan: rollout.plan.clone() };
    RolloutPreview {
        document,
        plan_hash: rollout.plan_hash,
        matching,
        online,
        first,
        excluded,
        conflicts,
        transfers: Vec::new(),
        forecast: forecast(&rollout.plan, matching, order.bytes, SECONDS_EACH, now),
        refused,
    }
}

/// How many members run what, most first.
fn running(fleet: &Fleet, rollout: &Rollout) -> Vec<(Option<(String, Digest)>, u32)> {
    let mut running: BTreeMap<Option<(String, Digest)>, u32> = BTreeMap::new();
    for member in fleet.members_of(rollout) {
        let proven = fleet.devices.get(&member.device).and_then(|device| device.proven.get(&rollout.slot));
        let now = proven.and_then(|proven| proven.now.as_ref()).map(|now| (now.target.clone(), now.digest));
        *running.entry(now).or_default() += 1;
    }
    let mut running: Vec<_> = running.into_iter().collect();
    running.sort_by_key(|(_, devices)| std::cmp::Reverse(*devices));
    running
}
