//! An OCI image layout: a folder of blobs named by their digests, and an index. Knows nothing of models.

mod draft;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use serde::de::DeserializeOwned;

use super::document::{BlobDigest, Descriptor, INDEX, Index, LayoutMark, MANIFEST, Manifest, REF_NAME};

pub use draft::Draft;

/// The version of layouts that is written and read.
const VERSION: &str = "1.0.0";
const MARK: &str = "oci-layout";
/// What the mark of a layout says.
pub(super) const MARK_CONTENT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The list of what a layout holds.
const INDEX_FILE: &str = "index.json";
/// The largest document that is read into memory; registries draw the same line.
const MAX_DOCUMENT: u64 = 4 << 20;
/// How deep indexes may lie in one another.
const MAX_DEPTH: usize = 4;

/// Why a layout could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is full or the folder may not be written; a retry helps once that is mended.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is missing or may not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The folder holds something else, which is not overwritten.
    #[error("{} holds other files; name an empty folder or an earlier image", .0.display())]
    Occupied(PathBuf),
    /// The folder is no layout.
    #[error("{} is no OCI image layout; make one with `muster image build`", .0.display())]
    NoLayout(PathBuf),
    /// The layout is of a version of OCI that is not known.
    #[error("{} is an OCI image layout of version {version}, and only 1.0.0 is known", .path.display())]
    Version {
        /// The folder.
        path: PathBuf,
        /// Its version.
        version: String,
    },
    /// A document is not what its media type says; build the image again.
    #[error("{} is damaged: it does not read as {expected}", .path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
        /// Why it is not.
        #[source]
        source: serde_json::Error,
    },
    /// A document is larger than any that is written; nothing of it was read.
    #[error("{digest} has {size} bytes, more than a document may have")]
    TooLarge {
        /// The document.
        digest: BlobDigest,
        /// Its size.
        size: u64,
    },
    /// Indexes that lie too deep in one another.
    #[error("{digest} lies deeper than {MAX_DEPTH} indexes")]
    TooDeep {
        /// The document.
        digest: BlobDigest,
    },
    /// A blob has another size than its descriptor says; build the image again.
    #[error("blob {digest} is damaged: it has {found} bytes instead of {expected}")]
    Size {
        /// The blob.
        digest: BlobDigest,
        /// The size of the descriptor.
        expected: u64,
        /// The size on disk.
        found: u64,
    },
    /// A blob has another digest than its name says; build the image again.
    #[error("blob {digest} is damaged: its bytes have the digest {found}")]
    Digest {
        /// The blob.
        digest: BlobDigest,
        /// What its bytes have.
        found: BlobDigest,
    },
}

/// A layout on disk.
#[derive(Debug, Clone)]
pub struct Layout {
    folder: PathBuf,
}

/// What a layout was found to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// How many blobs the index leads to.
    pub blobs: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

/// A manifest or an index, as its exact bytes.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Its bytes, which have been checked.
    pub bytes: Vec<u8>,
    /// What they say.
    pub content: Content,
}

/// What a document is.
#[derive(Debug, Clone)]
pub enum Content {
    /// A list of further documents.
    Index(Index),
    /// An image or an artifact.
    Manifest(Box<Manifest>),
}

