use muster_proto::manifest::Load;

use super::*;
use crate::engine::json::parse_samples;
use crate::engine::testing::*;

fn golden(version: u32) -> Vec<Sample> {
    let text = std::fs::read(digits(&format!("sample-{version}.json"))).expect("samples");
    let given = parse_samples(&text).expect("samples");
    given
        .into_iter()
        .map(|g| Sample { name: g.name, inputs: g.inputs, outputs: g.outputs.expect("outputs are given") })
        .collect()
}

#[test]
fn outputs_from_where_the_model_was_trained_pass() {
    for version in 1..=3 {
        let outcome = run(&digits_model(version), &golden(version), Tolerance::default());
        assert_eq!(outcome.mismatch, None);
        assert_eq!((outcome.probe.samples, outcome.probe.passed), (4, 4));
        assert!(outcome.probe.max_abs_error < 1e-3, "{}", outcome.probe.max_abs_error);
        assert!(outcome.probe.load_us > 0 && outcome.probe.inference_us > 0);
    }
}

#[test]
fn another_versions_outputs_fail_with_the_place() {
    let outcome = run(&digits_model(3), &golden(1), Tolerance::default());
    assert_eq!(outcome.probe.passed, 0);
    let mismatch = outcome.mismatch.expect("differs");
    assert_eq!((&mismatch.sample[..], &mismatch.output[..]), ("seven", "logits"));
    assert!(mismatch.to_string().starts_with("sample \"seven\", output \"logits\", element 0: wanted "), "{mismatch}");
}

#[test]
fn one_perturbed_element_is_found() {
    let mut samples = golden(2);
    let output = &samples[2].outputs["logits"];
    let mut values: Vec<f32> = output.to_f64().iter().map(|v| *v as f32).collect();
    values[7] += 0.5;
    samples[2].outputs = named([("logits", f32s(&[1, 10], &values))]);
    let outcome = run(&digits_model(2), &samples, Tolerance::default());
    assert_eq!((outcome.probe.samples, outcome.probe.passed), (4, 3));
    assert!((0.49..0.51).contains(&outcome.probe.max_abs_error));
    let mismatch = outcome.mismatch.expect("differs");
    assert_eq!(mismatch.sample, samples[2].name);
    assert!(matches!(mismatch.difference, Difference::Value { index: 7, .. }), "{mismatch}");
}

#[test]
fn samples_that_cannot_be_run_or_prove_nothing_fail() {
    let mut samples = golden(1);
    samples.truncate(3);
    samples[0].inputs.clear();
    samples[1].outputs.clear();
    samples[2].outputs = named([("probabilities", f32s(&[1], &[0.0]))]);
    for (index, want) in
        ["wanted f32 [N, 1, 8, 8], got nothing", "records no output", "has no such output"].iter().enumerate()
    {
        let outcome = run(&digits_model(1), &samples[index..=index], Tolerance::default());
        let text = outcome.mismatch.expect("fails").to_string();
        assert!(text.contains(want), "{text}");
        assert_eq!(outcome.probe.passed, 0);
    }
}

#[test]
fn a_recorded_nan_passes_where_the_model_gives_nan() {
    let model = Model::load(&fixture("nan.onnx"), &Load::default()).expect("loads");
    let sample = |want: [f32; 2]| Sample {
        name: "zero".into(),
        inputs: named([("x", f32s(&[1, 2], &[0.0, 3.0]))]),
        outputs: named([("y", f32s(&[1, 2], &want))]),
    };
    assert_eq!(run(&model, &[sample([f32::NAN, 1.0])], Tolerance::default()).mismatch, None);
    for want in [[0.0, 1.0], [f32::NAN, f32::NAN], [f32::INFINITY, 1.0]] {
        let outcome = run(&model, &[sample(want)], Tolerance { absolute: 1e30, relative: 1e30 });
        assert!(outcome.mismatch.is_some(), "{want:?}");
        assert_eq!(outcome.probe.max_abs_error, f32::MAX);
    }
}

#[test]
fn tolerances_are_for_floats_and_classes_have_to_be_equal() {
    let i64s = |values: &[i64]| {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Tensor::new(Dtype::I64, vec![values.len() as u64], data).expect("fits")
    };
    let u8s = |values: &[u8]| Tensor::new(Dtype::U8, vec![values.len() as u64], values.to_vec()).expect("fits");
    let inf = f32::INFINITY;
    let default = Tolerance::default();
    let table = [
        (f32s(&[2], &[1000.0, 0.0]), f32s(&[2], &[1001.0, 0.0009]), default, true),
        (f32s(&[2], &[1000.0, 0.0]), f32s(&[2], &[1001.1, 0.0]), default, false),
        (f32s(&[2], &[inf, -inf]), f32s(&[2], &[inf, -inf]), default, true),
        (f32s(&[1], &[inf]), f32s(&[1], &[-inf]), default, false),
        (f32s(&[1, 2], &[0.0; 2]), f32s(&[2], &[0.0; 2]), default, false),
        (i64s(&[100_000]), i64s(&[100_001]), default, false),
        (i64s(&[i64::MAX]), i64s(&[i64::MAX - 1]), default, false),
        (i64s(&[i64::MAX, 5]), i64s(&[i64::MAX, 5]), default, true),
        (u8s(&[100]), u8s(&[101]), default, false),
        (u8s(&[100]), u8s(&[101]), Tolerance { absolute: 1.0, relative: 0.0 }, true),
        (u8s(&[1]), i64s(&[1]), default, false),
    ];
    for (want, got, tolerance, passes) in table {
        let found = compare(&want, &got, tolerance, &mut 0.0);
        assert_eq!(found.is_ok(), passes, "{want:?} {got:?} {found:?}");
    }
}
