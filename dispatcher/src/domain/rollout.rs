//! The simple rollout engine: a canary, then everyone, at most so many at once, until too many fail.
//!
//! It knows devices only through the fleet's records. It offers a version by assigning it to a device's
//! slot, and believes only what a signed report proves (invariant 12). A device that is not connected is
//! not offered anything until it is; one that falls silent while it updates frees its place after
//! [`SILENCE_SECONDS`] and counts as a failure until it is heard again (invariant 13).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use muster_proto::code::Code;
use muster_proto::id::{DeviceId, Digest, GroupName, ModelName, SlotName, Version};
use muster_proto::report::{Phase, SlotReport, Transfer};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::device::{Assignment, Device};
use super::fleet::{Effect, Fleet};
use super::notice::WatchEvent;

/// How long an updating device may be silent before it counts as failed.
pub const SILENCE_SECONDS: u64 = 600;
/// How many ended rollouts are kept, besides those that devices or later members still depend on.
pub const MAX_ENDED: usize = 500;

/// A rollout's number, written `r12`. A greater one is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RolloutId(pub u64);

impl fmt::Display for RolloutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for RolloutId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix('r').and_then(|n| n.parse().ok());
        number.map(RolloutId).ok_or_else(|| format!("{text:?} is not a rollout's id, such as r12"))
    }
}

impl TryFrom<String> for RolloutId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<RolloutId> for String {
    fn from(id: RolloutId) -> String {
        id.to_string()
    }
}

/// Whom a rollout is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Audience {
    /// Every device of the workspace, later ones too.
    All,
    /// The members of a group, later ones too.
    Group {
        /// The group.
        #[schema(value_type = String)]
        group: GroupName,
    },
    /// These devices.
    Devices {
        /// The devices.
        #[schema(value_type = Vec<String>)]
        devices: BTreeSet<DeviceId>,
    },
}

/// How a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStatus {
    /// Devices are offered it.
    Running,
    /// Every device has an outcome; later members still get it.
    Completed,
    /// Too many failed: no new device is offered it.
    Halted,
    /// An operator ended it: no new device is offered it.
    Cancelled,
}

impl RolloutStatus {
    /// Whether new devices are offered it.
    pub fn offers(self) -> bool {
        matches!(self, RolloutStatus::Running | RolloutStatus::Completed)
    }
}

/// How far one device of a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DevicePhase {
    /// Not yet offered.
    Pending,
    /// Offered; nothing heard.
    Offered,
    /// Fetching.
    Fetching,
    /// All files are whole.
    Verified,
    /// Loaded and probed.
    Staged,
    /// Answers; its trial runs.
    Active,
    /// Answers, and proved it.
    Healthy,
    /// Failed, with a code.
    Failed,
    /// A newer rollout took its place.
    Superseded,
}

impl DevicePhase {
    /// Whether it is an outcome.
    pub fn is_final(self) -> bool {
        matches!(self, DevicePhase::Healthy | DevicePhase::Failed | DevicePhase::Superseded)
    }

    /// Whether the device is updating.
    pub fn in_flight(self) -> bool {
        !self.is_final() && self != DevicePhase::Pending
    }
}

/// One device's part in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How far it is.
    pub phase: DevicePhase,
    /// Since when.
    pub since: u64,
    /// The code of a failure.
    pub code: Option<Code>,
    /// What happened, for people.
    pub detail: String,
    /// What its transfer moved.
    pub transfer: Transfer,
}

/// A rollout's record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its number.
    pub id: RolloutId,
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// The target's path.
    pub target: String,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The manifest's length in bytes.
    pub length: u64,
    /// The slot that it fills.
    pub slot: SlotName,
    /// Whom it is for.
    pub audience: Audience,
    /// So many devices have to be healthy before the others are offered it.
    pub canary: u32,
    /// The most devices that update at once.
    pub max_in_flight: u32,
    /// The most failures before it halts.
    pub max_failures: u32,
    /// The trial period after activation, in seconds.
    pub trial_seconds: u32,
    /// How it stands.
    pub status: RolloutStatus,
    /// Why, where there is a reason.
    pub reason: String,
    /// When it was started.
    pub created_at: u64,
    /// Who started it.
    pub created_by: String,
    /// When it ended; 0 while it runs.
    pub ended_at: u64,
    /// Each device's part; stored row by row.
    #[serde(skip)]
    pub devices: BTreeMap<DeviceId, Progress>,
}

impl Rollout {
    /// How many devices are in `phase`.
    pub fn count(&self, phase: DevicePhase) -> u32 {
        self.devices.values().fold(0, |n, p| n + u32::from(p.phase == phase))
    }

