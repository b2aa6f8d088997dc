//! Files by digest: the only user of object_store. It must not know what the files mean.
//!
//! Each write is atomic and durable, and each object is written under the digest of its bytes, so that an
//! object is either absent or whole. What is read is verified by whoever uses it, by that same digest.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use muster_proto::code::Code;
use muster_proto::id::{Digest, Hasher};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::io::AsyncWriteExt as _;

/// Uploads travel in parts of this many bytes: S3 takes no smaller ones.
const PART: usize = 5 << 20;

/// What an object is for; each kind is cleared away by its own rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A file as it was uploaded.
    Raw,
    /// What devices fetch: manifests and compressed files.
    Blob,
    /// Deltas, which can be computed again.
    Delta,
}

impl Kind {
    fn folder(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::Blob => "blob",
            Kind::Delta => "delta",
        }
    }
}

/// Why the store does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be used; a retry helps once it can.
    #[error("the blob folder {} cannot be used", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such object; a retry cannot help.
    #[error("there is no {kind:?} object {digest}")]
    Missing {
        /// Its kind.
        kind: Kind,
        /// Its digest.
        digest: Digest,
    },
    /// The bytes that came have another digest; sending the right ones helps.
    #[error("the uploaded bytes have the digest {got}, not {want}")]
    Digest {
        /// The announced digest.
        want: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// More bytes than are allowed.
    #[error("the upload is over its limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// Whoever sent the bytes stopped; a retry may help.
    #[error("the upload broke off")]
    Incoming(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store failed; a retry may help, e.g. once the disk has space again.
    #[error("the blob store did not {action} {digest}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// The object.
        digest: Digest,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Missing { .. } => Code::NotFound,
            Error::Digest { .. } => Code::DigestMismatch,
            Error::TooLarge { .. } => Code::TooLarge,
            Error::Incoming(_) => Code::TransferStalled,
            Error::Folder { .. } | Error::Store { .. } => Code::StoreFailed,
        }
    }
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How long ago it was written.
    pub age: Duration,
}

/// The store. Clones share it.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
}

impl Blobs {
    /// Opens the folder `dir`, which is made if need be, and clears away what a power cut left half written.
    pub async fn open(dir: &Path) -> Result<Self, Error> {
        let path = dir.to_owned();
        let made = tokio::task::spawn_blocking({
            let path = path.clone();
            move || std::fs::create_dir_all(&path).and_then(|()| clear_staged(&path))
        });
        let failed = |source| Error::Folder { path: path.clone(), source };
        made.await.map_err(|e| failed(Box::new(e)))?.map_err(|e| failed(Box::new(e)))?;
        let store = LocalFileSystem::new_with_prefix(dir).map_err(|e| failed(Box::new(e)))?.with_fsync(true);
        Ok(Self { store: Arc::new(store) })
    }

