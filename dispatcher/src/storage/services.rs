//! Services, each as one record.

use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use super::{Error, Storage, encode};
use crate::domain::service::{Revision, Service};

/// A service as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// What it is to be.
    pub service: Service,
    /// The version that answered before.
    pub before: Option<Revision>,
    /// When each of its keys was made, and how it begins: primary and secondary.
    pub keys: Vec<ServiceKey>,
    /// What declares it, where that is not an operator: `ModelService NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// It is being deleted, which takes as long as its cluster is away.
    #[serde(default, skip_serializing_if = "is_false")]
    pub leaving: bool,
    /// When it was made.
    pub created_at: u64,
    /// When it was last changed.
    pub updated_at: u64,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// What is kept of a key besides its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceKey {
    /// How it begins, to tell keys apart.
    pub prefix: String,
    /// When it was made.
    pub created_at: u64,
}

impl Storage {
    /// Every service, by name. One whose record cannot be read is an error: its keys would be lost silently.
    pub async fn services(&self) -> Result<Vec<ServiceRecord>, Error> {
        let failed = "read services";
        let rows = sqlx::query("SELECT name, record FROM services ORDER BY name").fetch_all(&self.read).await;
        let rows = rows.map_err(self.failed(failed))?;
        rows.iter()
            .map(|row| {
                let text: String = row.try_get(1).map_err(self.failed(failed))?;
                self.decode(|| format!("service {}", row.get::<String, _>(0)), &text)
            })
            .collect()
    }

    /// Stores a service; false where there is one of that name already.
    pub async fn insert_service(&self, record: &ServiceRecord) -> Result<bool, Error> {
        let done = sqlx::query("INSERT INTO services (name, record) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(&record.service.name)
            .bind(encode(record))
            .execute(&self.write)
            .await;
        done.map(|done| done.rows_affected() > 0).map_err(self.failed("store a service"))
    }

    /// Stores what a service is to be from now on.
    pub async fn update_service(&self, record: &ServiceRecord) -> Result<(), Error> {
        let done = sqlx::query("UPDATE services SET record = ? WHERE name = ?")
            .bind(encode(record))
            .bind(&record.service.name)
            .execute(&self.write)
            .await;
        done.map(|_| ()).map_err(self.failed("store a service"))
    }

    /// Forgets a service.
    pub async fn delete_service(&self, name: &str) -> Result<(), Error> {
        let done = sqlx::query("DELETE FROM services WHERE name = ?").bind(name).execute(&self.write).await;
        done.map(|_| ()).map_err(self.failed("delete a service"))
    }
}
