//! With real stores in a temporary folder, the real signer and the devices' own engine.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Mutex as StdMutex;

use futures_util::stream;
use muster_proto::manifest::{OutputsFrom, SampleSet, Tolerance};
use muster_proto::wire;

use super::*;
use crate::app::view::{RegistrationFile, SampleFile};
use crate::signer::Signer;

struct World {
    dir: tempfile::TempDir,
    storage: Storage,
    blobs: Blobs,
    signing: Signing,
    registry: Registry,
}

async fn world() -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = Storage::open(&dir.path().join("muster.db")).await.expect("opens");
    let blobs = Blobs::open(&dir.path().join("blobs")).await.expect("opens");
    let workspace = "default".parse().expect("valid");
    let signer = Signer::load_or_create(&dir.path().join("signer"), workspace, crate::now()).expect("makes keys");
    let signing = Signing::new(signer);
    let registry = open(&dir, &storage, &blobs, &signing).await;
    World { dir, storage, blobs, signing, registry }
}

async fn open(dir: &tempfile::TempDir, storage: &Storage, blobs: &Blobs, signing: &Signing) -> Registry {
    let work = dir.path().join("work");
    Registry::open(storage.clone(), blobs.clone(), signing.clone(), work).await.expect("opens")
}

fn read(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/digits");
    std::fs::read(folder.join(name)).expect("is checked in")
}

async fn upload(world: &World, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let body = stream::iter([Ok::<_, Infallible>(Bytes::copy_from_slice(bytes))]);
    world.blobs.upload(Kind::Raw, digest, 1 << 30, body).await.expect("takes it");
    digest
}

async fn digits(world: &World, version: u32) -> Registration {
    let digest = upload(world, &read(&format!("digits-{version}.onnx"))).await;
    Registration {
        name: "vision/digits".parse().expect("valid"),
        files: vec![RegistrationFile { path: "digits.onnx".parse().expect("valid"), digest }],
        entry: None,
        description: "reads digits".into(),
        tags: BTreeMap::from([("stage".into(), "test".into())]),
        properties: BTreeMap::from([("lineage".into(), "train.py".into())]),
        samples: Some(samples(version)),
        input_shapes: BTreeMap::new(),
        transforms: Some(serde_json::from_slice(&read("transforms.json")).expect("reads")),
        tolerance: None,
        requires: Default::default(),
        script: None,
    }
}

fn samples(version: u32) -> SampleFile {
    serde_json::from_slice(&read(&format!("sample-{version}.json"))).expect("reads")
}

async fn register(world: &World, registration: Registration) -> Result<Registered, Error> {
    world.registry.register(registration, "ann", |_| {}).await
}

/// Nothing of a refused registration is visible anywhere.
async fn assert_nothing_registered(world: &World) {
    assert_eq!(world.storage.versions().await.expect("reads"), []);
    assert_eq!(world.signing.blocking(|signer| signer.targets().count()), 0);
}

