use muster_proto::manifest::Dim;
use serde_json::json;

use super::*;

fn spec(dtype: Dtype, shape: &[u64]) -> TensorSpec {
    let dim = |size: &u64| if *size == 0 { Dim::Symbol("N".into()) } else { Dim::Fixed(*size) };
    TensorSpec { name: "x".into(), dtype, shape: shape.iter().map(dim).collect() }
}

fn read(value: Value, dtype: Dtype, shape: &[u64]) -> Result<Tensor, String> {
    tensor_from_json(&value, &spec(dtype, shape)).map_err(|error| error.to_string())
}

#[test]
fn nested_arrays_bring_their_shape() {
    let tensor = read(json!([[1, 2, 3], [4.5, -5e-1, null]]), Dtype::F32, &[0, 3]).expect("fits");
    assert_eq!(tensor.shape(), [2, 3]);
    assert_eq!(tensor.to_f64()[..5], [1.0, 2.0, 3.0, 4.5, -0.5]);
    assert!(tensor.to_f64()[5].is_nan());
    assert_eq!(read(json!(7), Dtype::I32, &[]).expect("a scalar").shape(), [0u64; 0]);
    assert_eq!(read(json!([]), Dtype::F32, &[0]).expect("empty").shape(), [0]);
}

#[test]
fn flat_data_needs_a_shape() {
    let object = json!({"dtype": "f32", "shape": [2, 2], "data": [1, 2, 3, 4]});
    assert_eq!(read(object, Dtype::F32, &[0, 2]).expect("fits").shape(), [2, 2]);
    let oip = json!({"dtype": "FP32", "shape": [1, 2], "data": [[1, 2]]});
    assert_eq!(read(oip, Dtype::F32, &[0, 2]).expect("fits").shape(), [1, 2]);
    let known = json!({"shape": [0, 2], "data": []});
    assert_eq!(read(known, Dtype::F32, &[0, 2]).expect("fits").shape(), [0, 2]);
    let table = [
        (json!([1, 2, 3, 4]), "nested 1 deep"),
        (json!({"dtype": "f32", "shape": [2, 3], "data": [1, 2]}), "2 elements do not fill shape [2, 3]"),
        (json!({"dtype": "f64", "shape": [1, 2], "data": [1, 2]}), "got f64"),
        (json!({"dtype": "f33", "shape": [1, 2], "data": [1, 2]}), "is not a dtype"),
        (json!({"dtype": "f32", "shape": [2, 1], "data": [[1, 2]]}), "is nested as [1, 2]"),
        (json!({"dtype": "f32", "shape": [-1, 2], "data": [1, 2]}), "shape has to be"),
        (json!({"dtype": "f32", "shape": [1, 2]}), "data is missing"),
        (json!({"dtype": "f32", "shape": [1, 2], "data": [1, 2], "dat": 0}), "unknown key \"dat\""),
        (json!({"dtype": "f32", "shape": [4_294_967_296u64, 4_294_967_296u64, 2], "data": []}), "do not fill"),
        (json!([[1, 2], [3]]), "differ in length"),
        (json!([[1, 2], 3]), "differ in length"),
        (json!([[1, [2]]]), "element 1 is [2]"),
        (json!("text"), "nested 0 deep"),
    ];
    for (value, text) in table {
        let error = read(value, Dtype::F32, &[0, 2]).expect_err(text);
        assert!(error.contains(text), "{error}");
    }
    let deep = (0..40).fold(json!(1), |inner, _| json!([inner]));
    assert!(read(deep, Dtype::F32, &[1]).expect_err("deep").contains("more than 16 deep"));
}

