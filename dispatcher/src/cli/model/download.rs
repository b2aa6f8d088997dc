//! `muster model download`: each file is compared with the manifest before its folder appears.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use muster_agent::serve::bundle::{MANIFEST, TRUST};
use muster_agent::serve::metadata::{self, collect};
use muster_proto::code::Code;
use muster_proto::id::{Digest, Hasher};
use muster_proto::manifest::{self, BundleManifest, MAX_MANIFEST};
use muster_proto::trust::MAX_TARGETS;

use super::{path, version_path};
use crate::app::ModelView;
use crate::cli::output::size;
use crate::cli::parse::{ModelSpec, VersionSpec};
use crate::cli::{Failure, Session};

/// What was downloaded.
pub(in crate::cli) struct Downloaded {
    pub version: VersionSpec,
    pub digest: Digest,
    pub manifest: BundleManifest,
    pub folder: PathBuf,
}

pub(super) fn run(model: &ModelSpec, to: Option<PathBuf>, session: &Session) -> anyhow::Result<()> {
    let Downloaded { version, digest, manifest, folder } = fetch(model, to, session)?;
    session.out.value(
        &serde_json::json!({
            "model": version.name, "version": version.version, "digest": digest,
            "folder": folder, "files": manifest.files.len(), "size": manifest.total_size(),
        }),
        || {
            let (files, bytes) = (manifest.files.len(), size(manifest.total_size()));
            format!(
                "{}:{} is in {}: {files} files, {bytes}, all verified.",
                version.name,
                version.version,
                folder.display()
            )
        },
    )?;
    Ok(())
}

/// Downloads a version into a folder, which appears whole or not at all.
pub(in crate::cli) fn fetch(model: &ModelSpec, to: Option<PathBuf>, session: &Session) -> anyhow::Result<Downloaded> {
    let Session { client, out } = session;
    let view: ModelView = client.get(&path(model))?.parse()?;
    let version = VersionSpec { name: view.summary.model.clone(), version: view.summary.version };
    let folder = to.unwrap_or_else(|| PathBuf::from(format!("{}-{}", version.name.default_slot(), version.version)));
    if folder.exists() {
        return Err(
            Failure::usage(format!("{} exists already", folder.display()), "name another folder by --to").into()
        );
    }
    let base = version_path(&version);
    let bytes = read_manifest(client.download(&format!("{base}/manifest"))?.1, view.summary.digest)?;
    let manifest = BundleManifest::parse(&bytes).map_err(|e| Failure::new(Code::ManifestInvalid, e.to_string()))?;
    let bar = out.bar(manifest.total_size(), "downloading {bar:40} {bytes:>10} of {total_bytes}, {bytes_per_sec}");
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot_write = |e: std::io::Error| {
        Failure::new(Code::StoreFailed, format!("cannot write {}: {e}", folder.display()))
            .with_next("check the folder's permissions and free space")
    };
    fs::create_dir_all(parent).map_err(cannot_write)?;
    let staging = tempfile::Builder::new().prefix(".muster-").tempdir_in(parent).map_err(cannot_write)?;
    for file in &manifest.files {
        let (_, reader) = client.download(&format!("{base}/files/{}", file.digest))?;
        write_verified(bar.wrap_read(reader), file, staging.path())?;
    }
    fs::write(staging.path().join(MANIFEST), &bytes).map_err(cannot_write)?;
    let trust = staging.path().join(TRUST);
    fs::create_dir_all(&trust).map_err(cannot_write)?;
    for (name, bytes) in metadata(session)? {
        fs::write(trust.join(name), bytes).map_err(cannot_write)?;
    }
    bar.finish_and_clear();
    // The folder appears whole or not at all.
    fs::rename(staging.keep(), &folder).map_err(cannot_write)?;
    Ok(Downloaded { version, digest: view.summary.digest, manifest, folder })
}

/// The signed metadata of now, which say that the version was signed.
fn metadata(session: &Session) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let get = |name: &str| -> Result<Option<Vec<u8>>, anyhow::Error> {
        let path = format!("/tuf/metadata/{name}");
        if name.ends_with("root.json") && !session.client.exists(&path)? {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        session.client.download(&path)?.1.take(MAX_TARGETS as u64 + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    match collect(None, None, get) {
        Ok(collected) => Ok(collected.files),
        Err(metadata::Error::Source(error)) => Err(error),
        Err(other) => Err(Failure::new(Code::MetadataInvalid, format!("the dispatcher's metadata: {other}")).into()),
    }
}

fn read_manifest(reader: impl Read, digest: Digest) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_MANIFEST as u64 + 1).read_to_end(&mut bytes)?;
    if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(changed("the manifest").into()) }
}

/// Writes a file under `folder`; refuses it where a byte is not the manifest's.
fn write_verified(reader: impl Read, file: &manifest::File, folder: &Path) -> anyhow::Result<()> {
    let path = folder.join(file.path.as_str());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut target = File::create_new(&path)?;
    // One byte more than it should have tells a longer file from the right one.
    let mut reader = reader.take(file.size.saturating_add(1));
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 1 << 16]);
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        target.write_all(&buffer[..count])?;
    }
    target.sync_all()?;
    if hasher.finish() == file.digest { Ok(()) } else { Err(changed(file.path.as_str()).into()) }
}

fn changed(what: &str) -> Failure {
    Failure::new(Code::DigestMismatch, format!("{what} is not what was signed"))
        .with_next("try again; if it stays so, the dispatcher's store is damaged or was changed")
}

#[cfg(test)]
mod tests {
    use muster_proto::manifest::{Blob, Codec};

    use super::*;

    #[test]
    fn a_changed_cut_or_longer_file_is_refused() {
        let good = b"weights";
        let file = |path: &str| manifest::File {
            path: path.parse().expect("a path"),
            size: good.len() as u64,
            digest: Digest::of(good),
            blob: Blob::describe(Codec::Stored, good, 1024),
        };
        let dir = tempfile::tempdir().expect("temp dir");
        write_verified(&good[..], &file("deep/ok"), dir.path()).expect("verified");
        assert_eq!(fs::read(dir.path().join("deep/ok")).expect("there"), good);
        for (name, bad) in [("changed", &b"weightz"[..]), ("cut", b"weight"), ("longer", b"weights!")] {
            let error = write_verified(bad, &file(name), dir.path()).expect_err(name).to_string();
            assert_eq!(error, format!("{name} is not what was signed"));
        }
        assert!(read_manifest(&good[..], Digest::of(good)).is_ok());
        assert!(read_manifest(&b"other"[..], Digest::of(good)).is_err());
    }
}
