//! Rollouts.

use std::collections::BTreeMap;

use muster_proto::manifest::target_path;

use super::view::{Principal, RolloutDetail, RolloutRequest, RolloutView};
use super::{App, Error, Result, project};
use crate::domain::{Audience, Event, Fleet, Rollout, RolloutId, RolloutStatus};

const DEFAULT_IN_FLIGHT: u32 = 50;
const DEFAULT_TRIAL_SECONDS: u32 = 60;
const MAX_TRIAL_SECONDS: u32 = 7 * 24 * 3600;
/// The most rollouts that run at a time.
const MAX_RUNNING: usize = 1000;

impl App {
    /// Starts a rollout; it takes over from a running one of the same slot, device by device.
    pub async fn start_rollout(&self, request: RolloutRequest, by: &Principal) -> Result<RolloutView> {
        let trial_seconds = request.trial_seconds.unwrap_or(DEFAULT_TRIAL_SECONDS);
        if trial_seconds > MAX_TRIAL_SECONDS {
            return Err(Error::BadRequest(format!("trial_seconds has to be at most {MAX_TRIAL_SECONDS}")));
        }
        let max_in_flight = request.max_in_flight.unwrap_or(DEFAULT_IN_FLIGHT);
        if max_in_flight == 0 {
            return Err(Error::BadRequest("max_in_flight has to be at least 1".into()));
        }
        // The version may not be deleted until the rollout stands.
        let _held = self.0.registry.hold().await;
        let version = self.resolve(&request.model, request.version).await?;
        let record = self.version(&request.model, version).await?;
        let manifest = self.download_manifest(&request.model, version).await?;
        let mut rollout = Rollout {
            id: RolloutId(0),
            target: target_path(&request.model, version),
            digest: record.digest,
            length: manifest.len() as u64,
            slot: request.slot.unwrap_or_else(|| request.model.default_slot()),
            model: request.model,
            version,
            audience: request.audience,
            canary: request.canary,
            max_in_flight,
            max_failures: request.max_failures,
            trial_seconds,
            status: RolloutStatus::Running,
            reason: String::new(),
            created_at: crate::now(),
            created_by: by.name.clone(),
            ended_at: 0,
            devices: BTreeMap::new(),
        };
        let id = self
            .decide(move |fleet| {
                check_audience(fleet, &rollout.audience)?;
                let running = fleet.rollouts.values().filter(|r| r.status == RolloutStatus::Running).count();
                if running >= MAX_RUNNING {
                    return Err(Error::conflict(format!("{running} rollouts are running: cancel some first")));
                }
                rollout.id = fleet.next_rollout();
                Ok((Some(Event::RolloutStarted(Box::new(rollout.clone()))), rollout.id))
            })
            .await?;
        let view = self.show_rollout(id).await?.rollout;
        self.record(by, "rollout.start", &id.to_string(), &format!("{}:{}", view.model, view.version)).await;
        Ok(view)
    }

    /// Every rollout, newest first.
    pub async fn list_rollouts(&self) -> Result<Vec<RolloutView>> {
        Ok(self.0.driver.fleet().rollouts.values().rev().map(project::rollout).collect())
    }

    /// How many rollouts stand so.
    pub fn count_rollouts(&self, status: RolloutStatus) -> usize {
        self.0.driver.fleet().rollouts.values().filter(|rollout| rollout.status == status).count()
    }

    /// One rollout with each of its devices.
    pub async fn show_rollout(&self, id: RolloutId) -> Result<RolloutDetail> {
        let fleet = self.0.driver.fleet();
        let rollout = fleet.rollouts.get(&id).ok_or_else(|| unknown(id))?;
        Ok(project::rollout_detail(&fleet, rollout))
    }

    /// Ends a rollout: no further device is offered it. Those that were keep it.
    pub async fn cancel_rollout(&self, id: RolloutId, by: &Principal) -> Result<RolloutView> {
        self.decide(move |fleet| match fleet.rollouts.get(&id) {
            None => Err(unknown(id)),
            Some(rollout) if rollout.status.offers() => Ok((Some(Event::RolloutCancelled(id)), ())),
            // It is ended already, whichever way.
            Some(_) => Ok((None, ())),
        })
        .await?;
        self.record(by, "rollout.cancel", &id.to_string(), "").await;
        Ok(self.show_rollout(id).await?.rollout)
    }
}

fn check_audience(fleet: &Fleet, audience: &Audience) -> Result<()> {
    match audience {
        Audience::All => Ok(()),
        Audience::Group { group } if fleet.groups.contains_key(group) => Ok(()),
        Audience::Group { group } => Err(Error::NotFound(format!("group {group}"))),
        Audience::Devices { devices } if devices.is_empty() => {
            Err(Error::BadRequest("the list of devices is empty".into()))
        }
        Audience::Devices { devices } => match devices.iter().find(|device| !fleet.devices.contains_key(*device)) {
            Some(device) => Err(Error::NotFound(format!("device {device}"))),
            None => Ok(()),
        },
    }
}

fn unknown(id: RolloutId) -> Error {
    Error::NotFound(format!("rollout {id}"))
}
