//! Devices, groups and rollouts: loaded whole at the start, then stored record by record.

use std::collections::BTreeSet;

use muster_proto::id::{DeviceId, Generation, GroupName, Workspace};
use sqlx::SqliteConnection;

use super::{Error, Storage, encode, signed};
use crate::domain::{Device, Effect, Fleet, Group, Progress, Rollout, RolloutId};

/// One record that is to be stored or deleted.
#[derive(Debug, Clone)]
pub enum Change {
    /// The generation that new devices begin above.
    Floor(Generation),
    /// A group.
    Group(Group),
    /// No group of this name.
    NoGroup(GroupName),
    /// A device.
    Device(Box<Device>),
    /// No device of this name, nor its part in anything.
    NoDevice(DeviceId),
    /// A rollout, without its devices.
    Rollout(Box<Rollout>),
    /// No rollout of this number, nor any part in it.
    NoRollout(RolloutId),
    /// A device's part in a rollout.
    Progress(RolloutId, DeviceId, Box<Progress>),
}

impl Change {
    /// What `effects` ask to be made durable, as the fleet has it now, each record once and in an order that keeps
    /// references whole.
    pub fn of(fleet: &Fleet, effects: &[Effect]) -> Vec<Change> {
        let (mut floor, mut groups, mut devices) = (None, BTreeSet::new(), BTreeSet::new());
        let (mut rollouts, mut parts) = (BTreeSet::new(), BTreeSet::new());
        for effect in effects {
            match effect {
                Effect::SaveFloor(generation) => floor = floor.max(Some(*generation)),
                Effect::SaveGroup(name) | Effect::DeleteGroup(name) => {
                    groups.insert(name);
                }
                Effect::SaveDevice(id) | Effect::DeleteDevice(id) => {
                    devices.insert(id);
                }
                Effect::SaveRollout(id) | Effect::DeleteRollout(id) => {
                    rollouts.insert(*id);
                }
                Effect::SaveProgress { rollout, device } => {
                    parts.insert((*rollout, device));
                }
                Effect::PublishDesired { .. } | Effect::ClearDesired(_) | Effect::Ack { .. } | Effect::Notify(_) => {}
            }
        }
        let group = |name: &GroupName| match fleet.groups.get(name) {
            Some(group) => Change::Group(group.clone()),
            None => Change::NoGroup(name.clone()),
        };
        let device = |id: &DeviceId| match fleet.devices.get(id) {
            Some(device) => Change::Device(Box::new(device.clone())),
            None => Change::NoDevice(id.clone()),
        };
        let rollout = |id: RolloutId| match fleet.rollouts.get(&id) {
            Some(rollout) => Change::Rollout(Box::new(Rollout { devices: Default::default(), ..rollout.clone() })),
            None => Change::NoRollout(id),
        };
        let part = |(id, device): (RolloutId, &DeviceId)| {
            let progress = fleet.rollouts.get(&id)?.devices.get(device)?;
            Some(Change::Progress(id, device.clone(), Box::new(progress.clone())))
        };
        floor
            .map(Change::Floor)
            .into_iter()
            .chain(groups.into_iter().map(group))
            .chain(devices.into_iter().map(device))
            .chain(rollouts.into_iter().map(rollout))
            .chain(parts.into_iter().filter_map(part))
            .collect()
    }
}

impl Storage {
    /// Makes all of `changes` durable, or none.
    pub async fn persist(&self, changes: &[Change]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut transaction = self.write.begin().await.map_err(self.failed("begin"))?;
        for change in changes {
            apply(&mut transaction, change).await.map_err(self.failed("store the fleet"))?;
        }
        transaction.commit().await.map_err(self.failed("commit the fleet"))
    }

    /// The whole fleet; nobody is known to be connected.
    pub async fn load_fleet(&self, workspace: Workspace, now: u64) -> Result<Fleet, Error> {
        let mut fleet = Fleet::new(workspace, now);
        let floor: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'floor'")
            .fetch_optional(&self.read)
            .await
            .map_err(self.failed("read"))?;
        fleet.floor = Generation(floor.and_then(|text| text.parse().ok()).unwrap_or(0));
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT name, record FROM groups")
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read groups"))?;
        for (name, record) in rows {
            let group: Group = self.decode(|| format!("group {name}"), &record)?;
            fleet.groups.insert(group.name.clone(), group);
        }
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT id, record FROM devices")
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read devices"))?;
        for (id, record) in rows {
            let device: Device = self.decode(|| format!("device {id}"), &record)?;
            fleet.devices.insert(device.id.clone(), device);
        }
        let rows: Vec<(i64, String)> = sqlx::query_as("SELECT id, record FROM rollouts")
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read rollouts"))?;
        for (id, record) in rows {
            let rollout: Rollout = self.decode(|| format!("rollout r{id}"), &record)?;
            fleet.rollouts.insert(rollout.id, rollout);
        }
        let rows: Vec<(i64, String, String)> = sqlx::query_as("SELECT rollout, device, record FROM rollout_devices")
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read rollouts"))?;
        for (rollout, device, record) in rows {
            let progress: Progress = self.decode(|| format!("device {device} of rollout r{rollout}"), &record)?;
            let id = RolloutId(rollout as u64);
            if let (Some(rollout), Ok(device)) = (fleet.rollouts.get_mut(&id), device.parse()) {
                rollout.devices.insert(device, progress);
            }
        }
        Ok(fleet)
    }
}

async fn apply(connection: &mut SqliteConnection, change: &Change) -> Result<(), sqlx::Error> {
    let query = match change {
        Change::Floor(generation) => {
            sqlx::query("INSERT INTO meta VALUES ('floor', ?) ON CONFLICT DO UPDATE SET value = excluded.value")
                .bind(generation.to_string())
        }
        Change::Group(group) => {
            sqlx::query("INSERT INTO groups VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record")
                .bind(group.name.to_string())
                .bind(encode(group))
        }
        Change::NoGroup(name) => sqlx::query("DELETE FROM groups WHERE name = ?").bind(name.to_string()),
        Change::Device(device) => {
            sqlx::query("INSERT INTO devices VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record")
                .bind(device.id.to_string())
                .bind(encode(device))
        }
        Change::NoDevice(id) => sqlx::query("DELETE FROM devices WHERE id = ?").bind(id.to_string()),
        Change::Rollout(rollout) => {
            sqlx::query("INSERT INTO rollouts VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record")
                .bind(signed(rollout.id.0))
                .bind(encode(rollout))
        }
        Change::NoRollout(id) => sqlx::query("DELETE FROM rollouts WHERE id = ?").bind(signed(id.0)),
        Change::Progress(rollout, device, progress) => sqlx::query(
            "INSERT INTO rollout_devices VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET record = excluded.record",
        )
        .bind(signed(rollout.0))
        .bind(device.to_string())
        .bind(encode(progress)),
    };
    query.execute(connection).await.map(|_| ())
}
