//! Rollouts.

mod preview;

use muster_proto::id::{DeviceId, Digest, SlotName, Version};
use muster_proto::manifest::{BundleManifest, target_path};

use super::view::{
    DeniedView, Explanation, Principal, RolloutApproval, RolloutDetail, RolloutDocument, RolloutExtension,
    RolloutReason, RolloutRetry, RolloutView,
};
use super::{App, Error, Result, project};
use crate::domain::rollout::plan::{Plan, Preset, Target};
use crate::domain::rollout::{Approved, Order, Word};
use crate::domain::{Event, Fleet, Rollout, RolloutId, RolloutStatus};

/// The most rollouts that are under way at a time.
const MAX_OPEN: usize = 1000;

impl App {
    /// Starts a rollout. Where an older one of the same slot is under way it takes over, device by device.
    pub async fn start_rollout(&self, document: RolloutDocument, by: &Principal) -> Result<RolloutView> {
        // The version may not be deleted until the rollout stands.
        let _held = self.0.registry.hold().await;
        let named = document.version.is_some();
        let order = self.order(document, by).await?;
        let id = self
            .decide(move |fleet| {
                check_start(fleet, &order, named)?;
                let id = fleet.next_rollout();
                let rollout = Rollout::new(id, order, crate::now());
                Ok((Some(Event::RolloutStarted(Box::new(rollout))), id))
            })
            .await?;
        let view = self.show_rollout(id).await?.rollout;
        let what = format!("{}:{}, plan {}", view.model, view.version, view.plan_hash);
        self.record(by, "rollout.start", &id.to_string(), &what).await;
        Ok(view)
    }

    /// What a document asks for: its version, its slot, and its plan completed by its preset and checked.
    async fn order(&self, document: RolloutDocument, by: &Principal) -> Result<Order> {
        let RolloutDocument { model, version, slot, mut plan } = document;
        plan.preset.unwrap_or(Preset::Fast).complete(&mut plan);
        plan.check().map_err(|problem| Error::BadRequest(problem.to_string()))?;
        let version = match version {
            Some(version) => version,
            None => self.newest_not_denied(&model).await?,
        };
        let record = self.version(&model, version).await?;
        let bytes = self.download_manifest(&model, version).await?;
        let manifest = BundleManifest::parse(&bytes).map_err(|e| Error::internal("the stored manifest", e))?;
        Ok(Order {
            target: target_path(&model, version),
            digest: record.digest,
            length: bytes.len() as u64,
            bytes: manifest.files.iter().map(|file| file.blob.size).sum(),
            slot: slot.unwrap_or_else(|| model.default_slot()),
            requires: manifest.requires,
            model,
            version,
            plan,
            by: by.name.clone(),
        })
    }

    async fn newest_not_denied(&self, model: &muster_proto::id::ModelName) -> Result<Version> {
        let versions = self.0.storage.model(model).await?.versions;
        for (version, _) in versions.iter().rev() {
            let record = self.version(model, *version).await?;
            if !self.0.driver.fleet().denied.contains_key(&record.digest) {
                return Ok(*version);
            }
        }
        if versions.is_empty() {
            return Err(Error::NotFound(format!("model {model}")));
        }
        Err(Error::conflict(format!("every version of {model} was recalled: name one to roll it out all the same")))
    }

    /// Every rollout, newest first.
    pub async fn list_rollouts(&self) -> Result<Vec<RolloutView>> {
        let now = crate::now();
        Ok(self.0.driver.fleet().rollouts.values().rev().map(|r| project::rollout(r, now)).collect())
    }

    /// How many rollouts stand so.
    pub fn count_rollouts(&self, status: RolloutStatus) -> usize {
        self.0.driver.fleet().rollouts.values().filter(|rollout| rollout.status == status).count()
    }

    /// One rollout with each of its devices.
    pub async fn show_rollout(&self, id: RolloutId) -> Result<RolloutDetail> {
        let fleet = self.0.driver.fleet();
        let rollout = fleet.rollouts.get(&id).ok_or_else(|| unknown(id))?;
        Ok(project::rollout_detail(rollout, crate::now()))
    }

    /// A rollout without its devices.
    pub async fn view_rollout(&self, id: RolloutId) -> Result<RolloutView> {
        let fleet = self.0.driver.fleet();
        let rollout = fleet.rollouts.get(&id).ok_or_else(|| unknown(id))?;
        Ok(project::rollout(rollout, crate::now()))
    }

