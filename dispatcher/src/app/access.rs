//! API keys and the audit log.

use muster_proto::id::Digest;

use super::view::{AuditEntry, CreatedKey, KeyRequest, KeyView, Principal, Role};
use super::{App, Error, Result, random_id, random_text};
use crate::storage::KeyRecord;

/// Begins every API key, so that scanners for leaked secrets can find one.
const PREFIX: &str = "muster_";
const MAX_KEYS: usize = 1000;
const MAX_NAME_BYTES: usize = 100;
const MAX_AUDIT_PAGE: u32 = 1000;
/// The name of the key that the first start makes.
const FIRST_KEY: &str = "admin";

impl App {
    /// Makes an API key.
    pub async fn create_key(&self, request: KeyRequest, by: &Principal) -> Result<CreatedKey> {
        let KeyRequest { name, role, ttl_seconds } = request;
        if name.trim().is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
            return Err(Error::BadRequest(format!("the name has to have 1 to {MAX_NAME_BYTES} printable bytes")));
        }
        if ttl_seconds == Some(0) {
            return Err(Error::BadRequest("ttl_seconds has to be at least 1".into()));
        }
        if self.0.storage.keys().await?.len() >= MAX_KEYS {
            return Err(Error::conflict(format!("there are {MAX_KEYS} keys: delete some first")));
        }
        let now = crate::now();
        let token = format!("{PREFIX}{}", random_text::<32>()?);
        let record = KeyRecord {
            id: random_id()?,
            name,
            role: role.to_string(),
            created_at: now,
            expires_at: ttl_seconds.map_or(0, |ttl| now.saturating_add(ttl)),
        };
        self.0.storage.insert_key(&record, Digest::of(token.as_bytes())).await?;
        self.record(by, "key.create", &record.id, &format!("{} ({role})", record.name)).await;
        Ok(CreatedKey { key: view(record)?, token })
    }

    /// Every API key, without secrets.
    pub async fn list_keys(&self) -> Result<Vec<KeyView>> {
        self.0.storage.keys().await?.into_iter().map(view).collect()
    }

    /// Deletes an API key; refused for the last administrator.
    pub async fn delete_key(&self, id: &str, by: &Principal) -> Result<()> {
        let keys = self.list_keys().await?;
        let key = keys.iter().find(|key| key.id == id).ok_or_else(|| Error::NotFound(format!("key {id}")))?;
        let lasting = |key: &&KeyView| key.role == Role::Admin && key.expires_at == 0;
        if lasting(&key) && keys.iter().filter(lasting).count() == 1 {
            let message = "this is the last administrator's key: make another one first, or nobody could make keys";
            return Err(Error::conflict(message));
        }
        self.0.storage.delete_key(id).await?;
        self.record(by, "key.delete", id, &key.name).await;
        Ok(())
    }

    /// Whom a bearer token belongs to; none where it is wrong or expired.
    pub async fn authenticate(&self, token: &str) -> Result<Option<Principal>> {
        // What is stored is the hash of 256 random bits: finding it tells nothing by its timing.
        let Some(key) = self.0.storage.key(Digest::of(token.as_bytes())).await? else { return Ok(None) };
        if key.expires_at != 0 && key.expires_at <= crate::now() {
            return Ok(None);
        }
        let key = view(key)?;
        Ok(Some(Principal { name: key.name, role: key.role }))
    }

    /// Makes the first administrator's key where there is no key at all.
    pub(crate) async fn ensure_first_key(&self) -> Result<Option<String>> {
        if !self.0.storage.keys().await?.is_empty() {
            return Ok(None);
        }
        let request = KeyRequest { name: FIRST_KEY.into(), role: Role::Admin, ttl_seconds: None };
        Ok(Some(self.create_key(request, &Principal::system()).await?.token))
    }

    /// The newest `limit` lines of the audit log before number `before`, newest first; at most 1000.
    pub async fn audit(&self, before: Option<u64>, limit: u32) -> Result<Vec<AuditEntry>> {
        Ok(self.0.storage.audit(before, limit.min(MAX_AUDIT_PAGE)).await?)
    }
}

fn view(key: KeyRecord) -> Result<KeyView> {
    let role = key.role.parse().map_err(|e: String| Error::internal("a key's record", e))?;
    Ok(KeyView { id: key.id, name: key.name, role, created_at: key.created_at, expires_at: key.expires_at })
}
