//! Models, their versions, files and tags.

use std::collections::BTreeMap;

use muster_proto::id::{Digest, ModelName, Version};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Error, Storage, signed, unsigned};

/// A version as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionRecord {
    /// The model.
    pub model: ModelName,
    /// The version.
    pub version: Version,
    /// The digest of the manifest.
    pub digest: Digest,
    /// What makes two registrations the same.
    pub content: Digest,
    /// What a list shows, as JSON.
    pub summary: String,
    /// The tags.
    pub tags: BTreeMap<String, String>,
}

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Its place in the bundle.
    pub path: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The digest of its blob.
    pub blob: Digest,
    /// The size of its blob in bytes.
    pub blob_size: u64,
}

/// What a model has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelRecord {
    /// The last number ever given.
    pub last_version: u64,
    /// Its versions with what makes their content.
    pub versions: Vec<(Version, Digest)>,
}

impl Storage {
    /// What is known of a model; nothing of one that never was.
    pub async fn model(&self, model: &ModelName) -> Result<ModelRecord, Error> {
        let last: Option<i64> = sqlx::query_scalar("SELECT last_version FROM models WHERE name = ?")
            .bind(model.as_str())
            .fetch_optional(&self.read)
            .await
            .map_err(self.failed("read a model"))?;
        let rows = sqlx::query("SELECT version, content FROM versions WHERE model = ? ORDER BY version")
            .bind(model.as_str())
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read a model"))?;
        let versions = rows.iter().map(|row| Ok((Version(unsigned(row.try_get(0)?)), digest(row, 1)?)));
        let versions = versions.collect::<Result<_, sqlx::Error>>().map_err(self.failed("read a model"))?;
        Ok(ModelRecord { last_version: unsigned(last.unwrap_or(0)), versions })
    }

