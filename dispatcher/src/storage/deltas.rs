//! Which deltas have been computed, and which are not worth it.

use muster_proto::id::Digest;
use muster_proto::transfer::Delta;
use sqlx::Row as _;

use super::{Error, Storage, signed, unsigned};

/// The outcome of computing a delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaRecord {
    /// The file that serves as prefix.
    pub base: Digest,
    /// The file that it gives.
    pub want: Digest,
    /// The delta, or none where it is not worth sending.
    pub offer: Option<Delta>,
}

impl Storage {
    /// What is known of the delta from `base` to `want`.
    pub async fn delta(&self, base: Digest, want: Digest) -> Result<Option<DeltaRecord>, Error> {
        let failed = "find a delta";
        let row = sqlx::query("SELECT offer FROM deltas WHERE base = ? AND want = ?")
            .bind(base.to_string())
            .bind(want.to_string())
            .fetch_optional(&self.read)
            .await
            .map_err(self.failed(failed))?;
        let Some(row) = row else { return Ok(None) };
        let bytes: Option<Vec<u8>> = row.try_get(0).map_err(self.failed(failed))?;
        // A record that cannot be read is only a cache entry: compute again.
        let offer = match bytes.map(|bytes| postcard::from_bytes(&bytes)) {
            None => None,
            Some(Ok(offer)) => Some(offer),
            Some(Err(_)) => return Ok(None),
        };
        Ok(Some(DeltaRecord { base, want, offer }))
    }

    /// Remembers an outcome.
    pub async fn insert_delta(&self, delta: &DeltaRecord, now: u64) -> Result<(), Error> {
        let bytes = delta.offer.as_ref().map(|offer| postcard::to_stdvec(offer).expect("an offer is plain data"));
        sqlx::query(
            "INSERT OR REPLACE INTO deltas (base, want, digest, size, offer, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(delta.base.to_string())
        .bind(delta.want.to_string())
        .bind(delta.offer.as_ref().map(|offer| offer.digest.to_string()))
        .bind(signed(delta.offer.as_ref().map_or(0, |offer| offer.size)))
        .bind(bytes)
        .bind(signed(now))
        .execute(&self.write)
        .await
        .map(|_| ())
        .map_err(self.failed("store a delta"))
    }

    /// Forgets deltas from or to files that no version has any more, and the oldest beyond `max_bytes`; answers with
    /// the digests that are still in use.
    pub async fn prune_deltas(&self, max_bytes: u64) -> Result<Vec<Digest>, Error> {
        let failed = "prune deltas";
        sqlx::query(
            "DELETE FROM deltas WHERE base NOT IN (SELECT digest FROM files) OR want NOT IN (SELECT digest FROM files)",
        )
        .execute(&self.write)
        .await
        .map_err(self.failed(failed))?;
        let rows = sqlx::query(
            "SELECT base, want, digest, size FROM deltas WHERE digest IS NOT NULL ORDER BY created_at DESC, base, want",
        )
        .fetch_all(&self.read)
        .await
        .map_err(self.failed(failed))?;
        let (mut total, mut kept) = (0u64, Vec::new());
        for row in rows {
            let text = |column: usize| row.try_get::<String, _>(column).map_err(self.failed(failed));
            let size: i64 = row.try_get(3).map_err(self.failed(failed))?;
            total = total.saturating_add(unsigned(size));
            if total <= max_bytes {
                kept.extend(text(2)?.parse::<Digest>());
                continue;
            }
            sqlx::query("DELETE FROM deltas WHERE base = ? AND want = ?")
                .bind(text(0)?)
                .bind(text(1)?)
                .execute(&self.write)
                .await
                .map_err(self.failed(failed))?;
        }
        Ok(kept)
    }
}
