//! The index of small values: the only user of sled. Each write is flushed before it returns, so that an
//! effect after it can rely on it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use muster_proto::wire;
use serde::{Deserialize, Serialize};

use super::{Error, io};
use crate::core::durable::{Durable, Stored};
use crate::core::event::Signed;
use crate::core::outbox::Entry;

/// How much memory sled may use for its cache, in bytes. The index is small.
const CACHE: u64 = 1 << 20;
const DURABLE: &[u8] = b"durable";

/// The index.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    db: sled::Db,
    state: sled::Tree,
    signed: sled::Tree,
    outbox: sled::Tree,
}

/// What the index holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The durable state.
    pub durable: Option<Durable>,
    /// Signed metadata.
    pub signed: BTreeMap<Signed, Vec<u8>>,
    /// The outbox, without the messages themselves.
    pub outbox: Vec<(u64, Entry)>,
}

#[derive(Serialize, Deserialize)]
struct Message {
    entry: Entry,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

impl Index {
    /// Opens the index. One that sled cannot open is moved aside and begun anew; its new place is returned.
    pub fn open(path: &Path) -> Result<(Self, Option<PathBuf>), Error> {
        match Self::try_open(path) {
            Ok(index) => Ok((index, None)),
            Err(Error::Index { source, .. }) if is_locked(&source) => Err(Error::InUse { path: path.to_owned() }),
            Err(error) => {
                let aside = move_aside(path)?;
                tracing::error!(error = %error.failure().detail, moved_to = %aside.display(), "the index is broken");
                Ok((Self::try_open(path)?, Some(aside)))
            }
        }
    }

    fn try_open(path: &Path) -> Result<Self, Error> {
        let config =
            sled::Config::new().path(path).mode(sled::Mode::LowSpace).cache_capacity(CACHE).flush_every_ms(None);
        let open = || -> Result<Self, sled::Error> {
            let db = config.open()?;
            let (state, signed, outbox) = (db.open_tree("state")?, db.open_tree("signed")?, db.open_tree("outbox")?);
            Ok(Self { path: path.to_owned(), db, state, signed, outbox })
        };
        // sled 0.34 panics on some damages instead of returning an error.
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(result) => result.map_err(|e| failed(path, e)),
            Err(_) => Err(Error::Unreadable { what: "index", path: path.to_owned(), reason: "sled panicked".into() }),
        }
    }

    /// Reads everything but the messages themselves.
    pub fn load(&self) -> Result<Loaded, Error> {
        let unreadable = |what, reason: String| Error::Unreadable { what, path: self.path.clone(), reason };
        let mut loaded = Loaded::default();
        if let Some(bytes) = self.state.get(DURABLE).map_err(|e| self.failed(e))? {
            let stored = wire::decode::<Stored>(&bytes).map_err(|e| unreadable("state", e.to_string()))?;
            loaded.durable = Some(stored.into_durable());
        }
        for what in Signed::ALL {
            if let Some(bytes) = self.signed.get(what.name()).map_err(|e| self.failed(e))? {
                loaded.signed.insert(what, bytes.to_vec());
            }
        }
        for item in self.outbox.iter() {
            let (key, value) = item.map_err(|e| self.failed(e))?;
            let id = <[u8; 8]>::try_from(key.as_ref()).map(u64::from_be_bytes);
            let message = postcard::from_bytes::<Message>(&value);
            match (id, message) {
                (Ok(id), Ok(message)) => loaded.outbox.push((id, message.entry)),
                _ => return Err(unreadable("outbox", "not a message".into())),
            }
        }
        Ok(loaded)
    }

    /// Writes the durable state.
    pub fn save(&self, durable: &Durable) -> Result<(), Error> {
        let bytes = wire::encode(&Stored::V2(durable.clone())).map_err(|e| Error::Unreadable {
            what: "state",
            path: self.path.clone(),
            reason: e.to_string(),
        })?;
        self.state.insert(DURABLE, bytes).map_err(|e| self.failed(e))?;
        self.flush()
    }

    /// Writes or removes signed metadata, all or none.
    pub fn keep_signed(&self, signed: &[(Signed, Option<Vec<u8>>)]) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        for (what, bytes) in signed {
            match bytes {
                Some(bytes) => batch.insert(what.name(), bytes.as_slice()),
                None => batch.remove(what.name()),
            }
        }
        self.signed.apply_batch(batch).map_err(|e| self.failed(e))?;
        self.flush()
    }

    /// Adds a message to the outbox.
    pub fn put(&self, id: u64, entry: Entry, payload: Vec<u8>) -> Result<(), Error> {
        let bytes = postcard::to_stdvec(&Message { entry, payload }).map_err(|e| Error::Unreadable {
            what: "message",
            path: self.path.clone(),
            reason: e.to_string(),
        })?;
        self.outbox.insert(id.to_be_bytes(), bytes).map_err(|e| self.failed(e))?;
        self.flush()
    }

    /// A message of the outbox.
    pub fn message(&self, id: u64) -> Result<Option<Vec<u8>>, Error> {
        let bytes = self.outbox.get(id.to_be_bytes()).map_err(|e| self.failed(e))?;
        Ok(bytes.and_then(|b| postcard::from_bytes::<Message>(&b).ok()).map(|m| m.payload))
    }

    /// Removes messages of the outbox.
    pub fn remove(&self, ids: &[u64]) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        for id in ids {
            batch.remove(&id.to_be_bytes());
        }
        // Not flushed: a message that comes back after a power cut is sent once more, and ignored.
        self.outbox.apply_batch(batch).map_err(|e| self.failed(e))
    }

    fn flush(&self) -> Result<(), Error> {
        self.db.flush().map(drop).map_err(|e| self.failed(e))
    }

    fn failed(&self, source: sled::Error) -> Error {
        failed(&self.path, source)
    }
}

fn failed(path: &Path, source: sled::Error) -> Error {
    Error::Index { path: path.to_owned(), source: Box::new(source) }
}

/// sled locks its folder; the message is all that tells.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}

/// Gives a broken index another name, for a person to look at. Only the newest one is kept.
pub fn move_aside(path: &Path) -> Result<PathBuf, Error> {
    let aside = path.with_extension("broken");
    if aside.exists() {
        std::fs::remove_dir_all(&aside).map_err(io("cannot remove", &aside))?;
    }
    std::fs::rename(path, &aside).map_err(io("cannot rename", path))?;
    Ok(aside)
}