#[tokio::test]
async fn a_version_is_run_probed_packed_and_signed() {
    let world = world().await;
    let steps = StdMutex::new(vec![]);
    let note = |step: &str| steps.lock().expect("not poisoned").push(step.to_owned());
    let first = world.registry.register(digits(&world, 1).await, "ann", note).await.expect("registers");
    assert_eq!((first.version, first.already_registered, first.warnings.len()), (Version(1), false, 0));
    assert_eq!(steps.into_inner().expect("not poisoned").last().map(String::as_str), Some("signing"));

    let manifest = &first.manifest;
    assert_eq!(manifest.samples.outputs_from, OutputsFrom::Given);
    assert_eq!(manifest.samples.count, 4);
    assert_eq!(manifest.measured.parameters, 25_866);
    assert_eq!(manifest.measured.operators["Conv"], 3);
    assert!(manifest.measured.memory_bytes > 0 && manifest.measured.inference_us > 0);
    assert_eq!(manifest.inputs[0].name, "image");
    let report = first.report.as_ref().expect("has one");
    assert!(report.max_abs_error.is_some_and(|e| e < 1e-3));

    // Everything that the manifest names is there, whole, and decodes to what it says.
    for file in &manifest.files {
        let blob = world.blobs.read(Kind::Blob, file.blob.digest, 1 << 30).await.expect("is there");
        assert_eq!(Digest::of(&blob), file.blob.digest);
        for (index, chunk) in blob.chunks(file.blob.chunk_size as usize).enumerate() {
            assert!(file.blob.accepts(index as u32, chunk));
        }
        let raw = world.blobs.read(Kind::Raw, file.digest, 1 << 30).await.expect("is there");
        assert_eq!(Digest::of(&raw), file.digest);
        if file.blob.codec == muster_proto::manifest::Codec::Zstd {
            assert_eq!(zstd::stream::decode_all(&blob[..]).expect("decodes"), raw);
        }
    }
    let set = manifest.file(&SAMPLES_FILE.parse().expect("valid")).expect("is there");
    let set = world.blobs.read(Kind::Raw, set.digest, 1 << 20).await.expect("is there");
    let SampleSet::V1(golden) = wire::decode(&set).expect("decodes") else { panic!("of another version") };
    assert_eq!(golden.len(), 4);

    // The signed target is exactly the stored manifest.
    let target = world.signing.blocking(|signer| signer.target("vision/digits/1/manifest")).expect("is signed");
    let bytes = world.storage.manifest(&manifest.model, Version(1)).await.expect("reads").expect("is there");
    assert_eq!((target.digest, target.length), (Digest::of(&bytes), bytes.len() as u64));
    assert_eq!(target.digest, first.digest);
    assert_eq!(BundleManifest::parse(&bytes).expect("parses"), *manifest);
}

#[tokio::test]
async fn numbers_grow_and_the_same_content_says_so() {
    let world = world().await;
    register(&world, digits(&world, 1).await).await.expect("registers");
    let second = register(&world, digits(&world, 2).await).await.expect("registers");
    assert_eq!(second.version, Version(2));
    let mut again = digits(&world, 1).await;
    again.description = "another text".into();
    let again = register(&world, again).await.expect("answers");
    assert_eq!((again.version, again.already_registered), (Version(1), true));

    let name: ModelName = "vision/digits".parse().expect("valid");
    world.registry.delete(&name, Version(2)).await.expect("deletes");
    assert!(world.signing.blocking(|signer| signer.target("vision/digits/2/manifest")).is_none());
    let third = register(&world, digits(&world, 2).await).await.expect("registers");
    assert_eq!(third.version, Version(3), "a number is never given again");
}

#[tokio::test]
async fn outputs_that_the_engine_does_not_give_are_named_and_refused() {
    let world = world().await;
    let mut registration = digits(&world, 1).await;
    // The outputs of another version.
    registration.samples = Some(samples(2));
    let error = register(&world, registration).await.expect_err("is refused");
    assert_eq!(error.code(), Code::ProbeMismatch);
    let message = error.to_string();
    for part in ["sample \"seven\"", "output \"logits\"", "element", "wanted", "got"] {
        assert!(message.contains(part), "{message}");
    }
    assert_nothing_registered(&world).await;
}

#[tokio::test]
async fn without_outputs_or_samples_it_is_registered_and_loudly_warned_of() {
    let world = world().await;
    let mut bare = digits(&world, 1).await;
    bare.samples.as_mut().expect("has some").samples[1].outputs.clear();
    let bare = register(&world, bare).await.expect("registers");
    assert!(bare.warnings[0].starts_with("NO EXPECTED OUTPUTS"), "{:?}", bare.warnings);
    assert_eq!(bare.manifest.samples.outputs_from, OutputsFrom::Engine);

    let mut none = digits(&world, 1).await;
    none.samples = None;
    let none = register(&world, none).await.expect("registers");
    assert!(none.warnings[0].starts_with("NO SAMPLES"), "{:?}", none.warnings);
    assert_eq!((none.manifest.samples.count, none.version), (1, Version(2)));
    assert!(!none.report.expect("has one").load_notes.is_empty(), "the batch size was left open");
}

