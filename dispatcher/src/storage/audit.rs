//! The audit log: who did what to what, when.

use sqlx::Row as _;

use super::{Error, Storage, signed, unsigned};
use crate::app::view::AuditEntry;

/// The most lines that are kept; the oldest go first (invariant 10).
const MAX_ENTRIES: i64 = 100_000;

impl Storage {
    /// Adds a line.
    pub async fn add_audit(
        &self,
        at: u64,
        actor: &str,
        action: &str,
        subject: &str,
        detail: &str,
    ) -> Result<(), Error> {
        let done = sqlx::query("INSERT INTO audit (at, actor, action, subject, detail) VALUES (?, ?, ?, ?, ?)")
            .bind(signed(at))
            .bind(actor)
            .bind(action)
            .bind(subject)
            .bind(detail)
            .execute(&self.write)
            .await
            .map_err(self.failed("write the audit log"))?;
        let newest = done.last_insert_rowid();
        // Not each time: a delete of one row costs as much as the insert.
        if newest % 256 == 0 {
            sqlx::query("DELETE FROM audit WHERE seq <= ?")
                .bind(newest - MAX_ENTRIES)
                .execute(&self.write)
                .await
                .map_err(self.failed("shorten the audit log"))?;
        }
        Ok(())
    }

    /// The newest `limit` lines before number `before`, newest first.
    pub async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>, Error> {
        let failed = "read the audit log";
        let rows = sqlx::query(
            "SELECT seq, at, actor, action, subject, detail FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?",
        )
        .bind(before.map_or(i64::MAX, signed))
        .bind(i64::from(limit))
        .fetch_all(&self.read)
        .await
        .map_err(self.failed(failed))?;
        let entry = |row: &sqlx::sqlite::SqliteRow| {
            Ok(AuditEntry {
                seq: unsigned(row.try_get(0)?),
                at: unsigned(row.try_get(1)?),
                actor: row.try_get(2)?,
                action: row.try_get(3)?,
                subject: row.try_get(4)?,
                detail: row.try_get(5)?,
            })
        };
        rows.iter().map(entry).collect::<Result<_, sqlx::Error>>().map_err(self.failed(failed))
    }
}
