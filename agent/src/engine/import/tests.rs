use muster_proto::manifest::{Dim, Dtype};

use super::*;
use crate::engine::json::parse_samples;
use crate::engine::testing::*;

fn try_inspect(path: &Path, shapes: &[(&str, &[u64])], samples: &[GivenSample]) -> Result<Imported, Error> {
    let input_shapes = shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
    inspect(&Request { path, input_shapes: &input_shapes, samples, batching: Batching::default() })
}

fn sample(inputs: BTreeMap<String, Tensor>) -> [GivenSample; 1] {
    [GivenSample { name: "one".into(), inputs, ..GivenSample::default() }]
}

/// Input shapes, and what is ignored of the declarations.
fn recipe(load: &Load) -> (Vec<(&str, &[u64])>, &'static str) {
    let shapes = load.input_shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    let ignored = match (load.ignore_value_info, load.ignore_output_types, load.ignore_output_shapes) {
        (false, false, false) => "nothing",
        (true, false, false) => "inner shapes",
        (_, true, false) => "output dtypes",
        (false, false, true) => "output shapes",
        (true, false, true) => "inner and output shapes",
        (_, true, true) => "both, which is never tried",
    };
    (shapes, ignored)
}

#[test]
fn digits_are_planned_for_one_image_and_take_any_number() {
    let imported = try_inspect(&digits("digits-1.onnx"), &[], &[]).expect("imports");
    assert_eq!(recipe(&imported.load), (vec![("image", &[1, 1, 8, 8][..])], "output shapes"));
    let spec = &imported.model.inputs()[0];
    assert_eq!((&spec.name[..], spec.dtype, &spec.shape[0]), ("image", Dtype::F32, &Dim::Symbol("N".into())));
    assert_eq!((imported.parameters, imported.operators["Conv"], imported.operators["Gemm"]), (25_866, 3, 1));
    assert!(imported.external_files.is_empty());
    // A device that loads by the recipe gets the same model.
    let again = Model::load(&imported.entry, &imported.load).expect("loads");
    assert_eq!((again.inputs(), again.outputs()), (imported.model.inputs(), imported.model.outputs()));
}

#[test]
fn batches_run_together_where_that_is_asked_for() {
    let path = digits("digits-1.onnx");
    let request = Request { path: &path, input_shapes: &BTreeMap::new(), samples: &[], batching: Batching::Together };
    let imported = inspect(&request).expect("imports");
    assert_eq!(imported.load, Load::default());
    assert!(!imported.model.runs_item_by_item());
}

#[test]
fn each_rung_of_the_ladder_is_reached() {
    let x = |shape: &[u64]| sample(named([("x", f32s(shape, &vec![0.5; shape.iter().product::<u64>() as usize]))]));
    let none: [GivenSample; 0] = [];
    let image = |side: u64| sample(named([("image", f32s(&[1, 1, side, side], &vec![0.5; (side * side) as usize]))]));
    let linear: (Vec<(&str, &[u64])>, _) = (vec![("x", &[1, 4])], "output shapes");
    let table: [(&str, &[GivenSample], _); 9] = [
        ("every_dtype.onnx", &none, (vec![], "nothing")),
        ("lstm.onnx", &none, (vec![], "nothing")),
        ("linear.onnx", &none, linear.clone()),
        ("linear.onnx", &x(&[3, 4]), linear),
        ("unnamed_batch.onnx", &none, (vec![("x", &[1, 4])], "nothing")),
        ("sum_over_batch.onnx", &none, (vec![], "nothing")),
        ("symbols_inside.onnx", &none, (vec![("x", &[1, 4])], "inner and output shapes")),
        ("shape_output.onnx", &none, (vec![], "output dtypes")),
        ("dynamic_size.onnx", &image(9), (vec![("image", &[1, 1, 9, 9])], "output shapes")),
    ];
    for (file, samples, want) in table {
        let imported = try_inspect(&fixture(file), &[], samples).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert_eq!(recipe(&imported.load), want, "{file}");
    }
}

#[test]
fn items_that_depend_on_one_another_are_not_run_one_by_one() {
    let imported = try_inspect(&fixture("items_depend.onnx"), &[], &[]).expect("imports");
    assert_eq!(imported.load, Load::default());
    let outputs = imported.model.run(&named([("x", f32s(&[2, 4], &[0., 0., 0., 0., 2., 2., 2., 2.]))])).expect("runs");
    assert_eq!(outputs["y"].to_f64(), [-1., -1., -1., -1., 1., 1., 1., 1.]);
}