impl Layout {
    /// Opens a layout; only its mark is read.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(MARK);
        let bytes = match read_small(&path) {
            Ok(bytes) => bytes,
            Err(Error::Read { source, .. })
                if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Err(Error::NoLayout(folder.to_owned()));
            }
            Err(e) => return Err(e),
        };
        let mark: LayoutMark = from_json(&path, "the mark of a layout", &bytes)?;
        if mark.image_layout_version != VERSION {
            return Err(Error::Version { path: folder.to_owned(), version: mark.image_layout_version });
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a blob is.
    pub fn blob(&self, digest: &BlobDigest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// The list of what it holds.
    pub fn index(&self) -> Result<Index, Error> {
        let path = self.folder.join(INDEX_FILE);
        from_json(&path, "an index", &read_small(&path)?)
    }

    /// The image itself, among the bills and other artifacts beside it: the index that has a name.
    pub fn image(&self) -> Result<Option<Descriptor>, Error> {
        let named = |d: &Descriptor| d.media_type == INDEX && d.annotations.contains_key(REF_NAME);
        Ok(self.index()?.manifests.into_iter().find(named))
    }

    /// All documents that the index leads to, each after those that it names.
    pub fn documents(&self) -> Result<Vec<Document>, Error> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        self.collect(&self.index()?, 0, &mut seen, &mut found)?;
        Ok(found)
    }

    /// Reads one document and checks its size and digest.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Document, Error> {
        let bytes = self.read(descriptor)?;
        let path = self.blob(&descriptor.digest);
        let content = if descriptor.media_type == INDEX {
            Content::Index(from_json(&path, "an index", &bytes)?)
        } else {
            Content::Manifest(Box::new(from_json(&path, "a manifest", &bytes)?))
        };
        Ok(Document { descriptor: descriptor.clone(), bytes, content })
    }

    /// Reads a small blob and checks its size and digest.
    pub fn read(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let Descriptor { digest, size, .. } = descriptor;
        if *size > MAX_DOCUMENT {
            return Err(Error::TooLarge { digest: digest.clone(), size: *size });
        }
        let bytes = read_small(&self.blob(digest))?;
        if bytes.len() as u64 != *size {
            return Err(Error::Size { digest: digest.clone(), expected: *size, found: bytes.len() as u64 });
        }
        match BlobDigest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(Error::Digest { digest: digest.clone(), found }),
        }
    }

    fn collect(
        &self,
        index: &Index,
        depth: usize,
        seen: &mut BTreeSet<BlobDigest>,
        found: &mut Vec<Document>,
    ) -> Result<(), Error> {
        for descriptor in &index.manifests {
            if depth >= MAX_DEPTH {
                return Err(Error::TooDeep { digest: descriptor.digest.clone() });
            }
            if !matches!(descriptor.media_type.as_str(), INDEX | MANIFEST) || !seen.insert(descriptor.digest.clone()) {
                continue;
            }
            let document = self.document(descriptor)?;
            if let Content::Index(inner) = &document.content {
                self.collect(inner, depth + 1, seen, found)?;
            }
            found.push(document);
        }
        Ok(())
    }
}

/// The blobs that `documents` name and that are no documents themselves, each once, in order.
pub fn blobs(documents: &[Document]) -> Vec<Descriptor> {
    let mut found = BTreeMap::new();
    let mut order = Vec::new();
    for document in documents {
        if let Content::Manifest(manifest) = &document.content {
            for descriptor in std::iter::once(&manifest.config).chain(&manifest.layers) {
                if found.insert(descriptor.digest.clone(), ()).is_none() {
                    order.push(descriptor.clone());
                }
            }
        }
    }
    order
}

/// Checks the size and digest of everything that a layout leads to.
pub fn verify(layout: &Layout) -> Result<Verified, Error> {
    let documents = layout.documents()?;
    let mut bytes = documents.iter().map(|d| d.descriptor.size).sum();
    let blobs = blobs(&documents);
    for Descriptor { digest, size, .. } in &blobs {
        let path = layout.blob(digest);
        let mut out = Hashing::new(io::sink());
        let mut file = File::open(&path).map_err(read_error(&path))?;
        // One byte more than there should be shows a file that is too long without reading all of it.
        let read = io::copy(&mut (&mut file).take(size.saturating_add(1)), &mut out).map_err(read_error(&path))?;
        if read != *size {
            let found = file.metadata().map_or(read, |m| m.len());
            return Err(Error::Size { digest: digest.clone(), expected: *size, found });
        }
        let (_, found, _) = out.finish();
        if found != *digest {
            return Err(Error::Digest { digest: digest.clone(), found });
        }
        bytes += size;
    }
    Ok(Verified { blobs: documents.len() + blobs.len(), bytes })
}

/// Writes on, and takes the digest and the size of what went through.
pub(super) struct Hashing<W> {
    inner: W,
    context: Context,
    size: u64,
}

impl<W> Hashing<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, context: Context::new(&SHA256), size: 0 }
    }

    pub(super) fn finish(self) -> (W, BlobDigest, u64) {
        (self.inner, BlobDigest::finish(self.context.finish()), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.context.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A document as bytes: compact JSON in the order of its fields.
pub(super) fn to_json(document: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("documents hold only strings, numbers, lists and maps with text as keys")
}

fn from_json<T: DeserializeOwned>(path: &Path, expected: &'static str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Document { path: path.to_owned(), expected, source })
}

fn read_small(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(read_error(path))?;
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(read_error(path))?;
    Ok(bytes)
}

fn read_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Read { path, source }
}