    fn assignment(&self) -> Assignment {
        Assignment {
            target: self.target.clone(),
            digest: self.digest,
            length: self.length,
            trial_seconds: self.trial_seconds,
            rollout: self.id,
        }
    }
}

/// Invariant 12: healthy, with the wanted digest answering and no golden sample failed.
pub(super) fn proves(slot: &SlotReport, want: Digest) -> bool {
    slot.phase == Phase::Healthy
        && slot.active.as_ref().is_some_and(|active| active.digest == want)
        && slot.probe.as_ref().is_none_or(|probe| probe.passed == probe.samples)
}

/// Begins `rollout` with the devices that its audience has now.
pub(super) fn start(fleet: &mut Fleet, mut rollout: Rollout, now: u64, effects: &mut Vec<Effect>) {
    let id = rollout.id;
    rollout.devices = fleet.members(&rollout.audience).into_iter().map(|device| (device, pending(now))).collect();
    effects.push(Effect::SaveRollout(id));
    effects.extend(rollout.devices.keys().map(|device| Effect::SaveProgress { rollout: id, device: device.clone() }));
    effects.push(notice(&rollout));
    let members: Vec<DeviceId> = rollout.devices.keys().cloned().collect();
    fleet.rollouts.insert(id, rollout);
    for device in &members {
        take_over(fleet, id, device, now, effects);
    }
    // Older ones may have come to their end by that.
    let older: Vec<RolloutId> = fleet.rollouts.range(..id).map(|(id, _)| *id).collect();
    for old in older {
        advance(fleet, old, now, effects);
    }
    advance(fleet, id, now, effects);
    forget_old(fleet, effects);
}

/// Ends a rollout at an operator's wish, or because its version was deleted.
pub(super) fn cancel(fleet: &mut Fleet, id: RolloutId, reason: &str, now: u64, effects: &mut Vec<Effect>) {
    if fleet.rollouts.get(&id).is_some_and(|r| r.status.offers()) {
        end(fleet, id, RolloutStatus::Cancelled, reason.to_owned(), now, effects);
    }
}

/// Gives `device`, for each slot, a part in the newest rollout that is for it and still offers; also in one that
/// had to give way to a newer rollout that ended before it reached the device.
pub(super) fn join(fleet: &mut Fleet, device: &DeviceId, now: u64, effects: &mut Vec<Effect>) {
    let Some(record) = fleet.devices.get(device) else { return };
    let mut newest: BTreeMap<&SlotName, &Rollout> = BTreeMap::new();
    for rollout in fleet.rollouts.values().filter(|r| r.status.offers()) {
        let newer = record.slots.get(&rollout.slot).is_none_or(|have| have.rollout < rollout.id);
        if newer && fleet.invites(&rollout.audience, record) {
            newest.insert(&rollout.slot, rollout);
        }
    }
    let free = |r: &&Rollout| r.devices.get(device).is_none_or(|p| p.phase == DevicePhase::Superseded);
    let joined: Vec<RolloutId> = newest.into_values().filter(free).map(|r| r.id).collect();
    for id in joined {
        if let Some(rollout) = fleet.rollouts.get_mut(&id) {
            rollout.devices.insert(device.clone(), pending(now));
            effects.push(Effect::SaveProgress { rollout: id, device: device.clone() });
        }
        take_over(fleet, id, device, now, effects);
        advance(fleet, id, now, effects);
    }
}

/// Takes `device` away from older rollouts of the slot that have not reached it yet.
fn take_over(fleet: &mut Fleet, id: RolloutId, device: &DeviceId, now: u64, effects: &mut Vec<Effect>) {
    let Some(slot) = fleet.rollouts.get(&id).map(|r| r.slot.clone()) else { return };
    let waits = |r: &&Rollout| r.slot == slot && r.devices.get(device).is_some_and(|p| p.phase == DevicePhase::Pending);
    let older: Vec<RolloutId> = fleet.rollouts.range(..id).map(|(_, r)| r).filter(waits).map(|r| r.id).collect();
    for old in older {
        note(fleet, old, device, DevicePhase::Superseded, None, &format!("{id} took its place"), now, effects);
    }
}

