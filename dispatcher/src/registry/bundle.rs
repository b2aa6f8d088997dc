//! Files into blobs: collected into a folder for the engine, compressed, cut into chunks, stored.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream;
use muster_proto::id::{Digest, FilePath, Hasher};
use muster_proto::manifest::{self, Blob, Codec};
use muster_proto::transfer::chunk_size_for;
use tokio::io::AsyncReadExt as _;

use super::Error;
use crate::app::view::{Registration, RegistrationFile};
use crate::blobs::{Blobs, Kind};

/// Files up to this size are worth the slow level: -19 gains 0.3 % over -3 on fp32 weights, and costs 5 seconds here.
const SLOW_LEVEL_BELOW: u64 = 16 << 20;
/// Bytes that are read and written at once.
const PIECE: usize = 256 * 1024;

/// Lays the uploaded files out in a new folder under `work`, as the bundle has them.
pub async fn collect(blobs: &Blobs, work: &Path, registration: &Registration) -> Result<tempfile::TempDir, Error> {
    let failed = |source| Error::Folder { path: work.to_owned(), source };
    let folder = tempfile::tempdir_in(work).map_err(failed)?;
    for file in &registration.files {
        if blobs.size(Kind::Raw, file.digest).await?.is_none() {
            return Err(Error::NotUploaded { path: file.path.clone(), digest: file.digest });
        }
        let path = folder.path().join(file.path.as_str());
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent).await.map_err(failed)?;
        }
        blobs.copy_to(Kind::Raw, file.digest, &path).await?;
    }
    Ok(folder)
}

/// Compresses and stores one of the collected files.
pub async fn pack(blobs: &Blobs, folder: &Path, file: &RegistrationFile) -> Result<manifest::File, Error> {
    let (path, digest) = (folder.join(file.path.as_str()), file.digest);
    let packed = tokio::task::spawn_blocking(move || {
        let packed = compress(&path);
        packed.map_err(|source| Error::Folder { path, source })
    });
    let Packed { size, digest: found, blob, path } = packed.await??;
    if found != digest {
        // It was whole when it was uploaded: the disk has changed it.
        return Err(Error::NotUploaded { path: file.path.clone(), digest });
    }
    if blobs.size(Kind::Blob, blob.digest).await? != Some(blob.size) {
        let open = tokio::fs::File::open(&path).await;
        let open = open.map_err(|source| Error::Folder { path: path.clone(), source })?;
        blobs.upload(Kind::Blob, blob.digest, blob.size, Box::pin(pieces(open))).await?;
    }
    Ok(manifest::File { path: file.path.clone(), size, digest, blob })
}

/// Stores a file that was made here, raw and compressed.
pub async fn pack_bytes(
    blobs: &Blobs,
    folder: &Path,
    path: &FilePath,
    bytes: Vec<u8>,
) -> Result<manifest::File, Error> {
    let target = folder.join(path.as_str());
    let written = async {
        tokio::fs::create_dir_all(target.parent().unwrap_or(folder)).await?;
        tokio::fs::write(&target, &bytes).await
    };
    written.await.map_err(|source| Error::Folder { path: target.clone(), source })?;
    let digest = blobs.write(Kind::Raw, Bytes::from(bytes)).await?;
    pack(blobs, folder, &RegistrationFile { path: path.clone(), digest }).await
}

struct Packed {
    size: u64,
    digest: Digest,
    blob: Blob,
    /// Where the blob's bytes lie.
    path: PathBuf,
}

/// Compresses the file at `path` into one beside it, unless that gains less than 2 %.
fn compress(path: &Path) -> io::Result<Packed> {
    let size = std::fs::metadata(path)?.len();
    let level = if size <= SLOW_LEVEL_BELOW { 19 } else { 3 };
    let mut target = path.as_os_str().to_owned();
    target.push("#zst");
    let target = PathBuf::from(target);
    let mut encoder = zstd::stream::write::Encoder::new(File::create(&target)?, level)?;
    encoder.set_pledged_src_size(Some(size))?;
    encoder.include_contentsize(true)?;
    let mut source = Hashing { inner: BufReader::with_capacity(PIECE, File::open(path)?), hasher: Hasher::new() };
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?;
    let digest = source.hasher.finish();
    let compressed = std::fs::metadata(&target)?.len();
    let (codec, path) =
        if compressed * 100 <= size * 98 { (Codec::Zstd, target) } else { (Codec::Stored, path.to_owned()) };
    let blob = describe(codec, &path)?;
    Ok(Packed { size, digest, blob, path })
}

/// [`Blob::describe`] of a file that need not fit into memory.
fn describe(codec: Codec, path: &Path) -> io::Result<Blob> {
    let size = std::fs::metadata(path)?.len();
    let chunk_size = chunk_size_for(size);
    let mut file = BufReader::with_capacity(PIECE, File::open(path)?);
    let (mut whole, mut chunks) = (Hasher::new(), Vec::new());
    let mut chunk = Vec::with_capacity(chunk_size as usize);
    loop {
        chunk.clear();
        file.by_ref().take(u64::from(chunk_size)).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        whole.update(&chunk);
        chunks.push(Digest::of(&chunk));
    }
    Ok(Blob { codec, size, digest: whole.finish(), chunk_size, chunks })
}

struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn pieces(file: tokio::fs::File) -> impl stream::Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some(file), |file| async {
        let mut file = file?;
        let mut piece = vec![0; PIECE];
        match file.read(&mut piece).await {
            Ok(0) => None,
            Ok(count) => {
                piece.truncate(count);
                Some((Ok(Bytes::from(piece)), Some(file)))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compresses_is_compressed_and_what_does_not_is_stored() {
        let dir = tempfile::tempdir().expect("a folder");
        let zeros = vec![0u8; 300_000];
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let noise: Vec<u8> = (0..300_000).map(|_| noise()).collect();
        for (name, bytes, codec) in [("zeros", &zeros, Codec::Zstd), ("noise", &noise, Codec::Stored)] {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).expect("writes");
            let packed = compress(&path).expect("packs");
            assert_eq!((packed.size, packed.digest, packed.blob.codec), (300_000, Digest::of(bytes), codec));
            let blob = std::fs::read(&packed.path).expect("reads");
            assert_eq!(packed.blob, Blob::describe(codec, &blob, chunk_size_for(blob.len() as u64)));
            if codec == Codec::Zstd {
                assert_eq!(zstd::stream::decode_all(&blob[..]).expect("decodes"), *bytes);
            }
        }
    }

    #[test]
    fn an_empty_file_is_stored() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").expect("writes");
        let packed = compress(&path).expect("packs");
        assert_eq!((packed.blob.codec, packed.blob.chunks.len()), (Codec::Stored, 0));
    }
}
