//! The model repository as any TUF client asks for it over HTTPS.

use bytes::Bytes;
use muster_proto::id::Digest;
use muster_proto::manifest::MAX_MANIFEST;
use muster_proto::transfer::Metadata;

use super::{App, Error, Result};
use crate::blobs::Kind;

impl App {
    /// A file of the TUF metadata as clients ask for it: `timestamp.json`, `3.snapshot.json`, `1.root.json`,
    /// `director/1.root.json`.
    pub async fn tuf_metadata(&self, file: &str) -> Result<Bytes> {
        let missing = || Error::NotFound(format!("metadata {file}"));
        let which = parse(file).ok_or_else(missing)?;
        let bytes = self.0.signing.run(move |signer| signer.metadata(&which)).await;
        bytes.map(Bytes::from).ok_or_else(missing)
    }

    /// A TUF target by its path, with the digest before the file name (consistent snapshots) or without.
    pub async fn tuf_target(&self, path: &str) -> Result<Bytes> {
        let missing = || Error::NotFound(format!("target {path}"));
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let (digest, name) = match name.split_once('.') {
            Some((digest, name)) if digest.len() == 64 => {
                (Some(digest.parse::<Digest>().map_err(|_| missing())?), name)
            }
            _ => (None, name),
        };
        let plain = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let target = self.0.signing.run(move |signer| signer.target(&plain)).await.ok_or_else(missing)?;
        if digest.is_some_and(|digest| digest != target.digest) {
            return Err(missing());
        }
        Ok(self.0.blobs.read(Kind::Blob, target.digest, MAX_MANIFEST as u64).await?)
    }
}

/// The document that is called `file`.
pub(crate) fn parse(file: &str) -> Option<Metadata> {
    if file == "timestamp.json" {
        return Some(Metadata::Timestamp);
    }
    let (director, name) = match file.strip_prefix("director/") {
        Some(name) => (true, name),
        None => (false, file),
    };
    let (version, role) = name.strip_suffix(".json")?.split_once('.')?;
    // One name for each file: no `+1` and no `01`.
    let version = version.parse::<u64>().ok().filter(|v| v.to_string() == version && *v > 0)?;
    match (director, role) {
        (true, "root") => Some(Metadata::DirectorRoot(version)),
        (false, "root") => Some(Metadata::Root(version)),
        (false, "snapshot") => Some(Metadata::Snapshot(version)),
        (false, "targets") => Some(Metadata::Targets(version)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_files_have_one_name_each() {
        let table = [
            ("timestamp.json", Some(Metadata::Timestamp)),
            ("3.snapshot.json", Some(Metadata::Snapshot(3))),
            ("1.root.json", Some(Metadata::Root(1))),
            ("12.targets.json", Some(Metadata::Targets(12))),
            ("director/1.root.json", Some(Metadata::DirectorRoot(1))),
            ("director/1.targets.json", None),
            ("root.json", None),
            ("0.root.json", None),
            ("01.root.json", None),
            ("+1.root.json", None),
            ("../1.root.json", None),
            ("1.root.json/", None),
        ];
        for (file, want) in table {
            assert_eq!(parse(file), want, "{file}");
        }
    }
}