/// Draws from what the device reports of `slot` how far its rollout is there.
pub(super) fn observe(fleet: &mut Fleet, device: &DeviceId, slot: &SlotReport, now: u64, effects: &mut Vec<Effect>) {
    let Some(want) = fleet.devices.get(device).and_then(|d| d.slots.get(&slot.slot)) else { return };
    let (id, digest) = (want.rollout, want.digest);
    // A report on an earlier desired state says nothing on this one, even where the digest is the same.
    if slot.rollout != id.to_string() || slot.desired.as_ref().is_none_or(|d| d.digest != digest) {
        return;
    }
    let phase = match slot.phase {
        Phase::Offered => DevicePhase::Offered,
        Phase::Fetching => DevicePhase::Fetching,
        Phase::Verified => DevicePhase::Verified,
        Phase::Staged => DevicePhase::Staged,
        Phase::Active => DevicePhase::Active,
        Phase::Healthy if proves(slot, digest) => DevicePhase::Healthy,
        Phase::Failed => DevicePhase::Failed,
        // Claims success without the proof, or calls a wanted slot removed: not an outcome.
        Phase::Healthy | Phase::Removed => return,
    };
    let failure = slot.failure.as_ref();
    let code = failure.map(|f| f.code).or((phase == DevicePhase::Failed).then_some(Code::Internal));
    let detail = failure.map(|f| f.detail.as_str()).unwrap_or_default();
    if let Some(progress) = fleet.rollouts.get_mut(&id).and_then(|r| r.devices.get_mut(device))
        && progress.transfer != slot.transfer
    {
        progress.transfer = slot.transfer;
        effects.push(Effect::SaveProgress { rollout: id, device: device.clone() });
    }
    note(fleet, id, device, phase, code, detail, now, effects);
    advance(fleet, id, now, effects);
}

/// Fails what the device has not begun because it refused the desired state.
pub(super) fn refuse(
    fleet: &mut Fleet,
    device: &DeviceId,
    code: Code,
    detail: &str,
    now: u64,
    effects: &mut Vec<Effect>,
) {
    let Some(record) = fleet.devices.get(device) else { return };
    let asked: Vec<RolloutId> = record.slots.values().map(|a| a.rollout).collect();
    for id in asked {
        if fleet.progress(id, device).is_some_and(|p| p.phase == DevicePhase::Offered) {
            note(fleet, id, device, DevicePhase::Failed, Some(code), detail, now, effects);
            advance(fleet, id, now, effects);
        }
    }
}

/// Offers the rollout to as many waiting devices as its limits allow, and sees whether it is at an end.
pub(super) fn advance(fleet: &mut Fleet, id: RolloutId, now: u64, effects: &mut Vec<Effect>) {
    let Some(rollout) = fleet.rollouts.get(&id).filter(|r| r.status.offers()) else { return };
    let (mut updating, mut silent) = (0u32, 0u32);
    for (device, progress) in rollout.devices.iter().filter(|(_, p)| p.phase.in_flight()) {
        let heard = fleet.devices.get(device).is_some_and(|d| !is_silent(fleet, d, progress, now));
        *(if heard { &mut updating } else { &mut silent }) += 1;
    }
    let failed = rollout.count(DevicePhase::Failed);
    if failed + silent > rollout.max_failures {
        let reason = format!("{failed} failed and {silent} fell silent, {} are allowed", rollout.max_failures);
        end(fleet, id, RolloutStatus::Halted, reason, now, effects);
        return;
    }
    let healthy = rollout.count(DevicePhase::Healthy);
    let limit = match rollout.canary.saturating_sub(healthy) {
        0 => rollout.max_in_flight.max(1),
        canaries => canaries.min(rollout.max_in_flight.max(1)),
    };
    let waits = |(device, progress): &(&DeviceId, &Progress)| {
        progress.phase == DevicePhase::Pending && fleet.devices.get(*device).is_some_and(|d| d.online)
    };
    let room = limit.saturating_sub(updating) as usize;
    let next: Vec<DeviceId> = rollout.devices.iter().filter(waits).take(room).map(|(d, _)| d.clone()).collect();
    for device in next {
        offer(fleet, id, &device, now, effects);
    }
    let done = fleet
        .rollouts
        .get(&id)
        .is_some_and(|r| r.status == RolloutStatus::Running && r.devices.values().all(|p| p.phase.is_final()));
    if done {
        end(fleet, id, RolloutStatus::Completed, String::new(), now, effects);
    }
}

