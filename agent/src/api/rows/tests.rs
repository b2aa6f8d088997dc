use super::*;

fn spec(name: &str, dtype: Dtype, shape: &[u64]) -> TensorSpec {
    let dim = |size: &u64| if *size == 0 { Dim::Symbol("N".into()) } else { Dim::Fixed(*size) };
    TensorSpec { name: name.into(), dtype, shape: shape.iter().map(dim).collect() }
}

fn raw(json: &str) -> Box<RawValue> {
    serde_json::from_str(json).expect(json)
}

/// Shape and values of each input.
fn shown(inputs: Inputs) -> Vec<(String, Vec<u64>, Vec<f64>)> {
    inputs.into_iter().map(|(name, tensor)| (name, tensor.shape().to_vec(), tensor.to_f64())).collect()
}

fn x(shape: &[u64], values: &[f64]) -> Vec<(String, Vec<u64>, Vec<f64>)> {
    vec![("x".into(), shape.to_vec(), values.to_vec())]
}

#[test]
fn rows_take_the_form_of_the_items() {
    let table: [(&[u64], &str, &[u64]); 11] = [
        (&[0, 2], "[[1,2],[3,4]]", &[2, 2]),
        (&[0, 2], "[]", &[0, 2]),
        (&[0], "[1,2,3]", &[3]),
        (&[0, 1], "[1,2,3]", &[3, 1]),
        (&[0, 1, 2, 2], "[[1,2,3,4]]", &[1, 1, 2, 2]),
        (&[0, 1, 2, 2], "[[[1,2],[3,4]]]", &[1, 1, 2, 2]),
        (&[0, 4], "[[[1,2],[3,4]]]", &[1, 4]),
        // What does not fit stays, for the model's check to say what it wants.
        (&[0, 2], "[1,2]", &[2]),
        (&[0, 3], "[[1,2]]", &[1, 2]),
        (&[], "7", &[]),
        (&[0, 0], "[[1,2,3]]", &[1, 3]),
    ];
    for (wanted, json, shape) in table {
        let read = columns(&raw(json), &[spec("x", Dtype::F32, wanted)], Rules::Inputs).expect(json);
        assert_eq!(read["x"].shape(), shape, "{json}");
    }
}

#[test]
fn objects_are_rows_by_name() {
    let specs = [spec("a", Dtype::F32, &[0, 2]), spec("b", Dtype::I32, &[0, 1])];
    let read = instances(&raw(r#"[{"a": [1, 2], "b": 5}, {"b": 6, "a": [3, null]}]"#), &specs, Rules::Inputs);
    let read = shown(read.expect("two rows"));
    assert_eq!(read[1], ("b".into(), vec![2, 1], vec![5.0, 6.0]));
    assert_eq!((&read[0].1, read[0].2[2]), (&vec![2, 2], 3.0));
    assert!(read[0].2[3].is_nan());
    let read = columns(&raw(r#"{"b": [[5]], "a": [[1, 2]]}"#), &specs, Rules::Inputs).expect("two inputs");
    assert_eq!(shown(read).len(), 2);
}

#[test]
fn frames_fill_one_input_in_their_order() {
    let specs = [spec("x", Dtype::F32, &[0, 2])];
    let table = [
        (r#"[{"p": 1, "q": 2}, {"q": 4, "p": 3}]"#, x(&[2, 2], &[1.0, 2.0, 3.0, 4.0])),
        (r#"[{"q": 1, "p": 2}, {"q": 4, "p": 3}]"#, x(&[2, 2], &[1.0, 2.0, 4.0, 3.0])),
        (r#"[{"x": [1, 2], "id": "seven"}, {"x": [3, 4], "more": {}}]"#, x(&[2, 2], &[1.0, 2.0, 3.0, 4.0])),
    ];
    for (json, want) in table {
        assert_eq!(shown(instances(&raw(json), &specs, Rules::Frame).expect(json)), want, "{json}");
    }
    let side_by_side = columns(&raw(r#"{"p": [1, 3], "q": [2, 4]}"#), &specs, Rules::Frame).expect("columns");
    assert_eq!(shown(side_by_side), x(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
}

#[test]
fn what_does_not_fit_is_named() {
    let (f, i) = (spec("x", Dtype::F32, &[0, 2]), spec("n", Dtype::I64, &[0]));
    let (one, two) = (vec![f.clone()], vec![f, i.clone()]);
    let whole = vec![i];
    use Rules::{Frame, Inputs};
    let table = [
        (&one, Inputs, "{}", "a list of rows"),
        (&one, Inputs, r#"[{"p": 1, "q": 2}]"#, "column 'x' is missing"),
        (&one, Inputs, r#"[{"x": [1, 2], "y": 1}]"#, "no input 'y', but x"),
        (&one, Inputs, r#"[{"x": [1, 2]}, [3, 4]]"#, "row 1: an object is wanted"),
        (&one, Inputs, r#"[[3, 4], {"x": [1, 2]}]"#, "an object stands where"),
        (&one, Inputs, r#"[{"x": [1, 2]}, {"x": [3]}]"#, "column 'x', row 1: shape [1], and [2]"),
        (&one, Inputs, r#"[{"x": [1, 2], "x": [3, 4]}]"#, "stands twice"),
        (&one, Inputs, r#"[{"x": [1, 2]}, {"x": [3, 4], "x": [3, 4]}]"#, "row 1 has 'x' twice"),
        (&one, Inputs, r#"[{"x": "1"}]"#, "row 0: \"1\" is no FP32"),
        (&one, Frame, r#"[{"p": 1}]"#, "takes 2 columns"),
        (&one, Frame, r#"[{"p": 1, "q": [2]}]"#, "column 'q' holds arrays"),
        (&two, Frame, r#"[{"n": 1, "q": 2}]"#, "column 'x' is missing; the model takes x, n, got n, q"),
        (&two, Inputs, "[[1, 2]]", "2 inputs: name each of x, n"),
        (&whole, Frame, r#"[{"n": 1}, {"n": null}]"#, "column 'n', row 1: a value is missing"),
        (&whole, Frame, r#"[{"n": 1}, {"m": 2}]"#, "column 'n', row 1: a value is missing"),
        (&whole, Frame, r#"[{"n": 1.5}]"#, "1.5 is no INT64"),
    ];
    for (specs, rules, json, words) in table {
        let error = instances(&raw(json), specs, rules).expect_err(json);
        assert!(error.contains(words), "{json}: {error}");
    }
    let table = [
        (&two, Inputs, r#"{"x": [[1, 2]]}"#, "input 'n' is missing"),
        (&two, Inputs, r#"{"x": [[1, 2]], "n": [1], "o": 1}"#, "no input 'o'"),
        (&one, Inputs, r#"{"x": [[1, 2]], "x": [[1, 2]]}"#, "stands twice"),
        (&one, Frame, r#"{"p": [1, 2], "q": [3]}"#, "has 1 rows"),
        (&one, Frame, r#"{"p": 1, "q": [3]}"#, "an array is wanted"),
    ];
    for (specs, rules, json, words) in table {
        let error = columns(&raw(json), specs, rules).expect_err(json);
        assert!(error.contains(words), "{json}: {error}");
    }
}

#[test]
fn halves_have_no_form_in_json() {
    let specs = [spec("h", Dtype::F16, &[0])];
    for json in ["[1]", "[{\"h\": 1}]"] {
        assert!(instances(&raw(json), &specs, Rules::Frame).expect_err(json).contains("FP16"), "{json}");
    }
}
