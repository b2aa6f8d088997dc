//! API keys and enrolment tokens. Only hashes are stored: who reads the database can let nobody in.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::id::{Digest, GroupName};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Error, Storage, encode, signed, unsigned};

/// An API key. The secret has 256 random bits, so that one round of SHA-256 is hash enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its role, as text.
    pub role: String,
    /// When it was made.
    pub created_at: u64,
    /// Until when it is good; 0 for ever.
    pub expires_at: u64,
}

/// An enrolment token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrollGrant {
    /// Its id.
    pub id: String,
    /// The groups that a device joins.
    pub groups: BTreeSet<GroupName>,
    /// The labels that a device gets.
    pub labels: BTreeMap<String, String>,
    /// Until when it is good.
    pub expires_at: u64,
    /// How many devices may still use it.
    pub uses_left: u32,
}

impl Storage {
    /// Stores a key under the hash of its secret.
    pub async fn insert_key(&self, key: &KeyRecord, hash: Digest) -> Result<(), Error> {
        sqlx::query("INSERT INTO api_keys (id, hash, name, role, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(&key.id)
            .bind(&hash.0[..])
            .bind(&key.name)
            .bind(&key.role)
            .bind(signed(key.created_at))
            .bind(signed(key.expires_at))
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(self.failed("store a key"))
    }

    /// The key with this hash, expired or not.
    pub async fn key(&self, hash: Digest) -> Result<Option<KeyRecord>, Error> {
        let row = sqlx::query("SELECT id, name, role, created_at, expires_at FROM api_keys WHERE hash = ?")
            .bind(&hash.0[..])
            .fetch_optional(&self.read)
            .await
            .map_err(self.failed("find a key"))?;
        row.map(|row| key(&row)).transpose().map_err(self.failed("find a key"))
    }

    /// Every key, oldest first.
    pub async fn keys(&self) -> Result<Vec<KeyRecord>, Error> {
        let rows = sqlx::query("SELECT id, name, role, created_at, expires_at FROM api_keys ORDER BY created_at, id")
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read keys"))?;
        rows.iter().map(key).collect::<Result<_, sqlx::Error>>().map_err(self.failed("read keys"))
    }

    /// Deletes a key. Whether there was one.
    pub async fn delete_key(&self, id: &str) -> Result<bool, Error> {
        let done = sqlx::query("DELETE FROM api_keys WHERE id = ?").bind(id).execute(&self.write).await;
        done.map(|done| done.rows_affected() > 0).map_err(self.failed("delete a key"))
    }

    /// Stores an enrolment token under the hash of its secret, and clears expired ones away.
    pub async fn insert_grant(&self, grant: &EnrollGrant, hash: Digest, now: u64) -> Result<(), Error> {
        let failed = "store an enrolment token";
        // A day's grace: whoever comes late shall read "expired", not "unknown".
        sqlx::query("DELETE FROM enroll_tokens WHERE expires_at + 86400 < ?")
            .bind(signed(now))
            .execute(&self.write)
            .await
            .map_err(self.failed(failed))?;
        sqlx::query(
            "INSERT INTO enroll_tokens (id, hash, groups, labels, expires_at, uses_left) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(&grant.id)
        .bind(&hash.0[..])
        .bind(encode(&grant.groups))
        .bind(encode(&grant.labels))
        .bind(signed(grant.expires_at))
        .bind(i64::from(grant.uses_left))
        .execute(&self.write)
        .await
        .map(|_| ())
        .map_err(self.failed(failed))
    }

    /// How many enrolment tokens there are.
    pub async fn count_grants(&self) -> Result<u64, Error> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM enroll_tokens")
            .fetch_one(&self.read)
            .await
            .map_err(self.failed("count enrolment tokens"))?;
        Ok(unsigned(count))
    }

    /// The enrolment token with this hash, used up or not.
    pub async fn grant(&self, hash: Digest) -> Result<Option<EnrollGrant>, Error> {
        let failed = "find an enrolment token";
        let row = sqlx::query("SELECT id, groups, labels, expires_at, uses_left FROM enroll_tokens WHERE hash = ?")
            .bind(&hash.0[..])
            .fetch_optional(&self.read)
            .await
            .map_err(self.failed(failed))?;
        let Some(row) = row else { return Ok(None) };
        let get = |column: usize| row.try_get::<String, _>(column).map_err(self.failed(failed));
        let number = |column: usize| row.try_get::<i64, _>(column).map_err(self.failed(failed));
        let id = get(0)?;
        let what = || format!("enrolment token {id}");
        Ok(Some(EnrollGrant {
            groups: self.decode(what, &get(1)?)?,
            labels: self.decode(what, &get(2)?)?,
            expires_at: unsigned(number(3)?),
            uses_left: number(4)?.try_into().unwrap_or(0),
            id,
        }))
    }

    /// Takes one use of a token, if it has one left and is good at `now`.
    pub async fn use_grant(&self, id: &str, now: u64) -> Result<bool, Error> {
        let done = sqlx::query(
            "UPDATE enroll_tokens SET uses_left = uses_left - 1 WHERE id = ? AND uses_left > 0 AND expires_at > ?",
        )
        .bind(id)
        .bind(signed(now))
        .execute(&self.write)
        .await
        .map_err(self.failed("use an enrolment token"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Gives a use back that came to nothing.
    pub async fn return_grant(&self, id: &str) -> Result<(), Error> {
        sqlx::query("UPDATE enroll_tokens SET uses_left = uses_left + 1 WHERE id = ?")
            .bind(id)
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(self.failed("give an enrolment token back"))
    }
}

fn key(row: &SqliteRow) -> Result<KeyRecord, sqlx::Error> {
    Ok(KeyRecord {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        role: row.try_get(2)?,
        created_at: unsigned(row.try_get(3)?),
        expires_at: unsigned(row.try_get(4)?),
    })
}