fn offer(fleet: &mut Fleet, id: RolloutId, device: &DeviceId, now: u64, effects: &mut Vec<Effect>) {
    let Some(rollout) = fleet.rollouts.get(&id) else { return };
    let (slot, assignment) = (rollout.slot.clone(), rollout.assignment());
    let Some(record) = fleet.devices.get_mut(device) else { return };
    let before = record.slots.get(&slot).map(|a| a.rollout);
    if let Some(newer) = before.filter(|before| *before > id) {
        note(fleet, id, device, DevicePhase::Superseded, None, &format!("{newer} took its place"), now, effects);
        return;
    }
    if !record.assign(slot, assignment) {
        let detail = "the device has no room for another slot";
        note(fleet, id, device, DevicePhase::Failed, Some(Code::Conflict), detail, now, effects);
        return;
    }
    effects.push(Effect::SaveDevice(device.clone()));
    effects.extend(fleet.publish(device, now));
    note(fleet, id, device, DevicePhase::Offered, None, "", now, effects);
    if let Some(before) = before.filter(|before| *before != id)
        && fleet.progress(before, device).is_some_and(|p| !p.phase.is_final())
    {
        note(fleet, before, device, DevicePhase::Superseded, None, &format!("{id} took its place"), now, effects);
        advance(fleet, before, now, effects);
    }
}

/// Records a device's progress where it is a change.
#[allow(clippy::too_many_arguments)]
fn note(
    fleet: &mut Fleet,
    id: RolloutId,
    device: &DeviceId,
    phase: DevicePhase,
    code: Option<Code>,
    detail: &str,
    now: u64,
    effects: &mut Vec<Effect>,
) {
    let Some(progress) = fleet.rollouts.get_mut(&id).and_then(|r| r.devices.get_mut(device)) else { return };
    if progress.phase == phase && progress.code == code && progress.detail == detail {
        return;
    }
    if progress.phase != phase {
        progress.since = now;
    }
    progress.phase = phase;
    progress.code = code;
    progress.detail = detail.chars().take(500).collect();
    effects.push(Effect::SaveProgress { rollout: id, device: device.clone() });
    effects.push(Effect::Notify(WatchEvent::RolloutDevice {
        rollout: id,
        device: device.clone(),
        phase,
        code,
        detail: progress.detail.clone(),
    }));
}

fn end(fleet: &mut Fleet, id: RolloutId, status: RolloutStatus, reason: String, now: u64, effects: &mut Vec<Effect>) {
    let Some(rollout) = fleet.rollouts.get_mut(&id) else { return };
    rollout.status = status;
    rollout.reason = reason;
    rollout.ended_at = now;
    effects.push(Effect::SaveRollout(id));
    effects.push(notice(rollout));
    if !status.offers() {
        // Who waits in vain gets what the others have.
        let waits = rollout.devices.iter().filter(|(_, p)| p.phase == DevicePhase::Pending);
        let waiting: Vec<DeviceId> = waits.map(|(device, _)| device.clone()).collect();
        for device in waiting {
            join(fleet, &device, now, effects);
        }
    }
}

/// Drops the oldest ended rollouts beyond [`MAX_ENDED`] on which nothing depends (invariant 10).
fn forget_old(fleet: &mut Fleet, effects: &mut Vec<Effect>) {
    let ended = fleet.rollouts.values().filter(|r| r.status != RolloutStatus::Running).count();
    let Some(surplus) = ended.checked_sub(MAX_ENDED).filter(|n| *n > 0) else { return };
    let mut needed: BTreeSet<RolloutId> =
        fleet.devices.values().flat_map(|d| d.slots.values().map(|a| a.rollout)).collect();
    for rollout in fleet.rollouts.values().filter(|r| r.status == RolloutStatus::Completed) {
        let heir = fleet.rollouts.values().any(|r| {
            r.id > rollout.id && r.status.offers() && r.slot == rollout.slot && r.audience == rollout.audience
        });
        if !heir && !matches!(rollout.audience, Audience::Devices { .. }) {
            needed.insert(rollout.id);
        }
    }
    let idle = |r: &&Rollout| r.status != RolloutStatus::Running && !needed.contains(&r.id);
    let old: Vec<RolloutId> = fleet.rollouts.values().filter(idle).map(|r| r.id).take(surplus).collect();
    for id in old {
        fleet.rollouts.remove(&id);
        effects.push(Effect::DeleteRollout(id));
    }
}

fn pending(now: u64) -> Progress {
    Progress {
        phase: DevicePhase::Pending,
        since: now,
        code: None,
        detail: String::new(),
        transfer: Transfer::default(),
    }
}

fn is_silent(fleet: &Fleet, device: &Device, progress: &Progress, now: u64) -> bool {
    let heard = device.last_seen.max(progress.since).max(fleet.listening_since);
    // A connection that nobody saw end, or a device in a long trial without telemetry.
    let patience = if device.online { 6 * SILENCE_SECONDS } else { SILENCE_SECONDS };
    now.saturating_sub(heard) > patience
}

fn notice(rollout: &Rollout) -> Effect {
    Effect::Notify(WatchEvent::Rollout { rollout: rollout.id, status: rollout.status, reason: rollout.reason.clone() })
}