    /// Uses up a version's number, so that it is never given again.
    pub async fn use_up_version(&self, model: &ModelName, version: Version) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO models VALUES (?, ?) ON CONFLICT DO UPDATE SET last_version = max(last_version, excluded.last_version)",
        )
        .bind(model.as_str())
        .bind(signed(version.0))
        .execute(&self.write)
        .await
        .map(|_| ())
        .map_err(self.failed("store a version's number"))
    }

    /// Stores a version with its files and tags, whole.
    pub async fn insert_version(
        &self,
        version: &VersionRecord,
        manifest: &[u8],
        files: &[FileRecord],
    ) -> Result<(), Error> {
        let failed = "store a version";
        let mut transaction = self.write.begin().await.map_err(self.failed(failed))?;
        sqlx::query(
            "INSERT INTO models VALUES (?, ?) ON CONFLICT DO UPDATE SET last_version = max(last_version, excluded.last_version)",
        )
        .bind(version.model.as_str())
        .bind(signed(version.version.0))
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(failed))?;
        sqlx::query("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?)")
            .bind(version.model.as_str())
            .bind(signed(version.version.0))
            .bind(version.digest.to_string())
            .bind(version.content.to_string())
            .bind(&version.summary)
            .bind(manifest)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(failed))?;
        for file in files {
            sqlx::query("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)")
                .bind(version.model.as_str())
                .bind(signed(version.version.0))
                .bind(&file.path)
                .bind(file.digest.to_string())
                .bind(signed(file.size))
                .bind(file.blob.to_string())
                .bind(signed(file.blob_size))
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(failed))?;
        }
        for (key, value) in &version.tags {
            sqlx::query("INSERT INTO tags VALUES (?, ?, ?, ?)")
                .bind(version.model.as_str())
                .bind(signed(version.version.0))
                .bind(key)
                .bind(value)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(failed))?;
        }
        transaction.commit().await.map_err(self.failed(failed))
    }

    /// Every version, by name and number.
    pub async fn versions(&self) -> Result<Vec<VersionRecord>, Error> {
        let failed = "read versions";
        let rows = sqlx::query("SELECT model, version, digest, content, summary FROM versions ORDER BY model, version")
            .fetch_all(&self.read)
            .await
            .map_err(self.failed(failed))?;
        let tags = sqlx::query_as("SELECT model, version, key, value FROM tags").fetch_all(&self.read).await;
        let tags: Vec<(String, i64, String, String)> = tags.map_err(self.failed(failed))?;
        let mut by_version: BTreeMap<(String, i64), BTreeMap<String, String>> = BTreeMap::new();
        for (model, version, key, value) in tags {
            by_version.entry((model, version)).or_default().insert(key, value);
        }
        let read = |row: &SqliteRow| {
            let key = (row.try_get::<String, _>(0)?, row.try_get(1)?);
            version(row, by_version.remove(&key).unwrap_or_default())
        };
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(self.failed(failed))
    }

    /// One version.
    pub async fn version(&self, model: &ModelName, number: Version) -> Result<Option<VersionRecord>, Error> {
        let failed = "read a version";
        let row = sqlx::query(
            "SELECT model, version, digest, content, summary FROM versions WHERE model = ? AND version = ?",
        )
        .bind(model.as_str())
        .bind(signed(number.0))
        .fetch_optional(&self.read)
        .await
        .map_err(self.failed(failed))?;
        let Some(row) = row else { return Ok(None) };
        let tags = self.tags(model, number).await?;
        version(&row, tags).map(Some).map_err(self.failed(failed))
    }

    /// The name and number of the version with this manifest.
    pub async fn version_of_manifest(&self, manifest: Digest) -> Result<Option<(ModelName, Version)>, Error> {
        let row = sqlx::query("SELECT model, version FROM versions WHERE digest = ?")
            .bind(manifest.to_string())
            .fetch_optional(&self.read)
            .await
            .map_err(self.failed("find a version"))?;
        let Some(row) = row else { return Ok(None) };
        let parse = || Ok((parsed(&row, 0)?, Version(unsigned(row.try_get(1)?))));
        parse().map(Some).map_err(self.failed("find a version"))
    }

    /// The bytes of a version's manifest.
    pub async fn manifest(&self, model: &ModelName, version: Version) -> Result<Option<Vec<u8>>, Error> {
        sqlx::query_scalar("SELECT manifest FROM versions WHERE model = ? AND version = ?")
            .bind(model.as_str())
            .bind(signed(version.0))
            .fetch_optional(&self.read)
            .await
            .map_err(self.failed("read a manifest"))
    }

    /// A file of any version, by the digest of its bytes.
    pub async fn file(&self, digest: Digest) -> Result<Option<FileRecord>, Error> {
        let row = sqlx::query("SELECT path, digest, size, blob, blob_size FROM files WHERE digest = ? LIMIT 1")
            .bind(digest.to_string())
            .fetch_optional(&self.read)
            .await
            .map_err(self.failed("find a file"))?;
        row.map(|row| file(&row)).transpose().map_err(self.failed("find a file"))
    }

    /// Every file of every version: what may not be cleared away.
    pub async fn files(&self) -> Result<Vec<FileRecord>, Error> {
        let rows = sqlx::query("SELECT path, digest, size, blob, blob_size FROM files")
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read files"))?;
        rows.iter().map(file).collect::<Result<_, sqlx::Error>>().map_err(self.failed("read files"))
    }

    /// A version's tags.
    pub async fn tags(&self, model: &ModelName, version: Version) -> Result<BTreeMap<String, String>, Error> {
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT key, value FROM tags WHERE model = ? AND version = ?")
            .bind(model.as_str())
            .bind(signed(version.0))
            .fetch_all(&self.read)
            .await
            .map_err(self.failed("read tags"))?;
        Ok(rows.into_iter().collect())
    }

    /// Replaces a version's tags.
    pub async fn set_tags(
        &self,
        model: &ModelName,
        version: Version,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let failed = "store tags";
        let mut transaction = self.write.begin().await.map_err(self.failed(failed))?;
        sqlx::query("DELETE FROM tags WHERE model = ? AND version = ?")
            .bind(model.as_str())
            .bind(signed(version.0))
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(failed))?;
        for (key, value) in tags {
            sqlx::query("INSERT INTO tags VALUES (?, ?, ?, ?)")
                .bind(model.as_str())
                .bind(signed(version.0))
                .bind(key)
                .bind(value)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(failed))?;
        }
        transaction.commit().await.map_err(self.failed(failed))
    }

    /// Deletes a version; its number stays used. Whether there was one.
    pub async fn delete_version(&self, model: &ModelName, version: Version) -> Result<bool, Error> {
        let done = sqlx::query("DELETE FROM versions WHERE model = ? AND version = ?")
            .bind(model.as_str())
            .bind(signed(version.0))
            .execute(&self.write)
            .await
            .map_err(self.failed("delete a version"))?;
        Ok(done.rows_affected() > 0)
    }
}

fn version(row: &SqliteRow, tags: BTreeMap<String, String>) -> Result<VersionRecord, sqlx::Error> {
    Ok(VersionRecord {
        model: parsed(row, 0)?,
        version: Version(unsigned(row.try_get(1)?)),
        digest: digest(row, 2)?,
        content: digest(row, 3)?,
        summary: row.try_get(4)?,
        tags,
    })
}

fn file(row: &SqliteRow) -> Result<FileRecord, sqlx::Error> {
    Ok(FileRecord {
        path: row.try_get(0)?,
        digest: digest(row, 1)?,
        size: unsigned(row.try_get(2)?),
        blob: digest(row, 3)?,
        blob_size: unsigned(row.try_get(4)?),
    })
}

fn digest(row: &SqliteRow, column: usize) -> Result<Digest, sqlx::Error> {
    parsed(row, column)
}

fn parsed<T>(row: &SqliteRow, column: usize) -> Result<T, sqlx::Error>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.try_get::<String, _>(column)?.parse().map_err(|e: T::Err| sqlx::Error::Decode(Box::new(e)))
}
