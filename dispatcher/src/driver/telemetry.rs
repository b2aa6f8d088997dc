//! Adds telemetry windows to their totals, many at once, and acknowledges them when that is durable.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_proto::desired::MAX_SLOTS;
use muster_proto::id::{DeviceId, Digest, SlotName};
use muster_proto::report::{Telemetry, TelemetryWindow};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Driver, Outbox};
use crate::domain::Event;
use crate::domain::telemetry::{DeviceTelemetry, Totals};
use crate::storage::{self, Storage};

/// Windows that may wait; further ones are turned away and come again.
const MAX_WAITING: usize = 4096;
/// The most windows in one transaction.
const MAX_BATCH: usize = 512;
/// How long windows are gathered, so that a fleet costs a few transactions a second.
const GATHER: Duration = Duration::from_millis(500);

/// The way in. Clones share it.
#[derive(Clone)]
pub struct TelemetryQueue(mpsc::Sender<(DeviceId, Telemetry)>);

impl TelemetryQueue {
    /// Starts the task.
    pub fn start(storage: Storage, outbox: Outbox, driver: Driver) -> (Self, JoinHandle<()>) {
        let (windows, waiting) = mpsc::channel(MAX_WAITING);
        (Self(windows), tokio::spawn(run(storage, outbox, driver, waiting)))
    }

    pub(super) fn push(&self, device: DeviceId, window: Telemetry) -> bool {
        self.0.try_send((device, window)).is_ok()
    }
}

async fn run(storage: Storage, outbox: Outbox, driver: Driver, mut waiting: mpsc::Receiver<(DeviceId, Telemetry)>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let mut by_device: BTreeMap<DeviceId, Vec<Telemetry>> = BTreeMap::new();
        for (device, window) in batch.drain(..) {
            by_device.entry(device).or_default().push(window);
        }
        match add(&storage, &by_device, crate::now()).await {
            Ok(counted) => {
                for (device, windows) in by_device {
                    let ids: Vec<u64> = windows.iter().map(Telemetry::id).collect();
                    outbox.ack(&device, &ids);
                }
                // Gates do with what they get: a window that finds the queue full is one reading less.
                for (device, window) in counted {
                    driver.event(Event::Measured { device, window: Box::new(window) });
                }
            }
            // Not acknowledged, so they come again.
            Err(error) => tracing::error!(%error, "telemetry could not be stored"),
        }
        tokio::time::sleep(GATHER).await;
    }
}

/// Adds windows to their totals and gives back those that had not been counted before.
pub(super) async fn add(
    storage: &Storage,
    windows: &BTreeMap<DeviceId, Vec<Telemetry>>,
    now: u64,
) -> Result<Vec<(DeviceId, TelemetryWindow)>, storage::Error> {
    let (mut changed, mut counted) = (Vec::new(), Vec::new());
    for (device, windows) in windows {
        let mut known: DeviceTelemetry = storage.device_telemetry(device).await?.unwrap_or_default();
        let mut totals: BTreeMap<(SlotName, Digest), Totals> = BTreeMap::new();
        for window in windows {
            let window = window.clone().into_window();
            if !known.seen.insert(window.incarnation, window.id) {
                continue;
            }
            known.vitals = window.vitals;
            known.updated_at = now;
            counted.push((device.clone(), window.clone()));
            for window in window.slots.iter().take(MAX_SLOTS).map(|s| &s.window) {
                let key = (window.slot.clone(), window.digest);
                if !totals.contains_key(&key) {
                    let stored = storage.totals(device, &window.slot, window.digest).await?;
                    let total = stored.unwrap_or_else(|| Totals::new(window.slot.clone(), window.digest));
                    totals.insert(key.clone(), total);
                }
                if let Some(total) = totals.get_mut(&key) {
                    total.add(window);
                }
            }
        }
        changed.push((device.clone(), known, totals.into_values().collect()));
    }
    storage.store_telemetry(&changed, now).await?;
    Ok(counted)
}
