use super::*;

fn file(path: &str, bytes: &[u8]) -> File {
    File {
        path: path.parse().expect("valid"),
        size: bytes.len() as u64,
        digest: Digest::of(bytes),
        blob: Blob::describe(Codec::Stored, bytes, MIN_CHUNK),
    }
}

fn manifest() -> BundleManifest {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        dtype: Dtype::F32,
        shape: vec![Dim::Symbol("N".into()), Dim::Fixed(3)],
    };
    BundleManifest {
        schema: SCHEMA,
        model: "vision/digits".parse().expect("valid"),
        version: Version(2),
        description: String::new(),
        properties: BTreeMap::new(),
        created_at: 1_800_000_000,
        entry: "model.onnx".parse().expect("valid"),
        files: vec![file("model.onnx", &[1; 3000]), file("samples", &[2; 10])],
        engine: Engine { name: "tract".into(), version: "0.23.9".into(), load: Load::default() },
        inputs: vec![spec("x")],
        outputs: vec![spec("y")],
        transforms: Transforms::default(),
        samples: Samples {
            file: "samples".parse().expect("valid"),
            count: 1,
            outputs_from: OutputsFrom::Given,
            tolerance: Tolerance::default(),
        },
        measured: Measured::default(),
        requires: Requires::default(),
        script: None,
    }
}

#[test]
fn a_manifest_round_trips_as_json() {
    let original = manifest();
    let bytes = original.to_bytes().expect("consistent");
    assert_eq!(BundleManifest::parse(&bytes), Ok(original));
}

#[test]
fn inconsistent_manifests_are_refused() {
    type Change = fn(&mut BundleManifest);
    let table: &[(&str, Change)] = &[
        ("no files", |m| m.files.clear()),
        ("entry is missing", |m| m.entry = "other.onnx".parse().expect("valid")),
        ("samples are missing", |m| m.samples.file = "other".parse().expect("valid")),
        ("file twice", |m| m.files.push(m.files[0].clone())),
        ("chunks too few", |m| m.files[0].blob.chunks.truncate(1)),
        ("chunk size of zero", |m| m.files[0].blob.chunk_size = 0),
        ("file beyond the cap", |m| m.files[0].size = MAX_FILE + 1),
        ("input twice", |m| m.inputs.push(m.inputs[0].clone())),
        ("transform of nothing", |m| drop(m.transforms.inputs.insert("z".into(), vec![]))),
    ];
    for (what, change) in table {
        let mut broken = manifest();
        change(&mut broken);
        assert!(matches!(broken.to_bytes(), Err(Error::Inconsistent(_))), "{what} was written");
        let bytes = serde_json::to_vec(&broken).expect("json");
        assert!(matches!(BundleManifest::parse(&bytes), Err(Error::Inconsistent(_))), "{what} was read");
    }
}

#[test]
fn climbing_paths_and_unknown_fields_are_refused() {
    let good = String::from_utf8(manifest().to_bytes().expect("consistent")).expect("utf-8");
    for (from, to) in [("\"model.onnx\"", "\"../model.onnx\""), ("\"schema\":1", "\"schema\":1,\"surprise\":1")] {
        let bad = good.replace(from, to);
        assert!(matches!(BundleManifest::parse(bad.as_bytes()), Err(Error::Json(_))), "{to}");
    }
    let future = good.replace("\"schema\":1", "\"schema\":9");
    assert_eq!(BundleManifest::parse(future.as_bytes()), Err(Error::Schema(9)));
}

#[test]
fn only_the_very_chunk_is_accepted() {
    let bytes: Vec<u8> = (0..3000u32).map(|i| (i % 251) as u8).collect();
    let blob = Blob::describe(Codec::Stored, &bytes, 1024);
    assert!(blob.accepts(0, &bytes[..1024]) && blob.accepts(2, &bytes[2048..]));
    assert!(!blob.accepts(1, &bytes[..1024]), "another chunk");
    assert!(!blob.accepts(2, &bytes[2047..]), "too long");
    assert!(!blob.accepts(3, &[]), "beyond the end");
    let mut changed = bytes[..1024].to_vec();
    changed[17] ^= 1;
    assert!(!blob.accepts(0, &changed), "a changed byte");
}

#[test]
fn target_paths_name_model_and_version() {
    let m = manifest();
    assert_eq!(m.target_path(), "vision/digits/2/manifest");
    assert_eq!(parse_target_path("vision/digits/2/manifest"), Some((m.model, m.version)));
    for bad in ["", "manifest", "/2/manifest", "digits/0/manifest", "digits/x/manifest", "digits/2/other"] {
        assert_eq!(parse_target_path(bad), None, "{bad}");
    }
}

fn scripted() -> BundleManifest {
    let mut m = manifest();
    m.schema = SCHEMA_WITH_SCRIPT;
    m.files.push(file("score.wasm", b"\0asm"));
    let hooks = vec![Hook::Preprocess, Hook::Postprocess];
    m.script = Some(Script { file: "score.wasm".parse().expect("valid"), hooks, limits: ScriptLimits::default() });
    m
}

#[test]
fn a_script_is_of_a_schema_of_its_own_and_without_one_the_bytes_stay() {
    let plain = String::from_utf8(manifest().to_bytes().expect("consistent")).expect("utf-8");
    assert!(!plain.contains("script") && plain.contains("\"schema\":1,"), "{plain}");
    let bytes = scripted().to_bytes().expect("consistent");
    assert_eq!(BundleManifest::parse(&bytes), Ok(scripted()));
    let text = String::from_utf8(bytes).expect("utf-8");
    let limits = r#""limits":{"fuel":500000000,"memory_bytes":67108864}"#;
    let golden = format!(r#""script":{{"file":"score.wasm","hooks":["preprocess","postprocess"],{limits}}}"#);
    assert!(text.contains(&golden), "{text}");
    let without = text.replace(&format!(",{limits}"), "");
    assert_eq!(BundleManifest::parse(without.as_bytes()), Ok(scripted()), "limits have defaults");
}

#[test]
fn scripts_beyond_their_bounds_are_refused() {
    type Change = fn(&mut BundleManifest, &mut Script);
    let table: &[(&str, Change)] = &[
        ("a file that is not there", |_, s| s.file = "other.wasm".parse().expect("valid")),
        ("no hooks", |_, s| s.hooks.clear()),
        ("hooks twice", |_, s| s.hooks = vec![Hook::Preprocess; 2]),
        ("no fuel", |_, s| s.limits.fuel = 0),
        ("too much fuel", |_, s| s.limits.fuel = script::MAX_FUEL + 1),
        ("too little memory", |_, s| s.limits.memory_bytes = 1),
        ("too much memory", |_, s| s.limits.memory_bytes = u64::MAX),
        ("the first schema", |m, _| m.schema = SCHEMA),
        ("a huge module", |m, _| m.files[2] = file("score.wasm", &vec![0; script::MAX_MODULE as usize + 1])),
    ];
    for (what, change) in table {
        let mut broken = scripted();
        let mut script = broken.script.take().expect("one");
        change(&mut broken, &mut script);
        broken.script = Some(script);
        assert!(matches!(broken.to_bytes(), Err(Error::Inconsistent(_))), "{what}");
    }
    let mut plain = manifest();
    plain.schema = SCHEMA_WITH_SCRIPT;
    assert!(matches!(plain.to_bytes(), Err(Error::Inconsistent(_))), "the schema of a script without one");
}