    /// The document that would start the same rollout again.
    pub async fn export_rollout(&self, id: RolloutId) -> Result<RolloutDocument> {
        let fleet = self.0.driver.fleet();
        let rollout = fleet.rollouts.get(&id).ok_or_else(|| unknown(id))?;
        let slot: Option<SlotName> = Some(rollout.slot.clone());
        let (model, version) = (rollout.model.clone(), Some(rollout.version));
        Ok(RolloutDocument { model, version, slot, plan: rollout.plan.clone() })
    }

    /// Why a device is where it is in a rollout.
    pub async fn explain_rollout(&self, id: RolloutId, device: &DeviceId) -> Result<Explanation> {
        let (mut rollout, excluded) = {
            let fleet = self.0.driver.fleet();
            let rollout = fleet.rollouts.get(&id).ok_or_else(|| unknown(id))?;
            let record = fleet.devices.get(device).ok_or_else(|| Error::NotFound(format!("device {device}")))?;
            // Explaining lets time pass in token buckets, so it is done on a copy.
            (rollout.clone(), fleet.excluded(rollout, record))
        };
        let phase = rollout.parts.get(device).map(|part| part.phase);
        let conditions = rollout.explain(device, excluded, crate::now());
        Ok(Explanation { rollout: id, device: device.clone(), phase, conditions })
    }

    /// Offers nothing more until somebody resumes it.
    pub async fn pause_rollout(&self, id: RolloutId, why: RolloutReason, by: &Principal) -> Result<RolloutView> {
        let reason = reason(&why, by, "paused");
        let can = |status| matches!(status, RolloutStatus::Running | RolloutStatus::Completed | RolloutStatus::Paused);
        self.tell(id, "pause", Word::Pause(reason), by, can).await
    }

    /// Goes on; what the gates hold against it counts as looked at.
    pub async fn resume_rollout(&self, id: RolloutId, by: &Principal) -> Result<RolloutView> {
        let can = |status| matches!(status, RolloutStatus::Paused | RolloutStatus::Running);
        self.tell(id, "resume", Word::Resume, by, can).await
    }

    /// Calls off what has not switched, and takes back what has.
    pub async fn abort_rollout(&self, id: RolloutId, why: RolloutReason, by: &Principal) -> Result<RolloutView> {
        let word = Word::Recall { now: why.now, reason: reason(&why, by, "aborted") };
        let can = |status: RolloutStatus| status != RolloutStatus::Cancelled && status != RolloutStatus::Completed;
        self.tell(id, "abort", word, by, can).await
    }

    /// Takes a rollout back that is complete, or was ended.
    pub async fn roll_back_rollout(&self, id: RolloutId, why: RolloutReason, by: &Principal) -> Result<RolloutView> {
        let word = Word::Recall { now: why.now, reason: reason(&why, by, "rolled back") };
        self.tell(id, "rollback", word, by, |status| status != RolloutStatus::Pending).await
    }

    /// Ends a rollout: no further device is offered it. Those that were keep it.
    pub async fn cancel_rollout(&self, id: RolloutId, by: &Principal) -> Result<RolloutView> {
        let word = Word::Cancel(format!("cancelled by {}", by.name));
        self.tell(id, "cancel", word, by, |_| true).await
    }

    /// Passes the stage under way without its gates.
    pub async fn skip_rollout(&self, id: RolloutId, why: RolloutReason, by: &Principal) -> Result<RolloutView> {
        let word = Word::Skip(reason(&why, by, "skipped"));
        let can = |status| matches!(status, RolloutStatus::Running | RolloutStatus::Paused);
        self.tell(id, "skip", word, by, can).await
    }

    /// Switches to what was fetched beforehand.
    pub async fn release_rollout(&self, id: RolloutId, by: &Principal) -> Result<RolloutView> {
        self.tell(id, "release", Word::Release, by, RolloutStatus::is_open).await
    }

    /// Offers it again to devices that failed or refused.
    pub async fn retry_rollout(&self, id: RolloutId, which: RolloutRetry, by: &Principal) -> Result<RolloutView> {
        self.tell(id, "retry", Word::Retry(which.devices), by, RolloutStatus::is_open).await
    }

