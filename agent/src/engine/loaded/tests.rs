use muster_proto::manifest::Dtype;

use super::*;
use crate::engine::testing::*;

fn with_samples(bundle: &Bundle, change: impl Fn(&mut Vec<Sample>)) {
    let path = bundle.folder.path().join("samples.bin");
    let samples: SampleSet = wire::decode(&std::fs::read(&path).expect("samples")).expect("decodes");
    let mut samples = samples.into_samples().into_iter().map(|scripted| scripted.sample).collect();
    change(&mut samples);
    std::fs::write(path, wire::encode(&SampleSet::V1(samples)).expect("encodes")).expect("writes");
}

#[test]
fn a_bundle_is_loaded_and_probed() {
    for version in 1..=3 {
        let bundle = Bundle::digits(version);
        let loaded = bundle.load().expect("loads");
        assert_eq!((loaded.probe.samples, loaded.probe.passed), (4, 4));
        assert_eq!(loaded.manifest, bundle.manifest);
        assert_eq!(loaded.digest, Digest::of(&bundle.manifest.to_bytes().expect("consistent")));
    }
}

#[test]
fn a_bundle_that_answers_otherwise_is_not_loaded() {
    let bundle = Bundle::digits(1);
    std::fs::copy(digits("digits-3.onnx"), bundle.folder.path().join("model.onnx")).expect("copy");
    let error = bundle.load().expect_err("differs");
    assert_eq!(error.code(), Code::ProbeMismatch);
    assert_eq!(error.probe().map(|probe| (probe.samples, probe.passed)), Some((4, 0)));
    let text = error.to_string();
    assert!(text.starts_with("probe failed, 0 of 4 samples passed: sample \"seven\", output \"logits\""), "{text}");
}

#[test]
fn samples_have_to_be_there_and_whole() {
    let bundle = Bundle::digits(1);
    with_samples(&bundle, Vec::clear);
    assert_eq!(bundle.load().expect_err("none").code(), Code::ManifestInvalid);
    let bundle = Bundle::digits(1);
    with_samples(&bundle, |samples| samples.truncate(2));
    assert!(bundle.load().expect_err("fewer").to_string().contains("2 in the file, 4 in the manifest"));
    std::fs::write(bundle.folder.path().join("samples.bin"), b"\x07").expect("writes");
    assert_eq!(bundle.load().expect_err("of the future").code(), Code::ManifestInvalid);
    std::fs::remove_file(bundle.folder.path().join("samples.bin")).expect("removes");
    assert_eq!(bundle.load().expect_err("missing").code(), Code::StoreFailed);
}

#[test]
fn the_manifest_has_to_be_of_this_engine_and_model() {
    let mut bundle = Bundle::digits(1);
    bundle.manifest.outputs[0].dtype = Dtype::F64;
    assert_eq!(bundle.load().expect_err("other dtype").code(), Code::ManifestInvalid);
    bundle.manifest.engine.name = "other".into();
    assert_eq!(bundle.load().expect_err("other engine").code(), Code::Incompatible);
    let bundle = Bundle::digits(1);
    std::fs::copy(fixture("loop.onnx"), bundle.folder.path().join("model.onnx")).expect("copy");
    assert_eq!(bundle.load().expect_err("unsupported").code(), Code::ModelUnsupported);
}