#[test]
fn numbers_have_to_be_within_their_dtype() {
    let good = [
        (Dtype::U8, json!([0, 255]), vec![0.0, 255.0]),
        (Dtype::I8, json!([-128, 127]), vec![-128.0, 127.0]),
        (Dtype::U16, json!([65535.0]), vec![65535.0]),
        (Dtype::Bool, json!([true, false, 1, 0]), vec![1.0, 0.0, 1.0, 0.0]),
        (Dtype::F16, json!([0.5, -65504]), vec![0.5, -65504.0]),
        (Dtype::F64, json!([1e300]), vec![1e300]),
    ];
    for (dtype, value, want) in good {
        assert_eq!(read(value, dtype, &[0]).expect("in range").to_f64(), want, "{dtype}");
    }
    let bad = [
        (Dtype::U8, json!(256)),
        (Dtype::U8, json!(-1)),
        (Dtype::I8, json!(128)),
        (Dtype::U16, json!(65536)),
        (Dtype::I16, json!(-32769)),
        (Dtype::U32, json!(4_294_967_296u64)),
        (Dtype::I32, json!(2_147_483_648u64)),
        (Dtype::I64, json!(9_223_372_036_854_775_808u64)),
        (Dtype::U64, json!(-1)),
        (Dtype::U64, json!(1e19)),
        (Dtype::I32, json!(1.5)),
        (Dtype::I32, json!(null)),
        (Dtype::Bool, json!(2)),
        (Dtype::F16, json!(65520)),
        (Dtype::F32, json!(1e39)),
        (Dtype::F32, json!("NaN")),
        (Dtype::F32, json!("1")),
        (Dtype::F32, json!(true)),
        (Dtype::F32, json!({})),
    ];
    for (dtype, value) in bad {
        let error = read(json!([0, value]), dtype, &[0]).expect_err("out of range");
        assert!(error.starts_with("x: element 1 is ") && error.contains(dtype.name()), "{error}");
    }
}

#[test]
fn wide_whole_numbers_are_exact_both_ways() {
    for (dtype, value) in [(Dtype::I64, json!([i64::MIN, i64::MAX])), (Dtype::U64, json!([0, u64::MAX]))] {
        let tensor = read(value.clone(), dtype, &[2]).expect("fits");
        assert_eq!(tensor_to_json(&tensor)["data"], value);
    }
}

#[test]
fn tensors_are_written_as_one_would_write_them() {
    let tensor = Tensor::from_f32(vec![2, 2], &[0.1, 1.0, f32::NAN, -1e-7]).expect("fits");
    assert_eq!(tensor_to_json(&tensor), json!({"dtype": "f32", "shape": [2, 2], "data": [0.1, 1.0, null, -1e-7]}));
    let text = serde_json::to_string(&Explicit(&tensor)).expect("json");
    assert_eq!(text, r#"{"dtype":"f32","shape":[2,2],"data":[0.1,1.0,null,-1e-7]}"#);
    for dtype in Dtype::ALL {
        let data = (0..3 * dtype.size()).map(|n| n as u8 % 2).collect();
        let tensor = Tensor::new(*dtype, vec![3], data).expect("fits");
        let back = tensor_from_json(&tensor_to_json(&tensor), &spec(*dtype, &[3])).expect("reads back");
        assert_eq!(back, tensor);
    }
}

#[test]
fn every_f32_comes_back_as_it_was() {
    // Every 65,521st (a prime) bit pattern, so that all exponents are met.
    let values: Vec<f32> = (0..u32::MAX).step_by(65_521).map(f32::from_bits).filter(|v| v.is_finite()).collect();
    let tensor = Tensor::from_f32(vec![values.len() as u64], &values).expect("fits");
    let back = tensor_from_json(&tensor_to_json(&tensor), &spec(Dtype::F32, &[0])).expect("reads back");
    assert_eq!(back, tensor);
}

#[test]
fn sample_files_are_read_with_or_without_outputs() {
    let one = json!({"dtype": "i64", "shape": [1], "data": [3]});
    let file = json!({"samples": [
        {"name": "a", "inputs": {"x": one}, "outputs": {"y": one}},
        {"inputs": {"x": one}},
    ]});
    let samples = parse_samples(file.to_string().as_bytes()).expect("reads");
    assert_eq!((&samples[0].name[..], &samples[1].name[..]), ("a", "2"));
    assert_eq!(samples[0].outputs.as_ref().expect("given")["y"], samples[0].inputs["x"]);
    assert_eq!(samples[1].outputs, None);
    let table = [
        (json!({"samples": []}), "there is none"),
        (json!({"samples": [{"inputs": {"x": [1, 2]}}]}), "not JSON"),
        (json!({"samples": [{"inputs": {"x": {"shape": [1], "data": [3]}}}]}), "sample \"1\", input \"x\": dtype"),
        (json!({"samples": [{"name": "a", "request": {}}, {"name": "a", "request": {}}]}), "stands twice"),
        (json!({"samples": [{"inputs": {}, "output": {}}]}), "unknown field"),
        (json!([]), "not JSON"),
    ];
    for (file, text) in table {
        let error = parse_samples(file.to_string().as_bytes()).expect_err(text);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.code(), Code::InputInvalid);
    }
    assert!(
        parse_samples(b"{\"samples\": [{\"inputs\": {\"x\": {\"dtype\": \"f32\", \"shape\": [1], \"data\": [NaN]}}}]}")
            .is_err()
    );
}
