//! Content-addressed files: what bears a digest as its name has been checked against it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use muster_proto::id::{Digest, Hasher};
use muster_proto::manifest::{Blob, BundleManifest, Codec, MAX_MANIFEST};
use muster_proto::transfer::chunk_len;

use super::{Error, atomic, io};
use crate::core::event::{Signed, Source};

/// Read and write in pieces of this many bytes.
const BUFFER: usize = 64 * 1024;

/// The files of the store.
#[derive(Debug, Clone)]
pub struct Files {
    dir: PathBuf,
}

impl Files {
    /// Opens or creates the folders and removes what an interrupted write left.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let files = Self { dir: dir.to_owned() };
        for name in ["signed", "manifests", "files", "partial", "bundles"] {
            let folder = dir.join(name);
            fs::create_dir_all(&folder).map_err(io("cannot create", &folder))?;
        }
        for name in ["signed", "manifests", "files"] {
            for (path, _) in files.list(name)? {
                if path.extension().is_some_and(|e| e == "tmp") {
                    atomic::remove(&path)?;
                }
            }
        }
        Ok(files)
    }

    /// The files in `dir`, for reading only; none where there is no store.
    pub fn existing(dir: &Path) -> Option<Self> {
        dir.join("manifests").is_dir().then(|| Self { dir: dir.to_owned() })
    }

    /// How many manifests are whole, and what is damaged. Changes nothing.
    pub fn inspect(&self) -> Result<(usize, Vec<String>), Error> {
        let (mut whole, mut broken) = (0, Vec::new());
        for (path, _) in self.list("manifests")? {
            let Some(digest) = digest_of_name(&path) else { continue };
            let bytes = fs::read(&path).map_err(io("cannot read", &path))?;
            match BundleManifest::parse(&bytes).ok().filter(|_| Digest::of(&bytes) == digest) {
                Some(_) => whole += 1,
                None => broken.push(format!("manifest {}", digest.short())),
            }
        }
        for (path, _) in self.list("files")? {
            let Some(digest) = digest_of_name(&path) else { continue };
            let mut hasher = Hasher::new();
            let mut file = File::open(&path).map_err(io("cannot open", &path))?;
            std::io::copy(&mut file, &mut HashWriter(&mut hasher)).map_err(io("cannot read", &path))?;
            if hasher.finish() != digest {
                broken.push(format!("file {}", digest.short()));
            }
        }
        Ok((whole, broken))
    }

    /// The versions that are laid out, with their folders.
    pub fn laid_out(&self) -> Vec<(Digest, BundleManifest, PathBuf)> {
        let listed = self.list("bundles").unwrap_or_default().into_iter();
        let read = |(folder, _): (PathBuf, u64)| {
            let digest = digest_of_name(&folder)?;
            let manifest = BundleManifest::parse(&fs::read(self.path("manifests", &digest)).ok()?).ok()?;
            Some((digest, manifest, folder))
        };
        listed.filter_map(read).collect()
    }

    fn list(&self, folder: &str) -> Result<Vec<(PathBuf, u64)>, Error> {
        let folder = self.dir.join(folder);
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder).map_err(io("cannot read", &folder))? {
            let entry = entry.map_err(io("cannot read", &folder))?;
            let size = entry.metadata().map_or(0, |m| m.len());
            found.push((entry.path(), size));
        }
        Ok(found)
    }

    fn path(&self, folder: &str, digest: &Digest) -> PathBuf {
        self.dir.join(folder).join(digest.to_string())
    }

    /// The whole files, with their sizes in bytes.
    pub fn whole(&self) -> Result<BTreeMap<Digest, u64>, Error> {
        let listed = self.list("files")?.into_iter();
        Ok(listed.filter_map(|(path, size)| Some((digest_of_name(&path)?, size))).collect())
    }

    /// The manifests whose bytes have the digest in their name. Others are moved aside.
    pub fn manifests(&self) -> Result<BTreeMap<Digest, BundleManifest>, Error> {
        let mut manifests = BTreeMap::new();
        for (path, size) in self.list("manifests")? {
            let Some(digest) = digest_of_name(&path) else { continue };
            let bytes = if size <= MAX_MANIFEST as u64 { fs::read(&path).ok() } else { None };
            let manifest = bytes.filter(|b| Digest::of(b) == digest).and_then(|b| BundleManifest::parse(&b).ok());
            match manifest {
                Some(manifest) => drop(manifests.insert(digest, manifest)),
                None => {
                    let aside = path.with_extension("broken");
                    tracing::error!(path = %path.display(), "a manifest is damaged and was moved aside");
                    fs::rename(&path, &aside).map_err(io("cannot rename", &path))?;
                }
            }
        }
        Ok(manifests)
    }

    /// Keeps a verified manifest.
    pub fn keep_manifest(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        atomic::write(&self.path("manifests", digest), bytes, 0o644)
    }

    /// Keeps copies of signed metadata.
    pub fn keep_signed(&self, signed: &[(Signed, Option<Vec<u8>>)]) -> Result<(), Error> {
        for (what, bytes) in signed {
            let path = self.dir.join("signed").join(what.name());
            match bytes {
                Some(bytes) => atomic::write(&path, bytes, 0o644)?,
                None => atomic::remove(&path)?,
            }
        }
        Ok(())
    }

    /// The copies of signed metadata.
    pub fn signed(&self) -> Result<BTreeMap<Signed, Vec<u8>>, Error> {
        let mut signed = BTreeMap::new();
        for what in Signed::ALL {
            let path = self.dir.join("signed").join(what.name());
            match fs::read(&path) {
                Ok(bytes) => drop(signed.insert(what, bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(io("cannot read", &path)(e)),
            }
        }
        Ok(signed)
    }

    /// Opens or creates a partial blob and tells which chunks are whole, by their digests: whatever a power
    /// cut left, only checked bytes count.
    pub fn open_blob(&self, blob: &Blob) -> Result<Vec<bool>, Error> {
        let path = self.path("partial", &blob.digest);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(io("cannot open", &path))?;
        let present = file.metadata().map_err(io("cannot read", &path))?.len();
        let mut have = vec![false; blob.chunks.len()];
        if present == 0 {
            return Ok(have);
        }
        let mut buffer = vec![0u8; blob.chunk_size as usize];
        for (index, have) in have.iter_mut().enumerate() {
            let offset = index as u64 * u64::from(blob.chunk_size);
            let length = chunk_len(blob.size, blob.chunk_size, index as u32);
            if offset + length > present {
                break;
            }
            let chunk = &mut buffer[..length as usize];
            file.read_exact_at(chunk, offset).map_err(io("cannot read", &path))?;
            *have = blob.accepts(index as u32, chunk);
        }
        Ok(have)
    }

    /// Writes a chunk that has been checked.
    pub fn write_chunk(&self, blob: &Digest, offset: u64, data: &[u8]) -> Result<(), Error> {
        let path = self.path("partial", blob);
        let file = OpenOptions::new().write(true).open(&path).map_err(io("cannot open", &path))?;
        file.write_all_at(data, offset).map_err(io("cannot write", &path))
    }

    /// Removes a partial blob.
    pub fn drop_blob(&self, blob: &Digest) -> Result<(), Error> {
        atomic::remove(&self.path("partial", blob))
    }

    /// Makes a file out of its blob or out of a delta. It gets its name only where size and digest are those
    /// of the manifest (invariant 1); then the blob is removed.
    pub fn assemble(&self, file: &muster_proto::manifest::File, source: &Source) -> Result<(), Error> {
        let target = self.path("files", &file.digest);
        let temp = target.with_extension("tmp");
        let blob = match source {
            Source::Full => &file.blob.digest,
            Source::Delta { delta, .. } => delta,
        };
        let blob_path = self.path("partial", blob);
        let reader = File::open(&blob_path).map_err(io("cannot open", &blob_path))?;
        let mut out = atomic::create(&temp, 0o644)?;
        let written = match (source, file.blob.codec) {
            (Source::Full, Codec::Stored) => copy_checked(reader, &mut out, file, &temp),
            (Source::Full, Codec::Zstd) => {
                let decoder = zstd::stream::read::Decoder::new(reader).map_err(io("cannot decompress", &blob_path))?;
                copy_checked(decoder, &mut out, file, &temp)
            }
            (Source::Delta { base, .. }, _) => {
                let base_path = self.path("files", base);
                let base = fs::read(&base_path).map_err(io("cannot read", &base_path))?;
                let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(BufReader::new(reader), &base)
                    .map_err(io("cannot decompress", &blob_path))?;
                let window = window_log(base.len() as u64 + file.size);
                decoder.window_log_max(window).map_err(io("cannot decompress", &blob_path))?;
                copy_checked(decoder, &mut out, file, &temp)
            }
        };
        if let Err(error) = written {
            atomic::remove(&temp)?;
            return Err(error);
        }
        atomic::persist(out, &temp, &target)?;
        self.drop_blob(blob)
    }

    /// Checks a version's files against their digests (invariant 1) and lays them out under the names that
    /// the manifest gives them. Fails with the digests of what is damaged, which is removed.
    pub fn lay_out(&self, manifest: &BundleManifest, digest: &Digest) -> Result<PathBuf, (Error, Vec<Digest>)> {
        let folder = self.path("bundles", digest);
        let mut damaged = Vec::new();
        let mut first = None;
        for file in &manifest.files {
            if let Err(error) = self.check(file) {
                if matches!(error, Error::Mismatch { .. }) {
                    damaged.push(file.digest);
                    // Whatever goes wrong here, the file is not used.
                    let _ = atomic::remove(&self.path("files", &file.digest));
                }
                first.get_or_insert(error);
            }
        }
        if let Some(error) = first {
            let _ = fs::remove_dir_all(&folder);
            return Err((error, damaged));
        }
        self.link_all(manifest, &folder).map_err(|e| (e, Vec::new()))?;
        Ok(folder)
    }

    fn check(&self, file: &muster_proto::manifest::File) -> Result<(), Error> {
        let path = self.path("files", &file.digest);
        let mismatch = || Error::Mismatch { what: file.path.to_string(), digest: file.digest };
        let reader = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(mismatch()),
            other => other.map_err(io("cannot open", &path))?,
        };
        copy_checked(reader, &mut std::io::sink(), file, &path)
    }

    fn link_all(&self, manifest: &BundleManifest, folder: &Path) -> Result<(), Error> {
        for file in &manifest.files {
            let link = folder.join(file.path.as_str());
            let source = self.path("files", &file.digest);
            if let Some(parent) = link.parent() {
                fs::create_dir_all(parent).map_err(io("cannot create", parent))?;
            }
            // A link of an earlier start may lead to a file that has been replaced since.
            atomic::remove(&link)?;
            // Not every file system has hard links.
            if fs::hard_link(&source, &link).is_err() {
                fs::copy(&source, &link).map_err(io("cannot copy to", &link))?;
            }
        }
        Ok(())
    }

    /// Removes manifests with their layouts, and files.
    pub fn collect(&self, manifests: &[Digest], files: &[Digest]) -> Result<(), Error> {
        for digest in manifests {
            atomic::remove(&self.path("manifests", digest))?;
            let folder = self.path("bundles", digest);
            if folder.exists() {
                fs::remove_dir_all(&folder).map_err(io("cannot remove", &folder))?;
            }
        }
        for digest in files {
            atomic::remove(&self.path("files", digest))?;
        }
        Ok(())
    }

    /// Removes partial blobs that are older than `age`, so that abandoned transfers do not pile up.
    pub fn sweep_partial(&self, age: std::time::Duration) -> Result<(), Error> {
        for (path, _) in self.list("partial")? {
            let modified = fs::metadata(&path).and_then(|m| m.modified());
            let old = modified.ok().and_then(|m| m.elapsed().ok()).is_some_and(|a| a > age);
            if old {
                atomic::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Free and total bytes of the disk, as far as this user may use them.
    pub fn disk(&self) -> Result<(u64, u64), Error> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|e| io("cannot measure", &self.dir)(e.into()))?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
    }
}

struct HashWriter<'a>(&'a mut Hasher);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn digest_of_name(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str()?.parse().ok()
}

/// The window that a delta's decoder may need: never more than what base and file take.
fn window_log(bytes: u64) -> u32 {
    let max = if cfg!(target_pointer_width = "64") { 31 } else { 30 };
    (u64::BITS - bytes.leading_zeros()).clamp(20, max)
}

/// Copies exactly the file's size and compares the digest. More bytes are never written.
fn copy_checked(
    mut reader: impl Read,
    out: &mut impl Write,
    file: &muster_proto::manifest::File,
    path: &Path,
) -> Result<(), Error> {
    let mismatch = || Error::Mismatch { what: file.path.to_string(), digest: file.digest };
    let mut hasher = Hasher::new();
    let mut left = file.size;
    let mut buffer = vec![0u8; BUFFER];
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            // A broken frame is a wrong content, not a broken disk.
            Err(e) if e.raw_os_error().is_none() => return Err(mismatch()),
            Err(e) => return Err(io("cannot read", path)(e)),
        };
        left = left.checked_sub(read as u64).ok_or_else(mismatch)?;
        hasher.update(&buffer[..read]);
        out.write_all(&buffer[..read]).map_err(io("cannot write", path))?;
    }
    if left > 0 || hasher.finish() != file.digest { Err(mismatch()) } else { Ok(()) }
}
