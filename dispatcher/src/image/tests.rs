//! What an image is, to the byte.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::archive::{write_docker_archive, write_oci_archive};
use super::build::{Built, Error, build};
use super::document::{BlobDigest, ImageConfig, Manifest, SBOM};
use super::layout::{self, Content, Layout, verify};
use super::platform::Platform;
use super::testing::{elf, recipe};

/// Changes when the format, the recipe or the packer changes, and then all images do: say so in the change's notes.
const GOLDEN: &str = "sha256:2030637faf992bfc74ea2d0f7fbcd792a1d9cf578ec1673b19b0532470508dfd";

fn built(folder: &Path) -> (Built, Layout) {
    let out = folder.join("image");
    let built = build(&recipe(folder), &out).expect("built");
    (built, Layout::open(&out).expect("a layout"))
}

fn manifests(layout: &Layout) -> Vec<Manifest> {
    let documents = layout.documents().expect("documents").into_iter();
    documents.filter_map(|d| if let Content::Manifest(m) = d.content { Some(*m) } else { None }).collect()
}

fn images(layout: &Layout) -> Vec<Manifest> {
    manifests(layout).into_iter().filter(|m| m.artifact_type.is_none()).collect()
}

fn files(layout: &Layout, manifest: &Manifest) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for layer in &manifest.layers {
        let file = fs::File::open(layout.blob(&layer.digest)).expect("a layer");
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let mut last = String::new();
        for entry in archive.entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").to_string_lossy().into_owned();
            let header = entry.header().clone();
            assert!(path > last, "{path} comes after {last}");
            assert_eq!((header.uid().expect("uid"), header.gid().expect("gid")), (0, 0), "{path}");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("content");
            found.insert(path.clone(), (header.mode().expect("a mode"), bytes));
            last = path;
        }
    }
    found
}

#[test]
fn an_image_built_twice_has_the_same_bytes_whatever_the_files_times_and_modes() {
    let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (first, layout) = built(one.path());
    let again = recipe(two.path());
    let private = fs::Permissions::from_mode(0o600);
    fs::set_permissions(again.bundle.join("model.onnx"), private).expect("set");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
    let model = fs::File::options().write(true).open(again.bundle.join("model.onnx")).expect("opened");
    model.set_modified(old).expect("set");
    let out = two.path().join("elsewhere");
    let second = build(&again, &out).expect("built");
    assert_eq!(first, second);
    let differ = Command::new("diff").arg("-r").arg(layout.folder()).arg(&out).status().expect("ran");
    assert!(differ.success(), "the folders differ");
    assert_eq!(first.digest.to_string(), GOLDEN);
}

#[test]
fn an_image_holds_what_the_recipe_says_and_nothing_to_log_in_with() {
    let folder = tempfile::tempdir().expect("a folder");
    let (built, layout) = built(folder.path());
    assert_eq!(built.manifests.iter().map(|m| m.platform).collect::<Vec<_>>(), [Platform::Amd64, Platform::Arm64]);
    let images = images(&layout);
    assert_eq!(images.len(), 2);
    for (image, platform) in images.iter().zip([Platform::Amd64, Platform::Arm64]) {
        let files = files(&layout, image);
        let modes: Vec<String> = files.iter().map(|(path, (mode, _))| format!("{mode:o} {path}")).collect();
        assert_eq!(
            modes,
            [
                "755 bundle/",
                "644 bundle/model.onnx",
                "755 bundle/weights/",
                "644 bundle/weights/layer 1.bin",
                "755 etc/",
                "644 etc/group",
                "755 etc/muster/",
                "644 etc/muster/serve.toml",
                "644 etc/passwd",
                "1777 tmp/",
                "755 usr/",
                "755 usr/bin/",
                "755 usr/bin/muster-agent",
                "755 usr/share/",
                "755 usr/share/muster/",
                "644 usr/share/muster/sbom.json",
            ]
        );
        assert_eq!(files["usr/bin/muster-agent"].1, elf(platform, None));
        assert_eq!(files["etc/muster/serve.toml"].1, b"[serve]\n");
    }
}

