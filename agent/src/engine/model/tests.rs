use std::error::Error as _;
use std::thread;

use super::*;
use crate::engine::testing::*;

fn load(file: &str, recipe: &Load) -> Result<Model, Error> {
    Model::load(&fixture(file), recipe)
}

fn refused(model: &Model, inputs: BTreeMap<String, Tensor>) -> (String, String, String) {
    match model.run(&inputs) {
        Err(Error::InputInvalid { name, wanted, got }) => (name, wanted, got),
        other => panic!("not refused: {other:?}"),
    }
}

/// The largest logit of each row.
fn classes(logits: &Tensor) -> Vec<u8> {
    let best = |row: &[f64]| (0..10u8).max_by(|a, b| row[*a as usize].total_cmp(&row[*b as usize])).expect("ten");
    logits.to_f64().chunks(10).map(best).collect()
}

#[test]
fn every_digits_version_is_as_accurate_as_where_it_was_trained() {
    let text = std::fs::read(digits("accuracy.json")).expect("accuracy.json");
    let accuracy: serde_json::Value = serde_json::from_slice(&text).expect("json");
    let (images, labels) = held_out();
    for version in 1..=3 {
        let model = digits_model(version);
        let outputs = model.run(&named([("image", images.clone())])).expect("runs");
        assert_eq!(outputs["logits"].shape(), [360, 10]);
        let right = classes(&outputs["logits"]).iter().zip(&labels).filter(|(class, label)| class == label).count();
        let want = &accuracy[format!("digits-{version}.onnx")];
        assert_eq!((right as u64, labels.len() as u64), (u(&want["correct"]), u(&want["total"])), "version {version}");
    }
}

fn u(value: &serde_json::Value) -> u64 {
    value.as_u64().expect("a number")
}

#[test]
fn a_batch_gives_the_same_item_by_item_and_together() {
    let (by_item, together) =
        (digits_model(2), Model::load(&digits("digits-2.onnx"), &Load::default()).expect("loads"));
    assert_eq!(by_item.inputs(), together.inputs());
    assert_eq!(by_item.outputs(), together.outputs());
    let (images, _) = held_out();
    for count in [1, 4, 8] {
        let some = Tensor::new(Dtype::F32, vec![count, 1, 8, 8], images.data()[..count as usize * 256].to_vec());
        let inputs = named([("image", some.expect("fits"))]);
        let (a, b) = (by_item.run(&inputs).expect("runs"), together.run(&inputs).expect("runs"));
        let (a, b) = (a["logits"].to_f64(), b["logits"].to_f64());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-3), "{count}: {a:?} {b:?}");
    }
}

#[test]
fn a_batch_of_none_gives_empty_outputs() {
    for recipe in [shaped("image", &[1, 1, 8, 8]), Load::default()] {
        let model = Model::load(&digits("digits-1.onnx"), &recipe).expect("loads");
        let outputs = model.run(&named([("image", f32s(&[0, 1, 8, 8], &[]))])).expect("runs");
        assert_eq!((outputs["logits"].shape(), outputs["logits"].dtype()), (&[0, 10][..], Dtype::F32));
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_by_name() {
    let model = digits_model(1);
    let image = f32s(&[1, 1, 8, 8], &[0.0; 64]);
    let (name, wanted, got) = refused(&model, named([("image", image.clone()), ("mask", image.clone())]));
    assert_eq!((&name[..], &wanted[..], &got[..]), ("mask", "one of image", "an unknown name"));
    let (name, wanted, got) = refused(&model, named([]));
    assert_eq!((&name[..], &wanted[..], &got[..]), ("image", "f32 [N, 1, 8, 8]", "nothing"));
    let bytes = Tensor::new(Dtype::U8, vec![1, 1, 8, 8], vec![0; 64]).expect("fits");
    assert_eq!(refused(&model, named([("image", bytes)])).2, "u8 [1, 1, 8, 8]");
    for shape in [&[1, 8, 8, 1][..], &[8, 8], &[1, 1, 8, 8, 1], &[64]] {
        assert_eq!(refused(&model, named([("image", f32s(shape, &[0.0; 64]))])).2, format!("f32 {shape:?}"));
    }
    let error = model.run(&named([])).expect_err("refused");
    assert_eq!(error.code(), Code::InputInvalid);
    assert_eq!(error.to_string(), "input \"image\": wanted f32 [N, 1, 8, 8], got nothing");
}

#[test]
fn a_symbol_has_one_size_in_all_inputs() {
    let model = load("two_in_two_out.onnx", &Load::default()).expect("loads");
    let b = |rows: u64| Tensor::new(Dtype::I32, vec![rows, 3], vec![0; rows as usize * 12]).expect("fits");
    let two = f32s(&[2, 3], &[-1., 0., 1., 2., 3., 4.]);
    let (name, wanted, got) = refused(&model, named([("a", two.clone()), ("b", b(3))]));
    assert_eq!(name, "b");
    assert!(wanted.contains("N = 2") && got == "i32 [3, 3]", "{wanted} {got}");
    let outputs = model.run(&named([("a", two.clone()), ("b", b(2))])).expect("runs");
    assert_eq!(outputs["sum"], two);
    assert_eq!((outputs["larger"].dtype(), outputs["larger"].data()), (Dtype::Bool, &[0, 0, 1, 1, 1, 1][..]));
}

#[test]
fn empty_tensors_with_huge_sizes_reach_no_allocation() {
    let model = load("shape_output.onnx", &Load { ignore_output_shapes: true, ..Load::default() }).expect("loads");
    for shape in [[0, 1 << 40], [1 << 40, 0], [0, 0]] {
        refused(&model, named([("x", f32s(&shape, &[]))]));
    }
}

#[test]
fn sizes_computed_by_the_engine_are_i64() {
    let model = load("shape_output.onnx", &Load { ignore_output_shapes: true, ..Load::default() }).expect("loads");
    assert_eq!(model.outputs()[0].dtype, Dtype::I64);
    let outputs = model.run(&named([("x", f32s(&[2, 5], &[0.0; 10]))])).expect("runs");
    assert_eq!((outputs["shape"].dtype(), outputs["shape"].to_f64()), (Dtype::I64, vec![2.0, 5.0]));
}

#[test]
fn every_dtype_goes_in_and_out_unchanged() {
    let model = load("every_dtype.onnx", &Load::default()).expect("loads");
    let tensor = |dtype: Dtype| {
        let data = (0..4 * dtype.size()).map(|n| if dtype == Dtype::Bool { n as u8 % 2 } else { n as u8 + 1 });
        Tensor::new(dtype, vec![2, 2], data.collect()).expect("fits")
    };
    let inputs: BTreeMap<_, _> = Dtype::ALL.iter().map(|d| (format!("in_{d}"), tensor(*d))).collect();
    let outputs = model.run(&inputs).expect("runs");
    for dtype in Dtype::ALL {
        assert_eq!(outputs[&format!("out_{dtype}")], tensor(*dtype));
    }
    assert_eq!(model.inputs().iter().map(|spec| spec.dtype).collect::<Vec<_>>(), Dtype::ALL);
}

#[test]
fn nan_is_an_output_like_any_other() {
    let model = load("nan.onnx", &shaped("x", &[1, 2])).expect("loads");
    let outputs = model.run(&named([("x", f32s(&[1, 2], &[0.0, 2.0]))])).expect("runs");
    assert!(outputs["y"].to_f64()[0].is_nan());
    assert_eq!(outputs["y"].to_f64()[1], 1.0);
}

#[test]
fn a_panic_of_the_engine_is_an_error_of_one_run() {
    let model = load("divide.onnx", &Load::default()).expect("loads");
    let i32s = |values: [i32; 2]| {
        Tensor::new(Dtype::I32, vec![1, 2], values.iter().flat_map(|v| v.to_le_bytes()).collect()).expect("fits")
    };
    let by = |divisor: i32| model.run(&named([("a", i32s([7, 9])), ("b", i32s([2, divisor]))]));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let error = by(0).expect_err("division by zero");
                    assert_eq!(error.code(), Code::InferenceFailed);
                    assert!(error.to_string().contains("panicked: attempt to divide by zero"), "{error}");
                    assert_eq!(by(3).expect("runs")["q"].to_f64(), [3.0, 3.0]);
                }
            });
        }
    });
}

