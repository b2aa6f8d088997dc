//! The example script in front of the digits model, from registration to a device's probe.

use muster_proto::manifest::{SCHEMA_WITH_SCRIPT, SampleSet, ScriptedSample};
use muster_proto::wire;
use serde_json::{Value, json};

use super::*;
use crate::engine::json::{GivenSample, parse_samples};
use crate::engine::testing::*;

/// `seven` as a caller of the script sends it, and the file of samples that an operator would write with it.
fn given(change: impl Fn(&mut Value)) -> Vec<GivenSample> {
    let text = std::fs::read(digits("sample-1.json")).expect("samples");
    let mut file: Value = serde_json::from_slice(&text).expect("samples");
    let sample = &mut file["samples"][0];
    let pixels = sample["inputs"]["image"]["data"].as_array().expect("data").iter();
    let pixels: Vec<u64> = pixels.map(|value| (value.as_f64().expect("a number") * 255.0).round() as u64).collect();
    let rows: Vec<&[u64]> = pixels.chunks(8).collect();
    sample["request"] = json!({"pixels": rows});
    sample.as_object_mut().expect("an object").remove("inputs");
    change(sample);
    parse_samples(file.to_string().as_bytes()).expect("samples")
}

fn wasm() -> Vec<u8> {
    std::fs::read(digits("script.wasm")).expect("the module")
}

/// The digits bundle with the script, registered with `given`.
fn bundle(wasm: &[u8], given: Vec<GivenSample>) -> Result<Bundle, Error> {
    let mut bundle = Bundle::digits(1);
    let model = digits_model(1);
    let (script, transforms) = (Script::new(wasm, ScriptLimits::default())?, Transforms::default());
    let scored = Scored { model: &model, script: Some(&script), transforms: &transforms };
    let given = with_inputs(&scored, given)?;
    let sample = |given: &GivenSample| Sample {
        name: given.name.clone(),
        inputs: given.inputs.clone(),
        outputs: given.outputs.clone().expect("the digits samples have outputs"),
    };
    let set = record(&scored, &given, given.iter().map(sample).collect())?;
    std::fs::write(bundle.folder.path().join("samples.bin"), wire::encode(&set).expect("encodes")).expect("writes");
    std::fs::write(bundle.folder.path().join("score.wasm"), wasm).expect("writes");
    let mut file = bundle.manifest.files[0].clone();
    (file.path, file.size) = ("score.wasm".parse().expect("path"), wasm.len() as u64);
    bundle.manifest.files.push(file);
    bundle.manifest.schema = SCHEMA_WITH_SCRIPT;
    let file = "score.wasm".parse().expect("path");
    bundle.manifest.script =
        Some(manifest::Script { file, hooks: script.hooks().to_vec(), limits: ScriptLimits::default() });
    Ok(bundle)
}

use muster_proto::manifest::Sample;

#[test]
fn the_checked_in_module_is_small_and_says_how_it_is_built() {
    assert!(wasm().len() < 40 << 10, "{} bytes", wasm().len());
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/digits_script/src/lib.rs");
    let source = std::fs::read_to_string(source).expect("the source");
    assert!(source.contains("cargo build --release --target wasm32-unknown-unknown"));
    assert_eq!(Script::new(&wasm(), ScriptLimits::default()).expect("loads").hooks(), Hook::ALL);
}

#[test]
fn requests_of_the_samples_go_through_the_script() {
    let loaded = bundle(&wasm(), given(|_| {})).expect("registers").load().expect("loads");
    assert_eq!((loaded.probe.samples, loaded.probe.passed), (4, 4));
    assert!(loaded.request.is_some_and(|request| request.contains("pixels")));
    let bundle = bundle(&wasm(), given(|_| {})).expect("registers");
    let set: SampleSet =
        wire::decode(&std::fs::read(bundle.folder.path().join("samples.bin")).expect("samples")).expect("decodes");
    let ScriptedSample { answer, sample, .. } = &set.into_samples()[0];
    let answer: Value = serde_json::from_str(answer.as_deref().expect("recorded")).expect("JSON");
    assert_eq!((&answer["digit"], sample.inputs["image"].shape()), (&json!(7), &[1, 1, 8, 8][..]));
    assert!(answer["confidence"].as_f64().is_some_and(|confidence| confidence > 0.9), "{answer}");
}

#[test]
fn a_script_that_answers_otherwise_fails_the_probe() {
    let right = json!({"digit": 7, "confidence": 1.0});
    let wide = |sample: &mut Value| sample["answer"] = right.clone();
    let mut bundle = bundle(&wasm(), given(wide)).expect("registers");
    bundle.manifest.samples.tolerance.absolute = 0.1;
    bundle.load().expect("within the tolerance");
    bundle.manifest.samples.tolerance.absolute = 1e-9;
    let error = bundle.load().expect_err("differs");
    assert_eq!((error.code(), error.probe().map(|probe| probe.passed)), (Code::ProbeMismatch, Some(3)));

    let wrong = |sample: &mut Value| sample["answer"] = json!({"digit": 8, "confidence": 0.997});
    let error = super::digits::bundle(&wasm(), given(wrong)).expect("registers").load().expect_err("another digit");
    let text = error.to_string();
    assert!(text.contains("\"postprocess\", \"/digit\" of the answer: wanted 8, got 7"), "{text}");
}

#[test]
fn a_script_that_fails_fails_the_probe_and_one_that_cannot_be_loaded_the_load() {
    let bundle = bundle(&wasm(), given(|_| {})).expect("registers");
    let path = bundle.folder.path().join("score.wasm");
    std::fs::write(&path, hooked("(unreachable)")).expect("writes");
    let error = bundle.load().expect_err("traps");
    assert_eq!((error.code(), error.probe().map(|probe| probe.passed)), (Code::ProbeMismatch, Some(0)));
    assert!(error.to_string().contains("the scoring script failed in preprocess"), "{error}");
    std::fs::write(&path, b"garbage").expect("writes");
    assert_eq!(bundle.load().expect_err("garbage").code(), Code::ScriptInvalid);
    let only = module(&format!("(func (export \"postprocess\") (param i32 i32) (result i64) {ECHO})"));
    std::fs::write(&path, only).expect("writes");
    assert!(bundle.load().expect_err("one is missing").to_string().contains("`preprocess`, which it does not export"));
    std::fs::remove_file(&path).expect("removes");
    assert_eq!(bundle.load().expect_err("missing").code(), Code::StoreFailed);
}

#[test]
fn registration_says_what_is_missing() {
    let no_request = |sample: &mut Value| {
        sample["inputs"] = json!({"image": {"dtype": "f32", "shape": [1, 1, 8, 8], "data": vec![0; 64]}});
        sample.as_object_mut().expect("an object").remove("request");
    };
    let error = bundle(&wasm(), given(no_request)).err().expect("nothing proves it").to_string();
    assert!(error.contains("no sample has a `request`"), "{error}");
    let error = bundle(&wasm(), given(|sample| sample["request"] = json!({"pixels": [1]}))).err().expect("refused");
    assert_eq!(error.code(), Code::ScriptRefused);
    assert!(error.to_string().contains("sample \"seven\": wanted {\"pixels\": eight rows"), "{error}");
    let model = digits_model(1);
    let plain = Scored { model: &model, script: None, transforms: &Transforms::default() };
    assert!(with_inputs(&plain, given(|_| {})).expect_err("no script").to_string().contains("there is no script"));
}