#[tokio::test]
async fn what_is_no_model_or_does_not_fit_is_refused_whole() {
    let world = world().await;
    let mut text = digits(&world, 1).await;
    text.files[0].digest = upload(&world, b"this is a text").await;
    let error = register(&world, text).await.expect_err("is refused");
    assert_eq!(error.code(), Code::ModelInvalid, "{error}");
    assert!(!error.to_string().contains("work/"), "the working folder means nothing to a person: {error}");

    let mut absent = digits(&world, 1).await;
    absent.files[0].digest = Digest::of(b"never uploaded");
    assert!(matches!(register(&world, absent).await, Err(Error::NotUploaded { .. })));

    let mut steps = digits(&world, 1).await;
    steps.transforms = serde_json::from_str(r#"{"inputs": {"sound": [{"op": "scale", "factor": 2.0}]}}"#).ok();
    assert!(matches!(register(&world, steps).await, Err(Error::Request(_))));

    let mut tight = digits(&world, 1).await;
    tight.tolerance = Some(Tolerance { absolute: 0.0, relative: 0.0 });
    let error = register(&world, tight).await.expect_err("is refused");
    assert_eq!(error.code(), Code::ProbeMismatch);
    assert_nothing_registered(&world).await;
}

#[tokio::test]
async fn a_full_database_leaves_nothing_half_registered() {
    let world = world().await;
    let registration = digits(&world, 1).await;
    world.storage.refuse_writes(true).await;
    assert!(matches!(register(&world, registration.clone()).await, Err(Error::Storage(_))));
    world.storage.refuse_writes(false).await;
    assert_nothing_registered(&world).await;
    register(&world, registration).await.expect("registers");
}

#[tokio::test]
async fn what_a_crash_cut_off_is_taken_back_at_the_next_start() {
    let world = world().await;
    let registered = register(&world, digits(&world, 1).await).await.expect("registers");
    // A registration that was signed, and a deletion that was begun.
    let half = Digest::of(b"half");
    world
        .signing
        .blocking(|signer| signer.add_target("vision/digits/2/manifest", 4, half, None, crate::now()))
        .expect("signs");
    world.signing.blocking(|signer| signer.remove_target("vision/digits/1/manifest", crate::now())).expect("signs");

    let registry = open(&world.dir, &world.storage, &world.blobs, &world.signing).await;
    let targets: Vec<String> = world.signing.blocking(|s| s.targets().map(|(path, _)| path.to_owned()).collect());
    assert_eq!(targets, ["vision/digits/1/manifest"]);
    let kept = world.signing.blocking(|signer| signer.target("vision/digits/1/manifest")).expect("is there");
    assert_eq!(kept.digest, registered.digest);
    let next = registry.register(digits(&world, 2).await, "ann", |_| {}).await.expect("registers");
    assert_eq!(next.version, Version(3), "the number of what was cut off is not given again");
}

#[tokio::test]
async fn clearing_away_keeps_what_versions_need_and_what_is_fresh() {
    let world = world().await;
    let registered = register(&world, digits(&world, 1).await).await.expect("registers");
    let stray = upload(&world, b"uploaded and never used").await;
    world.registry.clear_away().await.expect("clears");
    assert!(world.blobs.size(Kind::Raw, stray).await.expect("finds").is_some(), "its registration may still come");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(25 * 3600);
    let age = |folder: &str| {
        for entry in std::fs::read_dir(world.dir.path().join("blobs").join(folder)).expect("reads") {
            for file in std::fs::read_dir(entry.expect("reads").path()).expect("reads") {
                let file = std::fs::File::options().write(true).open(file.expect("reads").path()).expect("opens");
                file.set_modified(old).expect("sets");
            }
        }
    };
    age("raw");
    age("blob");
    world.registry.clear_away().await.expect("clears");
    assert_eq!(world.blobs.size(Kind::Raw, stray).await.expect("finds"), None);
    for file in &registered.manifest.files {
        assert!(world.blobs.size(Kind::Raw, file.digest).await.expect("finds").is_some());
        assert!(world.blobs.size(Kind::Blob, file.blob.digest).await.expect("finds").is_some());
    }
    assert!(world.blobs.size(Kind::Blob, registered.digest).await.expect("finds").is_some());
}
