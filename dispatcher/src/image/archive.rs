//! Layouts as single files: an OCI archive with everything, or what `docker load` reads for one platform.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::document::{CONTAINERD_NAME, DescribedPlatform, Descriptor, Manifest};
use super::layout::{self, Content, Layout, to_json};
use super::platform::Platform;
use super::tarball::{self, Tarball};

/// Why an archive was not written. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The layout does not read.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// The layout has no image for the platform.
    #[error("the image has no part for {wanted}; it has {}", .found.join(", "))]
    Platform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        found: Vec<String>,
    },
    /// The layout has no image with a name.
    #[error("{} names no image; build it again", .0.display())]
    Unnamed(PathBuf),
    /// A blob did not get into the archive.
    #[error("cannot add {} to the archive", .path.display())]
    Add {
        /// The blob.
        path: PathBuf,
        /// Why.
        #[source]
        source: tarball::Error,
    },
    /// The archive could not be written; the disk may be full.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The archive.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The file by which `docker load` finds its way.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Writes a whole layout as one tarball, for `podman load`, `skopeo copy oci-archive:` and `ctr images import`.
pub fn write_oci_archive(layout: &Layout, out: &Path) -> Result<(), Error> {
    let documents = layout.documents()?;
    let mut blobs: Vec<Descriptor> = documents.iter().map(|d| d.descriptor.clone()).collect();
    blobs.extend(layout::blobs(&documents));
    blobs.sort_by(|a, b| a.digest.cmp(&b.digest));
    blobs.dedup_by(|a, b| a.digest == b.digest);
    let index = layout.index()?;
    write(out, |tarball| {
        let add = |path: &str| {
            let path = layout.folder().join(path);
            move |source| Error::Add { path, source }
        };
        tarball.folder("blobs", 0o755).map_err(add("blobs"))?;
        tarball.folder("blobs/sha256", 0o755).map_err(add("blobs/sha256"))?;
        for blob in &blobs {
            add_blob(tarball, layout, blob, &format!("blobs/sha256/{}", blob.digest.hex()))?;
        }
        tarball.bytes("index.json", 0o644, &to_json(&index)).map_err(add("index.json"))?;
        tarball.bytes("oci-layout", 0o644, layout::MARK_CONTENT).map_err(add("oci-layout"))
    })
}

/// Writes the image of one platform as `docker load` reads it. Docker's format has no index and no attached bills.
pub fn write_docker_archive(layout: &Layout, platform: Platform, out: &Path) -> Result<(), Error> {
    let (name, image) = find(layout, platform)?;
    let config = format!("{}.json", image.config.digest.hex());
    let layer_path = |layer: &Descriptor| format!("{}.tar.gz", layer.digest.hex());
    let entry = DockerEntry {
        config: config.clone(),
        repo_tags: vec![name],
        layers: image.layers.iter().map(layer_path).collect(),
    };
    write(out, |tarball| {
        add_blob(tarball, layout, &image.config, &config)?;
        for layer in &image.layers {
            add_blob(tarball, layout, layer, &layer_path(layer))?;
        }
        let path = layout.folder().join("manifest.json");
        tarball.bytes("manifest.json", 0o644, &to_json(&[entry])).map_err(|source| Error::Add { path, source })
    })
}

/// The layout's image for `platform`, and its name.
fn find(layout: &Layout, platform: Platform) -> Result<(String, Manifest), Error> {
    let unnamed = || Error::Unnamed(layout.folder().to_owned());
    let image = layout.image()?.ok_or_else(unnamed)?;
    let name = image.annotations.get(CONTAINERD_NAME).cloned().ok_or_else(unnamed)?;
    let Content::Index(index) = layout.document(&image)?.content else { return Err(unnamed()) };
    let wanted = DescribedPlatform::from(platform);
    let fits = |d: &&Descriptor| d.platform.as_ref() == Some(&wanted);
    let Some(descriptor) = index.manifests.iter().find(fits) else {
        let found = index.manifests.iter().filter_map(|d| d.platform.as_ref());
        let found = found.map(|p| format!("{}/{}", p.os, p.architecture)).collect();
        return Err(Error::Platform { wanted: platform, found });
    };
    match layout.document(descriptor)?.content {
        Content::Manifest(manifest) => Ok((name, *manifest)),
        Content::Index(_) => Err(unnamed()),
    }
}

fn add_blob<W: Write>(tarball: &mut Tarball<W>, layout: &Layout, blob: &Descriptor, inside: &str) -> Result<(), Error> {
    let path = layout.blob(&blob.digest);
    let mut file = File::open(&path).map_err(|source| layout::Error::Read { path: path.clone(), source })?;
    let found = tarball
        .file(inside, 0o644, blob.size, &mut file)
        .map_err(|source| Error::Add { path: path.clone(), source })?;
    if found != blob.digest {
        return Err(layout::Error::Digest { digest: blob.digest.clone(), found }.into());
    }
    Ok(())
}

/// Writes beside `out`, and moves the archive there when it is whole.
fn write(
    out: &Path,
    fill: impl FnOnce(&mut Tarball<io::BufWriter<&mut File>>) -> Result<(), Error>,
) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let fail = |source| Error::Write { path: out.to_owned(), source };
    let beside = match out.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(beside).map_err(fail)?;
    let mut tarball = Tarball::new(io::BufWriter::new(file.as_file_mut()), 0);
    fill(&mut tarball)?;
    let ended = tarball.finish().map_err(|source| Error::Add { path: out.to_owned(), source })?;
    ended.into_inner().map_err(|e| fail(e.into_error()))?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(fail)?;
    file.persist(out).map_err(|e| fail(e.error))?;
    Ok(())
}