    /// The size of an object in bytes, or none where there is no such object.
    pub async fn size(&self, kind: Kind, digest: Digest) -> Result<Option<u64>, Error> {
        match self.store.head(&key(kind, digest)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed("find", digest, e)),
        }
    }

    /// Some bytes of an object.
    pub async fn read_range(&self, kind: Kind, digest: Digest, range: Range<u64>) -> Result<Bytes, Error> {
        let read = self.store.get_range(&key(kind, digest), range).await;
        read.map_err(|e| missing_or(kind, "read", digest, e))
    }

    /// A whole object of at most `limit` bytes.
    pub async fn read(&self, kind: Kind, digest: Digest, limit: u64) -> Result<Bytes, Error> {
        let found = self.store.get(&key(kind, digest)).await.map_err(|e| missing_or(kind, "read", digest, e))?;
        if found.meta.size > limit {
            return Err(Error::TooLarge { limit });
        }
        found.bytes().await.map_err(|e| failed("read", digest, e))
    }

    /// A whole object as a stream, and its size.
    pub async fn stream(
        &self,
        kind: Kind,
        digest: Digest,
    ) -> Result<(u64, BoxStream<'static, io::Result<Bytes>>), Error> {
        let found = self.store.get(&key(kind, digest)).await.map_err(|e| missing_or(kind, "read", digest, e))?;
        Ok((found.meta.size, found.into_stream().map_err(io::Error::other).boxed()))
    }

    /// Writes an object to a local file, for what reads files only.
    pub async fn copy_to(&self, kind: Kind, digest: Digest, path: &Path) -> Result<(), Error> {
        let (_, mut stream) = self.stream(kind, digest).await?;
        let copy = async {
            let mut file = tokio::fs::File::create(path).await?;
            while let Some(piece) = stream.next().await {
                file.write_all(&piece?).await?;
            }
            file.flush().await
        };
        copy.await.map_err(|e| Error::Store { action: "copy", digest, source: Box::new(e) })
    }

    /// Stores `bytes`, and answers with their digest. The same bytes again are taken without harm.
    pub async fn write(&self, kind: Kind, bytes: Bytes) -> Result<Digest, Error> {
        let digest = Digest::of(&bytes);
        if self.size(kind, digest).await? == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        self.store.put(&key(kind, digest), bytes.into()).await.map_err(|e| failed("write", digest, e))?;
        Ok(digest)
    }

    /// Stores what `body` brings, if it has the digest `want` and at most `limit` bytes, and answers with its size.
    pub async fn upload<S, E>(&self, kind: Kind, want: Digest, limit: u64, mut body: S) -> Result<u64, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: std::error::Error + Send + Sync + 'static,
    {
        let failed = |e| failed("write", want, e);
        let mut upload = self.store.put_multipart(&key(kind, want)).await.map_err(failed)?;
        let (mut hasher, mut size, mut part) = (Hasher::new(), 0u64, BytesMut::new());
        let taken = async {
            while let Some(piece) = body.next().await {
                let piece = piece.map_err(|e| Error::Incoming(Box::new(e)))?;
                size += piece.len() as u64;
                if size > limit {
                    return Err(Error::TooLarge { limit });
                }
                hasher.update(&piece);
                part.extend_from_slice(&piece);
                if part.len() >= PART {
                    upload.put_part(part.split().freeze().into()).await.map_err(failed)?;
                }
            }
            if !part.is_empty() {
                upload.put_part(part.split().freeze().into()).await.map_err(failed)?;
            }
            let got = hasher.finish();
            if got == want { Ok(()) } else { Err(Error::Digest { want, got }) }
        };
        let taken = taken.await;
        match taken {
            Ok(()) => upload.complete().await.map(|_| size).map_err(failed),
            Err(error) => {
                // What cannot be aborted now is cleared away at the next start.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    /// Deletes an object; one that is not there is as good as deleted.
    pub async fn delete(&self, kind: Kind, digest: Digest) -> Result<(), Error> {
        match self.store.delete(&key(kind, digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(failed("delete", digest, e)),
        }
    }

    /// Every object of a kind.
    pub async fn list(&self, kind: Kind) -> Result<Vec<Listed>, Error> {
        let now = SystemTime::now();
        let prefix = Key::from(kind.folder());
        let objects: Vec<_> =
            self.store.list(Some(&prefix)).try_collect().await.map_err(|e| failed("list", Digest([0; 32]), e))?;
        let entry = |meta: object_store::ObjectMeta| {
            let digest = meta.location.filename()?.parse().ok()?;
            let age = now.duration_since(meta.last_modified.into()).unwrap_or_default();
            Some(Listed { digest, size: meta.size, age })
        };
        Ok(objects.into_iter().filter_map(entry).collect())
    }
}

/// Two digits of the digest as a folder, because some file systems are slow with very many files in one.
fn key(kind: Kind, digest: Digest) -> Key {
    let name = digest.to_string();
    Key::from_iter([kind.folder(), &name[..2], &name])
}

fn failed(action: &'static str, digest: Digest, source: object_store::Error) -> Error {
    Error::Store { action, digest, source: Box::new(source) }
}

fn missing_or(kind: Kind, action: &'static str, digest: Digest, source: object_store::Error) -> Error {
    match source {
        object_store::Error::NotFound { .. } => Error::Missing { kind, digest },
        other => failed(action, digest, other),
    }
}

/// object_store writes to `name#1` and renames: what still has such a name was never finished.
fn clear_staged(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            clear_staged(&entry.path())?;
        } else if entry.file_name().to_string_lossy().contains('#') {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: &[&'static [u8]]) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + Unpin {
        let pieces: Vec<_> = pieces.iter().map(|p| Ok(Bytes::from_static(p))).collect();
        futures_util::stream::iter(pieces)
    }

    fn names(dir: &Path) -> usize {
        let count = |entry: io::Result<std::fs::DirEntry>| {
            let entry = entry.expect("reads");
            if entry.path().is_dir() { names(&entry.path()) } else { 1 }
        };
        std::fs::read_dir(dir).expect("reads").map(count).sum()
    }

    #[tokio::test]
    async fn what_was_written_is_read_back_whole_and_in_part() {
        let dir = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(dir.path()).await.expect("opens");
        let digest = blobs.write(Kind::Blob, Bytes::from_static(b"hello world")).await.expect("writes");
        assert_eq!(blobs.write(Kind::Blob, Bytes::from_static(b"hello world")).await.expect("writes"), digest);
        assert_eq!(blobs.size(Kind::Blob, digest).await.expect("finds"), Some(11));
        assert_eq!(blobs.size(Kind::Raw, digest).await.expect("finds"), None);
        assert_eq!(&blobs.read_range(Kind::Blob, digest, 6..11).await.expect("reads")[..], b"world");
        assert!(matches!(blobs.read(Kind::Blob, digest, 10).await, Err(Error::TooLarge { limit: 10 })));
        assert!(matches!(blobs.read(Kind::Raw, digest, 100).await, Err(Error::Missing { .. })));
        assert_eq!(blobs.list(Kind::Blob).await.expect("lists")[0].digest, digest);
        blobs.delete(Kind::Blob, digest).await.expect("deletes");
        blobs.delete(Kind::Blob, digest).await.expect("deletes");
        assert_eq!(blobs.list(Kind::Blob).await.expect("lists"), []);
    }

    #[tokio::test]
    async fn an_upload_that_is_not_what_it_says_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::open(dir.path()).await.expect("opens");
        let want = Digest::of(b"hello world");
        let size = blobs.upload(Kind::Raw, want, 11, body(&[b"hello ", b"world"])).await.expect("takes it");
        assert_eq!(size, 11);
        blobs.delete(Kind::Raw, want).await.expect("deletes");

        let wrong = blobs.upload(Kind::Raw, want, 100, body(&[b"hello", b"world"])).await;
        assert!(matches!(wrong, Err(Error::Digest { .. })));
        let large = blobs.upload(Kind::Raw, want, 10, body(&[b"hello ", b"world"])).await;
        assert!(matches!(large, Err(Error::TooLarge { limit: 10 })));
        let cut = futures_util::stream::iter([Ok(Bytes::from_static(b"hello ")), Err(io::Error::other("gone"))]);
        assert!(matches!(blobs.upload(Kind::Raw, want, 100, cut).await, Err(Error::Incoming(_))));
        assert_eq!(blobs.size(Kind::Raw, want).await.expect("finds"), None);
        assert_eq!(names(dir.path()), 0);
    }

    #[tokio::test]
    async fn what_a_power_cut_left_half_written_is_cleared_away() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("raw/ab")).expect("makes");
        std::fs::write(dir.path().join("raw/ab/abcd#1"), b"half").expect("writes");
        Blobs::open(dir.path()).await.expect("opens");
        assert_eq!(names(dir.path()), 0);
    }
}
