//! The database: the only user of sqlx. It stores records and finds them; it must not know rules.
//!
//! SQLite in WAL mode, one writer and a few readers. What cannot be opened is left exactly as it is, and
//! the error names the file: a registry that was silently begun anew would orphan every device.

mod access;
mod audit;
mod deltas;
mod fleet;
mod models;
mod services;
mod telemetry;

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_proto::code::Code;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

pub use access::{EnrollGrant, KeyRecord};
pub use deltas::DeltaRecord;
pub use fleet::{Change, Fence};
pub use models::{FileRecord, ModelRecord, VersionRecord};
pub use services::{ServiceKey, ServiceRecord};

/// Schema changes in order; the database's `user_version` says how many it has had.
const MIGRATIONS: &[&str] = &[
    include_str!("storage/migrations/0001_first.sql"),
    include_str!("storage/migrations/0002_rollouts.sql"),
    include_str!("storage/migrations/0003_services.sql"),
];
/// Tells our files from other programs' SQLite databases: "mstr".
const APPLICATION_ID: i32 = 0x6d73_7472;
/// How long a statement waits for another process that has the database open, such as a backup.
const BUSY: Duration = Duration::from_secs(10);
const READERS: u32 = 3;

/// Why the database does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is no readable database; a retry cannot help.
    #[error(
        "{} is damaged or not a database ({reason}): restore it from a backup; or, to begin anew with no models and \
         devices, move the whole data folder away", .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was written by a newer build; a retry cannot help.
    #[error("{} has schema {found}, this build knows {known}: run the newer muster", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema of this build.
        known: usize,
    },
    /// A record cannot be read; a retry cannot help.
    #[error("{what} in {} cannot be read", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Which record.
        what: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// Another process has taken the right to change the fleet; a retry cannot help.
    #[error("another muster serve has taken over: this one no longer changes anything")]
    Fenced,
    /// A statement failed; a retry may help, e.g. once the disk has space again.
    #[error("the database {} did not {action}", .path.display())]
    Query {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            // SQLITE_FULL (https://sqlite.org/rescode.html#full).
            Error::Query { source: sqlx::Error::Database(e), .. } if e.code().as_deref() == Some("13") => {
                Code::DiskFull
            }
            Error::Fenced => Code::Conflict,
            _ => Code::StoreFailed,
        }
    }
}

/// The database of one workspace. Clones share it.
#[derive(Clone)]
pub struct Storage {
    path: PathBuf,
    /// One connection: SQLite has one writer, and so nothing waits for a lock in the middle of a transaction.
    write: SqlitePool,
    read: SqlitePool,
}

impl Storage {
    /// Opens the database, or makes an empty one where there is no file.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let failed = |action| {
            let path = path.to_owned();
            move |source| Error::Query { path, action, source }
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged has to survive a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let new = !path.exists();
        let write = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await;
        let write = write.map_err(|e| opened(path, e))?;
        if !new {
            check(path, &write).await?;
        }
        migrate(path, &write, new).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS);
        let read = readers.connect_with(options.read_only(true)).await.map_err(failed("open for reading"))?;
        Ok(Self { path: path.to_owned(), write, read })
    }

    /// Closes it in good order.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }

    /// Lets every write fail from now on, or succeed again.
    #[cfg(test)]
    pub(crate) async fn refuse_writes(&self, refuse: bool) {
        let pragma = if refuse { "PRAGMA query_only = 1" } else { "PRAGMA query_only = 0" };
        sqlx::raw_sql(pragma).execute(&self.write).await.expect("a pragma");
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
        let path = self.path.clone();
        move |source| Error::Query { path, action, source }
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, what: impl FnOnce() -> String, text: &str) -> Result<T, Error> {
        serde_json::from_str(text).map_err(|source| Error::Record { path: self.path.clone(), what: what(), source })
    }
}

/// What is ours always encodes: no maps with keys that are not text, no failing serialisers.
fn encode<T: serde::Serialize>(record: &T) -> String {
    serde_json::to_string(record).expect("records are plain data")
}

fn opened(path: &Path, error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(e) if matches!(e.code().as_deref(), Some("11" | "26")) => {
            Error::Damaged { path: path.to_owned(), reason: e.message().to_owned() }
        }
        _ => Error::Query { path: path.to_owned(), action: "open", source: error },
    }
}

async fn check(path: &Path, pool: &SqlitePool) -> Result<(), Error> {
    let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
    let id: i32 = sqlx::query_scalar("PRAGMA application_id").fetch_one(pool).await.map_err(|e| opened(path, e))?;
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(pool).await.map_err(|e| opened(path, e))?;
    if id != APPLICATION_ID && tables > 0 {
        return Err(damaged("it belongs to another program".into()));
    }
    let verdict: String =
        sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await.map_err(|e| opened(path, e))?;
    if verdict == "ok" { Ok(()) } else { Err(damaged(verdict)) }
}

async fn migrate(path: &Path, pool: &SqlitePool, new: bool) -> Result<(), Error> {
    let failed = |source| Error::Query { path: path.to_owned(), action: "take its schema", source };
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(pool).await.map_err(failed)?;
    let have = usize::try_from(found).ok().filter(|have| *have <= MIGRATIONS.len());
    let Some(have) = have else {
        return Err(Error::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() });
    };
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(have) {
        let mut transaction = pool.begin().await.map_err(failed)?;
        sqlx::raw_sql(*migration).execute(&mut *transaction).await.map_err(failed)?;
        // Numbers of our own making; a PRAGMA takes no parameters.
        let stamp = format!("PRAGMA user_version = {}; PRAGMA application_id = {APPLICATION_ID}", index + 1);
        sqlx::raw_sql(sqlx::AssertSqlSafe(stamp)).execute(&mut *transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
    }
    if !new && have < MIGRATIONS.len() {
        tracing::info!(from = have, to = MIGRATIONS.len(), "database schema updated");
    }
    Ok(())
}

/// SQLite's integers are signed; counters and times stay far below, random numbers wrap back the same way.
fn signed(value: u64) -> i64 {
    value as i64
}

fn unsigned(value: i64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests;
