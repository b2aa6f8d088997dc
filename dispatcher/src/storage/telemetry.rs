//! Telemetry totals: one row per device, slot and version, and one per device.

use muster_proto::id::{DeviceId, Digest, SlotName};

use super::{Error, Storage, encode, signed, unsigned};
use crate::domain::telemetry::{DeviceTelemetry, Totals};

/// How many versions of a slot keep their totals; the longest unheard go first (invariant 10).
const VERSIONS_PER_SLOT: i64 = 8;

impl Storage {
    /// What is known of a device's telemetry.
    pub async fn device_telemetry(&self, device: &DeviceId) -> Result<Option<DeviceTelemetry>, Error> {
        let record: Option<String> = sqlx::query_scalar("SELECT record FROM telemetry_devices WHERE device = ?")
            .bind(device.as_str())
            .fetch_optional(&self.read)
            .await
            .map_err(self.failed("read telemetry"))?;
        record.map(|text| self.decode(|| format!("telemetry of {device}"), &text)).transpose()
    }

    /// The totals of one version in one slot.
    pub async fn totals(&self, device: &DeviceId, slot: &SlotName, digest: Digest) -> Result<Option<Totals>, Error> {
        let record: Option<String> =
            sqlx::query_scalar("SELECT record FROM telemetry WHERE device = ? AND slot = ? AND digest = ?")
                .bind(device.as_str())
                .bind(slot.as_str())
                .bind(digest.to_string())
                .fetch_optional(&self.read)
                .await
                .map_err(self.failed("read telemetry"))?;
        record.map(|text| self.decode(|| format!("telemetry of {device}"), &text)).transpose()
    }

    /// Stores devices' telemetry with the totals that go with it, all or nothing. Devices that are no more are passed
    /// over.
    pub async fn store_telemetry(
        &self,
        devices: &[(DeviceId, DeviceTelemetry, Vec<Totals>)],
        now: u64,
    ) -> Result<(), Error> {
        let failed = "store telemetry";
        let mut transaction = self.write.begin().await.map_err(self.failed(failed))?;
        for (device, telemetry, totals) in devices {
            let done = sqlx::query(
                "INSERT INTO telemetry_devices SELECT id, ? FROM devices WHERE id = ? \
                 ON CONFLICT DO UPDATE SET record = excluded.record",
            )
            .bind(encode(telemetry))
            .bind(device.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(failed))?;
            if done.rows_affected() == 0 {
                continue;
            }
            for total in totals {
                sqlx::query(
                    "INSERT INTO telemetry VALUES (?, ?, ?, ?, ?) \
                     ON CONFLICT DO UPDATE SET record = excluded.record, updated_at = excluded.updated_at",
                )
                .bind(device.as_str())
                .bind(total.slot.as_str())
                .bind(total.digest.to_string())
                .bind(encode(total))
                .bind(signed(now))
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(failed))?;
                sqlx::query(
                    "DELETE FROM telemetry WHERE device = ?1 AND slot = ?2 AND digest NOT IN \
                     (SELECT digest FROM telemetry WHERE device = ?1 AND slot = ?2 ORDER BY updated_at DESC LIMIT ?3)",
                )
                .bind(device.as_str())
                .bind(total.slot.as_str())
                .bind(VERSIONS_PER_SLOT)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(failed))?;
            }
        }
        transaction.commit().await.map_err(self.failed(failed))
    }

    /// Totals with their device and the time of the last window, of one device or of all.
    pub async fn telemetry(&self, device: Option<&DeviceId>) -> Result<Vec<(DeviceId, Totals, u64)>, Error> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT device, record, updated_at FROM telemetry WHERE ?1 IS NULL OR device = ?1 ORDER BY device, slot, digest",
        )
        .bind(device.map(DeviceId::as_str))
        .fetch_all(&self.read)
        .await
        .map_err(self.failed("read telemetry"))?;
        let mut found = Vec::with_capacity(rows.len());
        for (device, record, updated_at) in rows {
            let totals = self.decode(|| format!("telemetry of {device}"), &record)?;
            if let Ok(device) = device.parse() {
                found.push((device, totals, unsigned(updated_at)));
            }
        }
        Ok(found)
    }
}