#[test]
fn the_process_is_nobody_and_the_layers_are_those_of_the_manifest() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, layout) = built(folder.path());
    for image in images(&layout) {
        let config = layout.read(&image.config).expect("read");
        let config: ImageConfig = serde_json::from_slice(&config).expect("a configuration");
        assert_eq!(config.config.user, "65532:65532");
        assert_eq!(config.config.entrypoint, ["/usr/bin/muster-agent"]);
        assert_eq!(config.config.labels["dev.muster.model"], "vision/digits");
        assert_eq!(config.config.labels["org.opencontainers.image.licenses"], "CC-BY-4.0");
        assert_eq!(config.config.labels["team"], "vision");
        assert_eq!(config.created, "2026-09-21T14:13:20Z");
        for (layer, unpacked) in image.layers.iter().zip(&config.rootfs.diff_ids) {
            let mut bytes = Vec::new();
            let file = fs::File::open(layout.blob(&layer.digest)).expect("a layer");
            flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
            assert_eq!(BlobDigest::of(&bytes), *unpacked);
        }
    }
}

#[test]
fn platforms_share_the_bundle_and_models_share_the_agent() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, layout) = built(folder.path());
    let [amd64, arm64] = images(&layout).try_into().expect("two images");
    assert_eq!(amd64.layers[0], arm64.layers[0]);
    assert_eq!(amd64.layers[2], arm64.layers[2]);
    let mut other = recipe(folder.path());
    fs::write(other.bundle.join("model.onnx"), b"another").expect("written");
    (other.created, other.version) = (other.created + 1, 4);
    let out = folder.path().join("other");
    build(&other, &out).expect("built");
    let [next, _] = images(&Layout::open(&out).expect("a layout")).try_into().expect("two images");
    assert_eq!(amd64.layers[..2], next.layers[..2]);
    assert_ne!(amd64.layers[2], next.layers[2]);
}

#[test]
fn the_bill_is_in_the_image_and_beside_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (built, layout) = built(folder.path());
    let bills: Vec<Manifest> = manifests(&layout).into_iter().filter(|m| m.artifact_type.is_some()).collect();
    for ((bill, image), made) in bills.iter().zip(images(&layout)).zip(&built.manifests) {
        assert_eq!(bill.artifact_type.as_deref(), Some(SBOM));
        assert_eq!(bill.subject.as_ref().map(|s| &s.digest), Some(&made.digest));
        let bytes = layout.read(&bill.layers[0]).expect("read");
        assert_eq!(files(&layout, &image)["usr/share/muster/sbom.json"].1, bytes);
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("json");
        let model = &json["components"][1];
        assert_eq!(model["licenses"][0]["license"]["name"], "CC-BY-4.0");
        assert_eq!(model["components"][0]["hashes"][0]["content"], BlobDigest::of(b"not really a model").hex());
        assert_eq!(json["components"][2]["purl"], "pkg:cargo/serde@1.0.0");
    }
    assert_eq!(bills.len(), 2);
}

#[test]
fn damage_is_found_and_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, layout) = built(folder.path());
    let whole = verify(&layout).expect("whole");
    let layer = images(&layout)[0].layers[2].digest.clone();
    let path = layout.blob(&layer);
    let good = fs::read(&path).expect("read");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for (bytes, words) in [
        (flipped, "its bytes have the digest"),
        (good[1..].to_vec(), "bytes instead of"),
        ([good.as_slice(), b"x"].concat(), "bytes instead of"),
    ] {
        fs::write(&path, bytes).expect("written");
        let error = verify(&layout).expect_err("damaged").to_string();
        assert!(error.contains(words) && error.contains(layer.hex()), "{error}");
    }
    fs::remove_file(&path).expect("removed");
    assert!(verify(&layout).expect_err("missing").to_string().contains("cannot read"));
    fs::write(&path, good).expect("written");
    assert_eq!(verify(&layout).expect("whole"), whole);
    fs::write(layout.folder().join("index.json"), b"{").expect("written");
    assert!(verify(&layout).expect_err("no json").to_string().contains("does not read as an index"));
    fs::write(layout.folder().join("oci-layout"), br#"{"imageLayoutVersion":"2.0.0"}"#).expect("written");
    assert!(Layout::open(layout.folder()).expect_err("version").to_string().contains("of version 2.0.0"));
    assert!(Layout::open(folder.path()).expect_err("none").to_string().contains("no OCI image layout"));
}

