//! Devices, groups and telemetry.

use std::collections::{BTreeMap, HashMap};

use muster_proto::id::{DeviceId, Digest, GroupName, ModelName, Version};
use muster_proto::report::latency_quantile_us;

use super::view::{
    DeviceDetail, DeviceFilter, DeviceUpdate, DeviceView, GroupView, Principal, TelemetryFilter, TelemetryView,
    VersionRef,
};
use super::{App, Error, Result, project};
use crate::domain::device::labels_match;
use crate::domain::registry::check_labels;
use crate::domain::{Event, Group};

/// The most groups of a workspace.
const MAX_GROUPS: usize = 10_000;

impl App {
    /// Every device that matches, by name.
    pub async fn list_devices(&self, filter: &DeviceFilter) -> Result<Vec<DeviceView>> {
        let fleet = self.0.driver.fleet();
        let group = filter.group.as_ref().map(|name| fleet.groups.get(name));
        let matches = |device: &&crate::domain::Device| {
            group.is_none_or(|group| group.is_some_and(|group| group.contains(device)))
                && labels_match(&filter.labels, &device.labels)
                && filter.online.is_none_or(|online| online == device.online)
        };
        Ok(fleet.devices.values().filter(matches).map(|device| project::device(&fleet, device)).collect())
    }

    /// One device and all that it last said.
    pub async fn show_device(&self, device: &DeviceId) -> Result<DeviceDetail> {
        let (view, report) = {
            let fleet = self.0.driver.fleet();
            let record = fleet.devices.get(device).ok_or_else(|| unknown(device))?;
            (project::device(&fleet, record), record.report.clone())
        };
        let vitals = self.0.storage.device_telemetry(device).await?.map(|telemetry| telemetry.vitals);
        Ok(DeviceDetail { view, report, vitals })
    }

    /// Sets a device's labels, groups, or both.
    pub async fn update_device(&self, device: &DeviceId, update: DeviceUpdate, by: &Principal) -> Result<DeviceView> {
        if let Some(labels) = &update.labels {
            check_labels("label", labels).map_err(Error::BadRequest)?;
        }
        let detail = serde_json::to_string(&update).unwrap_or_default();
        let id = device.clone();
        self.decide(move |fleet| {
            let record = fleet.devices.get(&id).ok_or_else(|| unknown(&id))?;
            let groups = update.groups.unwrap_or_else(|| record.groups.clone());
            let fresh = groups.iter().filter(|name| !fleet.groups.contains_key(name)).count();
            if fleet.groups.len() + fresh > MAX_GROUPS {
                return Err(Error::conflict(format!("there are {MAX_GROUPS} groups: delete some first")));
            }
            let labels = update.labels.unwrap_or_else(|| record.labels.clone());
            Ok((Some(Event::GroupsChanged { device: id, labels, groups }), ()))
        })
        .await?;
        self.record(by, "device.update", device.as_str(), &detail).await;
        let fleet = self.0.driver.fleet();
        fleet.devices.get(device).map(|record| project::device(&fleet, record)).ok_or_else(|| unknown(device))
    }

    /// Every group with its members, by name.
    pub async fn list_groups(&self) -> Result<Vec<GroupView>> {
        let fleet = self.0.driver.fleet();
        Ok(fleet.groups.values().map(|group| project::group(&fleet, group)).collect())
    }

    /// One group.
    pub async fn show_group(&self, group: &GroupName) -> Result<GroupView> {
        let fleet = self.0.driver.fleet();
        let record = fleet.groups.get(group).ok_or_else(|| unknown_group(group))?;
        Ok(project::group(&fleet, record))
    }

    /// Makes a group or changes its selector; with an empty selector it has listed members only.
    pub async fn set_group(
        &self,
        group: GroupName,
        selector: BTreeMap<String, String>,
        by: &Principal,
    ) -> Result<GroupView> {
        check_labels("label", &selector).map_err(Error::BadRequest)?;
        let detail = serde_json::to_string(&selector).unwrap_or_default();
        let record = Group { name: group.clone(), selector };
        self.decide(move |fleet| {
            if !fleet.groups.contains_key(&record.name) && fleet.groups.len() >= MAX_GROUPS {
                return Err(Error::conflict(format!("there are {MAX_GROUPS} groups: delete some first")));
            }
            Ok((Some(Event::GroupSet(record)), ()))
        })
        .await?;
        self.record(by, "group.set", group.as_str(), &detail).await;
        self.show_group(&group).await
    }

    /// Deletes a group; refused while a running rollout is for it. Its devices keep what they run.
    pub async fn delete_group(&self, group: &GroupName, by: &Principal) -> Result<()> {
        let name = group.clone();
        self.decide(move |fleet| {
            if !fleet.groups.contains_key(&name) {
                return Err(unknown_group(&name));
            }
            let running = fleet
                .rollouts
                .values()
                .filter(|rollout| !rollout.status.has_ended() && rollout.plan.target.groups.contains(&name));
            let blockers: Vec<String> = running.map(|rollout| format!("rollout {}", rollout.id)).collect();
            if !blockers.is_empty() {
                return Err(Error::Conflict { message: format!("a rollout to {name} is running"), blockers });
            }
            Ok((Some(Event::GroupDeleted(name)), ()))
        })
        .await?;
        self.record(by, "group.delete", group.as_str(), "").await;
        Ok(())
    }

    /// Telemetry summed per device, slot and version.
    pub async fn telemetry(&self, filter: &TelemetryFilter) -> Result<Vec<TelemetryView>> {
        let versions = self.0.storage.versions().await?;
        let named: HashMap<Digest, (ModelName, Version)> =
            versions.into_iter().map(|v| (v.digest, (v.model, v.version))).collect();
        let mut found = Vec::new();
        for (device, totals, updated_at) in self.0.storage.telemetry(filter.device.as_ref()).await? {
            if filter.slot.as_ref().is_some_and(|slot| *slot != totals.slot)
                || filter.digest.is_some_and(|digest| digest != totals.digest)
            {
                continue;
            }
            let (model, version) = named.get(&totals.digest).cloned().unzip();
            let quantile = |q| latency_quantile_us(&totals.latency, q);
            found.push(TelemetryView {
                device,
                version: VersionRef { model, version, digest: totals.digest },
                ok: totals.ok,
                errors: totals.errors,
                rejected: totals.rejected,
                p50_us: quantile(0.5),
                p95_us: quantile(0.95),
                p99_us: quantile(0.99),
                queue_peak: totals.queue_peak,
                updated_at,
                slot: totals.slot,
            });
        }
        Ok(found)
    }
}

fn unknown(device: &DeviceId) -> Error {
    Error::NotFound(format!("device {device}"))
}

fn unknown_group(group: &GroupName) -> Error {
    Error::NotFound(format!("group {group}"))
}