#[test]
fn given_shapes_are_obeyed() {
    let imported = try_inspect(&fixture("dynamic_size.onnx"), &[("image", &[1, 1, 5, 7])], &[]).expect("imports");
    assert_eq!(imported.load.input_shapes["image"], [1, 1, 5, 7]);
    let dims = &imported.model.inputs()[0].shape;
    assert_eq!(*dims, [Dim::Symbol("N".into()), Dim::Fixed(1), Dim::Fixed(5), Dim::Fixed(7)]);
    let fixed = try_inspect(&digits("digits-1.onnx"), &[("image", &[4, 1, 8, 8])], &[]).expect("imports");
    assert_eq!(fixed.model.inputs()[0].shape[0], Dim::Fixed(4));
    let wrong: [(&str, &[u64], &str); 4] = [
        ("picture", &[1, 1, 8, 8], "no such input, but image"),
        ("image", &[1, 3, 8, 8], "does not fit the declared [N, 1, 8, 8]"),
        ("image", &[1, 1, 8], "does not fit"),
        ("image", &[0, 1, 8, 8], "does not fit"),
    ];
    for (name, shape, text) in wrong {
        let error = try_inspect(&digits("digits-1.onnx"), &[(name, shape)], &[]).expect_err("refused");
        assert_eq!(error.code(), Code::BadRequest);
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn open_sizes_are_named_with_what_to_do() {
    let error = try_inspect(&fixture("dynamic_size.onnx"), &[], &[]).expect_err("open");
    assert_eq!(error.code(), Code::ModelUnsupported);
    let text = error.to_string();
    assert!(text.contains("input \"image\" is [N, 1, ?, ?]"), "{text}");
    assert!(text.contains("--input-shape image=1x1x?x?"), "{text}");
}

#[test]
fn models_that_cannot_run_name_the_node_and_the_reason() {
    let table = [
        ("loop.onnx", "at node \"y_loop\" (Loop): the engine has no such operator"),
        ("if_ranks.onnx", "at node \"y_if\" (If): Impossible to unify closed shapes of different rank"),
        ("text.onnx", "is not an ONNX model"),
        ("truncated.onnx", "is not an ONNX model"),
        ("text_input.onnx", "is of type String"),
        ("external_outside.onnx", "inside the model directory"),
    ];
    for (file, text) in table {
        let error = try_inspect(&fixture(file), &[], &[]).expect_err(file);
        assert!(matches!(error.code(), Code::ModelUnsupported | Code::ModelInvalid), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn samples_settle_shapes_and_have_to_fit() {
    let text = std::fs::read(digits("sample-1.json")).expect("samples");
    let samples = parse_samples(&text).expect("samples");
    assert!(try_inspect(&digits("digits-1.onnx"), &[], &samples).is_ok());
    let image = || f32s(&[1, 1, 8, 8], &[0.0; 64]);
    for (inputs, text) in [
        (named([]), "wanted [N, 1, 8, 8], got nothing"),
        (named([("image", image()), ("mask", image())]), "got an unknown name"),
        (named([("image", f32s(&[1, 1, 4, 4], &[0.0; 16]))]), "got f32 [1, 1, 4, 4]"),
    ] {
        let error = try_inspect(&digits("digits-1.onnx"), &[], &sample(inputs)).expect_err("refused");
        assert!(matches!(error, Error::SampleInvalid { .. }), "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn a_model_that_fails_its_trial_is_not_registered() {
    let i32s = |value: i32| Tensor::new(Dtype::I32, vec![1, 2], [value.to_le_bytes(); 2].concat()).expect("fits");
    let by_zero = sample(named([("a", i32s(1)), ("b", i32s(0))]));
    let error = try_inspect(&fixture("divide.onnx"), &[], &by_zero).expect_err("fails");
    assert_eq!(error.code(), Code::ModelUnsupported);
    assert!(error.to_string().contains("cannot be run on sample \"one\""), "{error}");
    assert!(error.to_string().contains("divide by zero"), "{error}");
    let by_two = sample(named([("a", i32s(4)), ("b", i32s(2))]));
    assert!(try_inspect(&fixture("divide.onnx"), &[], &by_two).is_ok());
}

#[test]
fn a_folder_has_to_hold_one_model() {
    let folder = tempfile::tempdir().expect("temp dir");
    let missing = try_inspect(folder.path(), &[], &[]).expect_err("empty");
    assert!(matches!(missing, Error::NoEntry { found: 0, .. }), "{missing}");
    std::fs::copy(fixture("external.onnx"), folder.path().join("model.onnx")).expect("copy");
    std::fs::copy(fixture("external.bin"), folder.path().join("external.bin")).expect("copy");
    let imported = try_inspect(folder.path(), &[], &[]).expect("imports");
    assert_eq!(imported.entry, folder.path().join("model.onnx"));
    assert_eq!((imported.external_files, imported.parameters), (vec!["external.bin".to_owned()], 12));
    std::fs::copy(fixture("linear.onnx"), folder.path().join("other.onnx")).expect("copy");
    let two = try_inspect(folder.path(), &[], &[]).expect_err("two");
    assert!(matches!(two, Error::NoEntry { found: 2, .. }), "{two}");
}