#[test]
fn a_recurrent_model_forgets_the_request_before() {
    let model = load("lstm.onnx", &Load::default()).expect("loads");
    let inputs = named([("x", f32s(&[3, 1, 2], &[1., -1., 0.5, 2., 0., 1.]))]);
    let first = model.run(&inputs).expect("runs");
    for _ in 0..3 {
        assert_eq!(model.run(&inputs).expect("runs"), first);
    }
}

#[test]
fn eight_threads_on_one_model_agree() {
    let model = digits_model(2);
    let (images, _) = held_out();
    let inputs = named([("image", images)]);
    let want = model.run(&inputs).expect("runs");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert_eq!(model.run(&inputs).expect("runs"), want);
                }
            });
        }
    });
}

#[test]
fn weights_may_lie_in_a_file_beside_the_model_but_not_elsewhere() {
    let recipe = shaped("x", &[1, 4]);
    let (inside, whole) =
        (load("external.onnx", &recipe).expect("loads"), load("linear.onnx", &recipe).expect("loads"));
    let inputs = named([("x", f32s(&[2, 4], &[1., 2., 3., 4., 5., 6., 7., 8.]))]);
    assert_eq!(inside.run(&inputs).expect("runs"), whole.run(&inputs).expect("runs"));
    let error = load("external_outside.onnx", &recipe).expect_err("outside");
    assert!(error.to_string().contains("inside the model directory"), "{error}");
}

#[test]
fn files_that_cannot_be_loaded_say_why() {
    let table = [
        ("nowhere.onnx", Code::StoreFailed, "cannot be read"),
        ("text.onnx", Code::ModelInvalid, "is not an ONNX model"),
        ("truncated.onnx", Code::ModelInvalid, "buffer underflow"),
        ("loop.onnx", Code::ModelUnsupported, "at node \"y_loop\" (Loop)"),
        ("if_ranks.onnx", Code::ModelUnsupported, "at node \"y_if\" (If): Impossible to unify"),
        ("dynamic_size.onnx", Code::ModelUnsupported, "without a determined fact"),
        ("text_input.onnx", Code::ModelUnsupported, "\"x\" is of type String"),
    ];
    for (file, code, text) in table {
        let error = load(file, &Load::default()).expect_err(file);
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
    let empty = tempfile::NamedTempFile::new().expect("temp file");
    let error = Model::load(empty.path(), &Load::default()).expect_err("empty");
    assert_eq!(error.code(), Code::ModelInvalid);
    assert!(Model::load(&fixture(""), &Load::default()).is_err(), "a folder");
    assert!(load("nowhere.onnx", &Load::default()).expect_err("missing").source().is_some());
}

#[test]
fn the_estimate_of_memory_is_near_what_was_measured() {
    let model = digits_model(1);
    // 651,264 bytes of anonymous resident memory on x86-64 Linux.
    assert!((500_000..800_000).contains(&model.memory_bytes()), "{}", model.memory_bytes());
    assert!(model.load_time() > Duration::ZERO);
}
