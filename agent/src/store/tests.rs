use muster_proto::id::Digest;
use muster_proto::manifest::{Blob, Codec, File};
use muster_proto::transfer::chunk_size_for;

use super::*;
use crate::core::Durable;
use crate::core::event::Source;
use crate::core::outbox::{Entry, Kind};

fn bytes(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| (i * 31 + usize::from(seed) * 7 + i / 251) as u8).collect()
}

fn file(content: &[u8], blob: &[u8], codec: Codec) -> File {
    File {
        path: "model.onnx".parse().expect("valid"),
        size: content.len() as u64,
        digest: Digest::of(content),
        blob: Blob::describe(codec, blob, chunk_size_for(blob.len() as u64)),
    }
}

fn compressed(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).expect("compresses")
}

fn delta(base: &[u8], content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(&mut out, 3, base).expect("encoder");
    std::io::Write::write_all(&mut encoder, content).expect("compresses");
    encoder.finish().expect("compresses");
    out
}

/// The manifest of a version that consists of this one file.
fn manifest_of(file: &File) -> BundleManifest {
    let json = serde_json::json!({
        "schema": muster_proto::manifest::SCHEMA,
        "model": "digits",
        "version": 1,
        "created_at": 0,
        "entry": file.path,
        "files": [file],
        "engine": { "name": "tract", "version": "0", "load": {} },
        "inputs": [{ "name": "x", "dtype": "f32", "shape": [1] }],
        "outputs": [{ "name": "y", "dtype": "f32", "shape": [1] }],
        "samples": {
            "file": file.path, "count": 0, "outputs_from": "given",
            "tolerance": { "absolute": 0.1, "relative": 0.1 },
        },
        "measured": {},
    });
    BundleManifest::parse(json.to_string().as_bytes()).expect("valid")
}

fn write_blob(files: &Files, blob: &Blob, content: &[u8]) {
    files.open_blob(blob).expect("opens");
    files.write_chunk(&blob.digest, 0, content).expect("writes");
}

#[test]
fn a_store_gives_back_what_was_kept() {
    let dir = tempfile::tempdir().expect("temp dir");
    let durable = Durable { incarnation: 7, id_ceiling: 1024, ..Durable::default() };
    let signed = vec![(Signed::Root, Some(b"root".to_vec())), (Signed::Targets, Some(b"targets".to_vec()))];
    {
        let (store, contents) = Store::open(dir.path()).expect("opens");
        assert!(contents.durable.is_none() && contents.moved_aside.is_none());
        store.index.save(&durable).expect("saves");
        store.index.keep_signed(&signed).expect("keeps");
        let entry = Entry { kind: Kind::Outcome, size: 3, made_at: 9 };
        store.index.put(5, entry, b"abc".to_vec()).expect("puts");
        store.index.put(6, entry, b"abd".to_vec()).expect("puts");
        store.index.remove(&[6]).expect("removes");
    }
    let (store, contents) = Store::open(dir.path()).expect("opens again");
    assert_eq!(contents.durable, Some(durable));
    assert_eq!(contents.signed.get(&Signed::Root).map(Vec::as_slice), Some(&b"root"[..]));
    assert_eq!(contents.outbox.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [5]);
    assert_eq!(store.index.message(5).expect("reads"), Some(b"abc".to_vec()));
    assert_eq!(store.index.message(6).expect("reads"), None);
}

#[test]
fn a_second_agent_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (_store, _) = Store::open(dir.path()).expect("opens");
    assert!(matches!(Store::open(dir.path()), Err(Error::InUse { .. })));
}

#[test]
fn a_broken_index_is_moved_aside_and_the_signed_copies_are_found() {
    let dir = tempfile::tempdir().expect("temp dir");
    let signed = vec![(Signed::Desired, Some(b"desired".to_vec()))];
    {
        let (store, _) = Store::open(dir.path()).expect("opens");
        store.index.save(&Durable::default()).expect("saves");
        store.index.keep_signed(&signed).expect("keeps");
        store.files.keep_signed(&signed).expect("keeps");
    }
    for entry in std::fs::read_dir(dir.path().join("index")).expect("index").flatten() {
        if entry.path().is_file() {
            std::fs::write(entry.path(), [0xa5u8; 4096]).expect("overwritten");
        }
    }
    let (store, contents) = Store::open(dir.path()).expect("opens all the same");
    assert!(contents.moved_aside.expect("moved").exists());
    assert!(contents.durable.is_none());
    assert_eq!(contents.signed.get(&Signed::Desired).map(Vec::as_slice), Some(&b"desired"[..]));
    store.index.save(&Durable::default()).expect("the new index works");
}

#[test]
fn a_state_that_cannot_be_read_is_moved_aside_too() {
    let dir = tempfile::tempdir().expect("temp dir");
    {
        let db = sled::open(dir.path().join("index")).expect("opens");
        db.open_tree("state").expect("tree").insert("durable", &[9u8, 9, 9][..]).expect("inserts");
        db.flush().expect("flushes");
    }
    let (_, contents) = Store::open(dir.path()).expect("opens");
    assert!(contents.moved_aside.is_some());
}