#[test]
fn an_earlier_image_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("image");
    let mut recipe = recipe(folder.path());
    build(&recipe, &out).expect("built");
    recipe.version = 4;
    let second = build(&recipe, &out).expect("built again");
    assert_eq!(Layout::open(&out).expect("open").image().expect("read").expect("named").digest, second.digest);
    fs::write(out.join("mine.txt"), b"keep").expect("written");
    for place in [out.as_path(), folder.path()] {
        let error = build(&recipe, place).expect_err("occupied");
        assert!(matches!(error, Error::Layout(layout::Error::Occupied(_))), "{error}");
    }
    assert!(out.join("mine.txt").exists());
    let left: Vec<_> = fs::read_dir(folder.path()).expect("read").flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().starts_with(".muster")), "{left:?}");
}

#[test]
fn what_would_not_run_is_not_built() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = recipe(folder.path());
    let script = folder.path().join("script");
    fs::write(&script, b"#!/bin/sh\n").expect("written");
    let arm = good.binaries[0].1.clone();
    for (binaries, words) in [
        (vec![], "needs an agent"),
        (vec![(Platform::Amd64, script)], "give a static one, built for x86_64-unknown-linux-musl"),
        (vec![(Platform::Amd64, arm.clone())], "a program for ARM with 64 bits"),
        (vec![(Platform::Arm64, arm.clone()), (Platform::Arm64, arm)], "two binaries for linux/arm64"),
        (vec![(Platform::Amd64, folder.path().join("none"))], "cannot read"),
    ] {
        let mut recipe = good.clone();
        recipe.binaries = binaries;
        let error = build(&recipe, &folder.path().join("image")).expect_err(words).to_string();
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    }
    let mut late = good.clone();
    late.created = u64::MAX;
    assert!(matches!(build(&late, &folder.path().join("image")), Err(Error::Created(_))));
    assert!(!folder.path().join("image").exists());
}

#[test]
fn archives_hold_the_same_blobs_and_are_reproducible_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_, layout) = built(folder.path());
    let read = |path: &Path| {
        let bytes = fs::read(path).expect("read");
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().expect("entries").map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("content");
            (entry.path().expect("a path").to_string_lossy().into_owned(), content)
        });
        (entries.collect::<BTreeMap<_, _>>(), BlobDigest::of(&bytes))
    };
    let [oci, again, docker] = ["oci.tar", "again.tar", "docker.tar"].map(|name| folder.path().join(name));
    write_oci_archive(&layout, &oci).expect("written");
    write_oci_archive(&layout, &again).expect("written");
    assert_eq!(read(&oci).1, read(&again).1);
    let whole = verify(&layout).expect("whole");
    assert_eq!(read(&oci).0.len(), whole.blobs + 4, "blobs, two folders, index and mark");

    write_docker_archive(&layout, Platform::Arm64, &docker).expect("written");
    let (entries, _) = read(&docker);
    let list: serde_json::Value = serde_json::from_slice(&entries["manifest.json"]).expect("json");
    assert_eq!(list[0]["RepoTags"][0], "docker.io/vision/digits:3");
    let layers = list[0]["Layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 4);
    assert!(layers.iter().all(|l| entries.contains_key(l.as_str().expect("a path"))));
    assert!(entries.contains_key(list[0]["Config"].as_str().expect("a path")));
    let error = write_docker_archive(&layout, Platform::ArmV7, &docker).expect_err("none").to_string();
    assert!(error.contains("no part for linux/arm/v7; it has linux/amd64, linux/arm64"), "{error}");
}
