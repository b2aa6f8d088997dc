//! Devices, groups and rollouts: loaded whole at the start, then stored record by record.

use std::collections::BTreeSet;

use muster_proto::id::{DeviceId, Digest, Generation, GroupName, Workspace};
use sqlx::SqliteConnection;

use super::{Error, Storage, encode, signed};
use crate::domain::rollout::Decision;
use crate::domain::{Denied, Device, Effect, Fleet, Group, Part, Rollout, RolloutId};

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
    Part(RolloutId, DeviceId, Box<Part>),
    /// A version that is not to be offered, or may be again.
    Denied(Digest, Option<Box<Denied>>),
    /// A line in the audit log.
    Decision(RolloutId, Box<Decision>),
}

/// The right to change the fleet. Whoever takes it later makes all earlier ones void, so that a process that lost it
/// without noticing cannot write over what its successor decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence(u64);

impl Change {
    /// What `effects` ask to be made durable, as the fleet has it now, each record once and in an order that keeps
    /// references whole.
    pub fn of(fleet: &Fleet, effects: &[Effect]) -> Vec<Change> {
        let (mut floor, mut groups, mut devices) = (None, BTreeSet::new(), BTreeSet::new());
        let (mut rollouts, mut parts) = (BTreeSet::new(), BTreeSet::new());
        let (mut denied, mut decisions) = (BTreeSet::new(), Vec::new());
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
                Effect::SaveDenied(digest) => {
                    denied.insert(*digest);
                }
                Effect::Record { rollout, decision } => {
                    decisions.push(Change::Decision(*rollout, Box::new(decision.clone())));
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
            Some(rollout) => Change::Rollout(Box::new(rollout.without_parts())),
            None => Change::NoRollout(id),
        };
        let part = |(id, device): (RolloutId, &DeviceId)| {
            let part = fleet.rollouts.get(&id)?.parts.get(device)?;
            Some(Change::Part(id, device.clone(), Box::new(part.clone())))
        };
        let denied = denied
            .into_iter()
            .map(|digest| Change::Denied(digest, fleet.denied.get(&digest).map(|denied| Box::new(denied.clone()))));
        floor
            .map(Change::Floor)
            .into_iter()
            .chain(groups.into_iter().map(group))
            .chain(devices.into_iter().map(device))
            .chain(rollouts.into_iter().map(rollout))
            .chain(parts.into_iter().filter_map(part))
            .chain(denied)
            .chain(decisions)
            .collect()
    }
}

impl Storage {
    /// Takes the right to change the fleet; earlier ones are void from now on.
    pub async fn take_fence(&self) -> Result<Fence, Error> {
        let sql = "INSERT INTO meta VALUES ('fence', '1')
             ON CONFLICT DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) RETURNING value";
        let token: String =
            sqlx::query_scalar(sql).fetch_one(&self.write).await.map_err(self.failed("take the fence"))?;
        Ok(Fence(token.parse().unwrap_or(0)))
    }

    /// Makes all of `changes` durable, or none; none if somebody else has taken the right to change the fleet.
    pub async fn persist(&self, fence: Fence, changes: &[Change]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut transaction = self.write.begin().await.map_err(self.failed("begin"))?;
        let held: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'fence'")
            .fetch_optional(&mut *transaction)
            .await
            .map_err(self.failed("read the fence"))?;
        if held.and_then(|held| held.parse().ok()) != Some(fence.0) {
            return Err(Error::Fenced);
        }
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
        let rows: Vec<(i64, String, String)> = sqlx::query_as("SELECT rollout, device, record FROM parts")
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read rollouts"))?;
        for (rollout, device, record) in rows {
            let part: Part = self.decode(|| format!("device {device} of rollout r{rollout}"), &record)?;
            let id = RolloutId(rollout as u64);
            if let (Some(rollout), Ok(device)) = (fleet.rollouts.get_mut(&id), device.parse()) {
                rollout.parts.insert(device, part);
            }
        }
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT digest, record FROM denied")
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read the deny list"))?;
        for (digest, record) in rows {
            let denied: Denied = self.decode(|| format!("denied version {digest}"), &record)?;
            if let Ok(digest) = digest.parse() {
                fleet.denied.insert(digest, denied);
            }
        }
        fleet.wake(now);
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
        Change::Part(rollout, device, part) => {
            sqlx::query("INSERT INTO parts VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET record = excluded.record")
                .bind(signed(rollout.0))
                .bind(device.to_string())
                .bind(encode(part))
        }
        Change::Denied(digest, Some(denied)) => {
            sqlx::query("INSERT INTO denied VALUES (?, ?) ON CONFLICT DO UPDATE SET record = excluded.record")
                .bind(digest.to_string())
                .bind(encode(denied))
        }
        Change::Denied(digest, None) => sqlx::query("DELETE FROM denied WHERE digest = ?").bind(digest.to_string()),
        Change::Decision(rollout, decision) => {
            sqlx::query("INSERT INTO audit (at, actor, action, subject, detail) VALUES (?, ?, ?, ?, ?)")
                .bind(signed(decision.at))
                .bind("muster")
                .bind("rollout.decide")
                .bind(rollout.to_string())
                .bind(decision.in_words())
        }
    };
    query.execute(connection).await.map(|_| ())
}