    /// Agrees to a plan, which has to be the one that was looked at.
    pub async fn approve_rollout(&self, id: RolloutId, with: RolloutApproval, by: &Principal) -> Result<RolloutView> {
        let name = by.name.clone();
        let approved = Approved {
            by: by.name.clone(),
            at: crate::now(),
            key: with.key.map(|key| key.to_string()),
            signature: with.signature,
        };
        self.decide(move |fleet| {
            let rollout = fleet.rollouts.get(&id).ok_or_else(|| unknown(id))?;
            if rollout.plan_hash != with.plan {
                let message = format!("{id} has plan {}, not {}: look at it again", rollout.plan_hash, with.plan);
                return Err(Error::conflict(message));
            }
            let approval = &rollout.plan.approval;
            if !approval.by.is_empty() && !approval.by.contains(&name) {
                let may: Vec<&str> = approval.by.iter().map(String::as_str).collect();
                return Err(Error::conflict(format!("{name} may not approve {id}: {} may", may.join(", "))));
            }
            if approval.by.is_empty() && rollout.created_by == name {
                return Err(Error::conflict(format!("{name} started {id}: somebody else has to approve it")));
            }
            if rollout.status != RolloutStatus::Pending {
                return Err(Error::conflict(format!("{id} does not wait for approval any more")));
            }
            Ok((Some(Event::RolloutTold(id, Word::Approve(approved))), ()))
        })
        .await?;
        self.record(by, "rollout.approve", &id.to_string(), &with.plan.to_string()).await;
        self.view_rollout(id).await
    }

    /// Lets a rollout be for another group as well.
    pub async fn extend_rollout(&self, id: RolloutId, to: RolloutExtension, by: &Principal) -> Result<RolloutView> {
        let group = to.group.clone();
        self.decide(move |fleet| {
            let rollout = fleet.rollouts.get(&id).ok_or_else(|| unknown(id))?;
            if !fleet.groups.contains_key(&group) {
                return Err(Error::NotFound(format!("group {group}")));
            }
            if !rollout.status.is_open() {
                return Err(Error::conflict(format!("{id} has ended: start another one for {group}")));
            }
            Ok((Some(Event::RolloutExtended(id, group)), ()))
        })
        .await?;
        self.record(by, "rollout.extend", &id.to_string(), to.group.as_str()).await;
        self.view_rollout(id).await
    }

    /// Versions that were recalled.
    pub async fn denied_versions(&self) -> Result<Vec<DeniedView>> {
        let fleet = self.0.driver.fleet();
        let view = |(digest, denied): (&Digest, &crate::domain::Denied)| DeniedView {
            digest: *digest,
            target: denied.target.clone(),
            rollout: denied.rollout,
            reason: denied.reason.clone(),
            at: denied.at,
        };
        Ok(fleet.denied.iter().map(view).collect())
    }

    async fn tell(
        &self,
        id: RolloutId,
        action: &'static str,
        word: Word,
        by: &Principal,
        can: impl Fn(RolloutStatus) -> bool + Send + 'static,
    ) -> Result<RolloutView> {
        let detail = match &word {
            Word::Pause(reason) | Word::Skip(reason) | Word::Recall { reason, .. } => reason.clone(),
            _ => String::new(),
        };
        self.decide(move |fleet| {
            let rollout = fleet.rollouts.get(&id).ok_or_else(|| unknown(id))?;
            if !can(rollout.status) {
                let status = format!("{:?}", rollout.status).to_lowercase();
                return Err(Error::conflict(format!("{id} is {status}: {action} does not apply")));
            }
            Ok((Some(Event::RolloutTold(id, word)), ()))
        })
        .await?;
        self.record(by, &format!("rollout.{action}"), &id.to_string(), &detail).await;
        self.view_rollout(id).await
    }
}

fn reason(why: &RolloutReason, by: &Principal, what: &str) -> String {
    match why.reason.trim() {
        "" => format!("{what} by {}", by.name),
        why => format!("{what} by {}: {why}", by.name),
    }
}

/// Whether a rollout may be started on the fleet as it is.
fn check_start(fleet: &Fleet, order: &Order, named: bool) -> Result<()> {
    let open = fleet.rollouts.values().filter(|r| !r.status.has_ended()).count();
    if open >= MAX_OPEN {
        return Err(Error::conflict(format!("{open} rollouts are under way: cancel some first")));
    }
    if let Some(denied) = fleet.denied.get(&order.digest).filter(|_| !named) {
        let message =
            format!("{}:{} was recalled by {}: {}", order.model, order.version, denied.rollout, denied.reason);
        return Err(Error::conflict(message));
    }
    check_target(fleet, &order.plan)
}

fn check_target(fleet: &Fleet, plan: &Plan) -> Result<()> {
    let Target { groups, devices, except, .. } = &plan.target;
    if let Some(group) = groups.iter().chain(&except.groups).find(|group| !fleet.groups.contains_key(*group)) {
        return Err(Error::NotFound(format!("group {group}")));
    }
    let named = plan.stages.iter().flat_map(|stage| &stage.devices);
    match devices.iter().chain(&except.devices).chain(named).find(|device| !fleet.devices.contains_key(*device)) {
        Some(device) => Err(Error::NotFound(format!("device {device}"))),
        None => Ok(()),
    }
}

fn unknown(id: RolloutId) -> Error {
    Error::NotFound(format!("rollout {id}"))
}