#[test]
fn files_are_assembled_from_every_kind_of_blob() {
    let dir = tempfile::tempdir().expect("temp dir");
    let files = Files::open(dir.path()).expect("opens");
    let base = bytes(200_000, 1);
    let mut next = base.clone();
    next[100_000] ^= 0xff;
    for (content, blob, codec) in
        [(&base, compressed(&base), Codec::Zstd), (&bytes(5000, 3), bytes(5000, 3), Codec::Stored)]
    {
        let file = file(content, &blob, codec);
        write_blob(&files, &file.blob, &blob);
        files.assemble(&file, &Source::Full).expect("assembles");
        assert_eq!(files.whole().expect("lists").get(&file.digest), Some(&file.size));
        assert!(!dir.path().join("partial").join(file.blob.digest.to_string()).exists());
    }
    let target = file(&next, &compressed(&next), Codec::Zstd);
    let patch = delta(&base, &next);
    assert!(patch.len() < 1000, "a delta of {} bytes", patch.len());
    let blob = Blob::describe(Codec::Zstd, &patch, 4096);
    write_blob(&files, &blob, &patch);
    let source = Source::Delta { base: Digest::of(&base), delta: blob.digest };
    files.assemble(&target, &source).expect("assembles");
    assert_eq!(std::fs::read(dir.path().join("files").join(target.digest.to_string())).expect("reads"), next);
}

#[test]
fn invariant_1_nothing_wrong_gets_the_name_of_a_digest() {
    let dir = tempfile::tempdir().expect("temp dir");
    let files = Files::open(dir.path()).expect("opens");
    let content = bytes(10_000, 1);
    let other = compressed(&bytes(10_000, 2));
    let bomb = compressed(&vec![0u8; 50_000_000]);
    let cut = compressed(&content)[..100].to_vec();
    for (what, blob) in [("other content", other), ("a bomb", bomb), ("a cut frame", cut), ("noise", bytes(500, 9))] {
        let file = file(&content, &blob, Codec::Zstd);
        write_blob(&files, &file.blob, &blob);
        let result = files.assemble(&file, &Source::Full);
        assert!(matches!(result, Err(Error::Mismatch { .. })), "{what}: {result:?}");
        assert!(files.whole().expect("lists").is_empty(), "{what} got a name");
        assert_eq!(std::fs::read_dir(dir.path().join("files")).expect("lists").count(), 0, "{what} left something");
    }
}

#[test]
fn a_partial_blob_counts_only_whole_chunks() {
    let dir = tempfile::tempdir().expect("temp dir");
    let files = Files::open(dir.path()).expect("opens");
    let content = bytes(10_000, 1);
    let blob = Blob::describe(Codec::Stored, &content, 4096);
    assert_eq!(files.open_blob(&blob).expect("opens"), [false; 3]);
    files.write_chunk(&blob.digest, 8192, &content[8192..]).expect("writes");
    assert_eq!(files.open_blob(&blob).expect("opens"), [false, false, true]);
    files.write_chunk(&blob.digest, 0, &content[..4096]).expect("writes");
    files.write_chunk(&blob.digest, 4096, &[1; 4096]).expect("writes");
    assert_eq!(files.open_blob(&blob).expect("opens"), [true, false, true]);
    files.drop_blob(&blob.digest).expect("removes");
    files.drop_blob(&blob.digest).expect("removes again without harm");
}

#[test]
fn damaged_manifests_are_moved_aside_and_not_used() {
    let dir = tempfile::tempdir().expect("temp dir");
    let files = Files::open(dir.path()).expect("opens");
    let digest = Digest::of(b"{}");
    files.keep_manifest(&digest, b"{}").expect("keeps");
    assert!(files.manifests().expect("lists").is_empty());
    let aside = dir.path().join("manifests").join(format!("{digest}.broken"));
    assert!(aside.exists());
}

#[test]
fn a_full_disk_has_its_own_code_wherever_it_shows() {
    let failed = |kind: std::io::ErrorKind| {
        let path = Path::new("/data/files/x");
        let index = sled::Error::Io(std::io::Error::from(kind));
        [
            io("cannot write", path)(std::io::Error::from(kind)),
            Error::Index { path: path.to_owned(), source: Box::new(index) },
        ]
    };
    for error in failed(std::io::ErrorKind::StorageFull) {
        assert_eq!(error.failure().code, Code::DiskFull, "{error}");
        assert!(error.failure().detail.contains("/data/files/x"), "{}", error.failure().detail);
    }
    for error in failed(std::io::ErrorKind::PermissionDenied) {
        assert_eq!(error.failure().code, Code::StoreFailed, "{error}");
    }
}

#[test]
fn invariant_1_a_file_that_changed_on_disk_is_found_before_it_is_loaded() {
    let dir = tempfile::tempdir().expect("temp dir");
    let files = Files::open(dir.path()).expect("opens");
    let content = bytes(5000, 3);
    let file = file(&content, &content, Codec::Stored);
    let manifest = manifest_of(&file);
    let digest = Digest::of(b"the manifest");
    let place = dir.path().join("files").join(file.digest.to_string());
    let mut changed = content.clone();
    changed[4321] ^= 1;
    let longer = [&content[..], b"x"].concat();
    for (what, damaged) in [("a changed byte", changed), ("a cut file", content[..4999].to_vec()), ("more", longer)] {
        write_blob(&files, &file.blob, &content);
        files.assemble(&file, &Source::Full).expect("assembles");
        files.lay_out(&manifest, &digest).expect("lays out what is whole");
        std::fs::write(&place, damaged).expect("overwritten");
        let (error, removed) = files.lay_out(&manifest, &digest).expect_err(what);
        assert_eq!(error.code(), Code::DigestMismatch, "{what}: {error}");
        assert_eq!(removed, [file.digest], "{what}");
        assert!(!place.exists(), "{what} stayed");
        assert!(!dir.path().join("bundles").join(digest.to_string()).exists(), "{what} stayed laid out");
    }
}
