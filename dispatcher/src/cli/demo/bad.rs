//! A bad version, and what stops it: first its shadow, on no device that had switched; then a canary.

use anyhow::{Context as _, Result, bail, ensure};
use muster_proto::id::Version;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;

use super::digits::NAME;
use super::fleet::Fleet;
use super::plans::{self, Shadow};
use super::{PATIENCE, Show};
use crate::app::{ConditionState, DevicePhase, RolloutDetail, RolloutId, RolloutStatus, WatchEvent};

const BAD: Version = Version(3);

/// How a rollout was stopped.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Stopped {
    /// Devices on which the bad version answered.
    switched: u32,
    /// Devices that went back, or never left.
    recalled: u32,
    /// Bytes that going back fetched.
    bytes_fetched: u64,
    /// Why.
    reason: String,
}

/// The rollout that the agreement of the shadow stops.
pub(super) async fn stopped_by_shadow(fleet: &Fleet, show: &Show) -> Result<Stopped> {
    let mut events = fleet.app().events();
    let id = fleet.begin_rollout(BAD, plans::standard(Shadow::On)?).await?;
    say_why_not_me(fleet, id, show).await?;
    let stopped = until_recalled(fleet, id, &mut events).await?;
    ensure!(stopped.switched == 0, "{} devices switched to the bad version", stopped.switched);
    show.say(&format!("Stopped at its first gate, and no device had switched: {}", stopped.reason));
    Ok(stopped)
}

/// The rollout that one device stops, and from which it goes back by itself.
pub(super) async fn stopped_at_canary(fleet: &Fleet, show: &Show) -> Result<Stopped> {
    let mut events = fleet.app().events();
    let id = fleet.begin_rollout(BAD, plans::standard(Shadow::Off)?).await?;
    let stopped = until_recalled(fleet, id, &mut events).await?;
    ensure!(stopped.switched == 1, "{} devices switched to the bad version, not the canary alone", stopped.switched);
    show.say(&format!("Stopped at the canary: {}", stopped.reason));
    show.say(&format!(
        "The canary went back to {NAME}:2 from its own disk, {} bytes fetched, and proved it",
        stopped.bytes_fetched
    ));
    Ok(stopped)
}

/// Asks why a device that waits does so.
async fn say_why_not_me(fleet: &Fleet, id: RolloutId, show: &Show) -> Result<()> {
    let detail = fleet.app().show_rollout(id).await?;
    let waits = detail.devices.iter().find(|device| device.phase == DevicePhase::Waiting);
    // They may all have been quicker than we ask.
    let Some(device) = waits.map(|device| device.device.clone()) else { return Ok(()) };
    let explained = fleet.app().explain_rollout(id, &device).await?;
    let open = explained.conditions.iter().find(|c| c.state != ConditionState::Met);
    let why = open.map(|c| format!("{}: {}", c.condition, c.value)).unwrap_or_default();
    show.say(&format!("{device} waits, and says why: {why}"));
    Ok(())
}

/// Follows a rollout until everybody has gone back.
async fn until_recalled(
    fleet: &Fleet,
    id: RolloutId,
    events: &mut tokio::sync::broadcast::Receiver<WatchEvent>,
) -> Result<Stopped> {
    let mut switched = std::collections::BTreeSet::new();
    let mut reason = String::new();
    let follow = async {
        loop {
            match events.recv().await {
                Ok(WatchEvent::RolloutDevice { rollout, device, phase, .. }) if rollout == id => {
                    if matches!(phase, DevicePhase::Active | DevicePhase::Healthy) {
                        switched.insert(device);
                    }
                }
                Ok(WatchEvent::Rollout { rollout, status, reason: why }) if rollout == id => match status {
                    RolloutStatus::Recalling => reason = why,
                    RolloutStatus::Recalled => return Ok(()),
                    RolloutStatus::Running => {}
                    other => bail!("the bad version was not stopped: {other:?} {why}"),
                },
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => bail!("the dispatcher has stopped"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, follow).await.context("nothing stops the bad version")??;
    let detail: RolloutDetail = fleet.app().show_rollout(id).await?;
    let recalled = detail.rollout.counts.get(&DevicePhase::Recalled).copied().unwrap_or(0);
    let good = muster_proto::manifest::target_path(&NAME.parse()?, Version(2));
    ensure!(
        fleet.active().iter().all(|active| active.as_ref() == Some(&good)),
        "some devices do not answer with {NAME}:2: {:?}",
        fleet.active()
    );
    // What the devices that went back fetched for what they run now.
    let bytes_fetched = fleet.fetched_since_recall(&detail);
    Ok(Stopped { switched: switched.len() as u32, recalled, bytes_fetched, reason })
}
