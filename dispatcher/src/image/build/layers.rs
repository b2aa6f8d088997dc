//! The four layers of an image. Each is a tarball that depends on nothing but its content.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use flate2::{Compression, GzBuilder, write::GzEncoder};

use super::{Error, Recipe};
use crate::image::document::{BlobDigest, Descriptor, LAYER};
use crate::image::input::Entry;
use crate::image::layout::{Draft, Hashing};
use crate::image::tarball::{self, Tarball};

const PASSWD: &[u8] = b"root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUP: &[u8] = b"root:x:0:\nnonroot:x:65532:\n";
/// zlib's middle: higher levels gain under one percent on weights and binaries.
const LEVEL: u32 = 6;

/// A layer that was written.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The packed layer.
    pub descriptor: Descriptor,
    /// The digest of the tarball.
    pub unpacked: BlobDigest,
    /// What it holds.
    pub comment: &'static str,
}

type Packed<'a> = Tarball<Hashing<GzEncoder<&'a mut dyn Write>>>;

/// Users, a folder for temporary files, and certificates if there are any. The same for all models and platforms.
pub fn base(draft: &Draft, recipe: &Recipe) -> Result<Layer, Error> {
    let (layer, ()) = write(draft, 0, "users and certificates", |tarball| {
        folders(tarball, &["etc"])?;
        bytes(tarball, "etc/group", GROUP)?;
        bytes(tarball, "etc/passwd", PASSWD)?;
        if let Some(certificates) = &recipe.certificates {
            folders(tarball, &["etc/ssl", "etc/ssl/certs"])?;
            bytes(tarball, "etc/ssl/certs/ca-certificates.crt", certificates)?;
        }
        tarball.folder("tmp", 0o1777).map_err(add("tmp"))
    })?;
    Ok(layer)
}

/// The agent, and the digest of its binary. The same for all models, because its times are not the model's.
pub fn agent(draft: &Draft, binary: &Path) -> Result<(Layer, BlobDigest), Error> {
    write(draft, 0, "muster-agent", |tarball| {
        folders(tarball, &["usr", "usr/bin"])?;
        file(tarball, "usr/bin/muster-agent", 0o755, binary, None)
    })
}

/// The bundle, and the sizes and digests of its files. The same for all platforms.
#[expect(clippy::type_complexity, reason = "path, size and digest are the bill's own form")]
pub fn bundle(
    draft: &Draft,
    recipe: &Recipe,
    entries: &[Entry],
) -> Result<(Layer, Vec<(String, u64, BlobDigest)>), Error> {
    write(draft, recipe.created, "the model's bundle", |tarball| {
        folders(tarball, &["bundle"])?;
        let mut files = Vec::new();
        for Entry { path, size } in entries {
            let inside = format!("bundle/{path}");
            match size {
                None => folders(tarball, &[&inside])?,
                Some(size) => {
                    let digest = file(tarball, &inside, 0o644, &recipe.bundle.join(path), Some(*size))?;
                    files.push((path.clone(), *size, digest));
                }
            }
        }
        Ok(files)
    })
}

/// The configuration and the bill of materials.
pub fn rest(draft: &Draft, recipe: &Recipe, bill: &[u8]) -> Result<Layer, Error> {
    let (layer, ()) = write(draft, recipe.created, "configuration and bill of materials", |tarball| {
        folders(tarball, &["etc", "etc/muster"])?;
        bytes(tarball, "etc/muster/serve.toml", &recipe.config)?;
        folders(tarball, &["usr", "usr/share", "usr/share/muster"])?;
        bytes(tarball, "usr/share/muster/sbom.json", bill)
    })?;
    Ok(layer)
}

fn write<T>(
    draft: &Draft,
    mtime: u64,
    comment: &'static str,
    fill: impl FnOnce(&mut Packed<'_>) -> Result<T, Error>,
) -> Result<(Layer, T), Error> {
    let (descriptor, (unpacked, result)) = draft.stream(LAYER, |out| {
        // No name, no time and an unknown system in the head of gzip (RFC 1952, 2.3).
        let packer = GzBuilder::new().mtime(0).operating_system(255).write(out, Compression::new(LEVEL));
        let mut tarball = Tarball::new(Hashing::new(packer), mtime);
        let result = fill(&mut tarball)?;
        let ended = tarball.finish().map_err(add("the end of a layer"))?;
        let (packer, unpacked, _) = ended.finish();
        packer.finish().map_err(Error::Layer)?;
        Ok::<_, Error>((unpacked, result))
    })?;
    Ok((Layer { descriptor, unpacked, comment }, result))
}

fn folders(tarball: &mut Packed<'_>, paths: &[&str]) -> Result<(), Error> {
    paths.iter().try_for_each(|path| tarball.folder(path, 0o755).map_err(add(path)))
}

fn bytes(tarball: &mut Packed<'_>, path: &str, content: &[u8]) -> Result<(), Error> {
    tarball.bytes(path, 0o644, content).map_err(add(path))
}

fn file(tarball: &mut Packed<'_>, path: &str, mode: u32, from: &Path, size: Option<u64>) -> Result<BlobDigest, Error> {
    let read = |source| Error::Read { path: from.to_owned(), source };
    let mut file = File::open(from).map_err(read)?;
    let size = match size {
        Some(size) => size,
        None => file.metadata().map_err(read)?.len(),
    };
    let content: &mut dyn Read = &mut file;
    tarball.file(path, mode, size, content).map_err(|source| Error::Add { path: from.to_owned(), source })
}

fn add(path: &str) -> impl FnOnce(tarball::Error) -> Error {
    let path = path.into();
    move |source| Error::Add { path, source }
}
