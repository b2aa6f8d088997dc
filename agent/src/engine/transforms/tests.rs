use std::io::Cursor;

use image::{DynamicImage, ImageFormat};
use muster_proto::manifest::{Color, Dim, Dtype, Filter, InputOp, Layout, OutputOp, Tensor, TensorSpec, Transforms};

use super::*;
use crate::engine::json::parse_samples;
use crate::engine::testing::*;

fn spec(dtype: Dtype, shape: &[u64]) -> TensorSpec {
    let dim = |size: &u64| if *size == 0 { Dim::Symbol("N".into()) } else { Dim::Fixed(*size) };
    TensorSpec { name: "x".into(), dtype, shape: shape.iter().map(dim).collect() }
}

fn image(ops: &[InputOp], bytes: &[u8]) -> Result<Tensor, Error> {
    apply_inputs(ops, Source::Image(bytes), &spec(Dtype::F32, &[]))
}

fn numbers(ops: &[InputOp], tensor: &Tensor) -> Result<Tensor, Error> {
    apply_inputs(ops, Source::Tensor(tensor), &spec(Dtype::F32, &[]))
}

fn decode(color: Color) -> InputOp {
    InputOp::DecodeImage { color }
}

fn png(image: DynamicImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).expect("writes");
    bytes.into_inner()
}

fn digits_transforms() -> Transforms {
    serde_json::from_slice(&std::fs::read(digits("transforms.json")).expect("transforms")).expect("transforms")
}

#[test]
fn a_picture_of_a_seven_is_answered_with_seven() {
    let transforms = digits_transforms();
    let model = digits_model(2);
    check(&transforms, model.inputs(), model.outputs()).expect("fits the model");
    let file = std::fs::read(digits("seven.png")).expect("seven.png");
    let input = apply_inputs(&transforms.inputs["image"], Source::Image(&file), &model.inputs()[0]).expect("an image");
    let golden = parse_samples(&std::fs::read(digits("sample-2.json")).expect("samples")).expect("samples");
    let want = &golden.iter().find(|s| s.name == "seven").expect("seven").inputs["image"];
    assert_eq!(input.shape(), want.shape());
    assert!(input.to_f64().iter().zip(want.to_f64()).all(|(got, want)| (got - want).abs() < 1e-6));

    let outputs = model.run(&named([("image", input)])).expect("runs");
    let answer = apply_outputs(&transforms.outputs["logits"], &outputs["logits"]).expect("ranks");
    let Answer::Ranked(rows) = &answer else { panic!("{answer:?}") };
    assert_eq!((rows.len(), rows[0].len(), rows[0][0].label.as_deref()), (1, 3, Some("7")));
    assert!(rows[0][0].value > 0.9 && rows[0][0].value <= 1.0);
    let json = serde_json::to_value(&answer).expect("json");
    assert_eq!((&json[0][0]["index"], &json[0][0]["label"]), (&7.into(), &"7".into()));
}

#[test]
fn colours_are_decoded_in_the_order_that_the_model_wants() {
    let pixels = image::RgbImage::from_raw(2, 1, vec![255, 0, 0, 10, 20, 30]).expect("fits");
    let file = png(DynamicImage::ImageRgb8(pixels));
    let rgb = image(&[decode(Color::Rgb)], &file).expect("decodes");
    assert_eq!((rgb.shape(), rgb.to_f64()), (&[1, 2, 3][..], vec![255., 0., 0., 10., 20., 30.]));
    assert_eq!(image(&[decode(Color::Bgr)], &file).expect("decodes").to_f64(), [0., 0., 255., 30., 20., 10.]);
    // 0.2126 × 255, and 0.2126 × 10 + 0.7152 × 20 + 0.0722 × 30, rounded.
    let gray = image(&[decode(Color::Gray)], &file).expect("decodes");
    assert_eq!((gray.shape(), gray.to_f64()), (&[1, 2, 1][..], vec![54., 19.]));
    let nchw = image(&[decode(Color::Rgb), InputOp::Layout { to: Layout::Nchw }], &file).expect("lays out");
    assert_eq!((nchw.shape(), nchw.to_f64()), (&[1, 3, 1, 2][..], vec![255., 10., 0., 20., 0., 30.]));
    let nhwc = image(&[decode(Color::Rgb), InputOp::Layout { to: Layout::Nhwc }], &file).expect("lays out");
    assert_eq!((nhwc.shape(), nhwc.to_f64()), (&[1, 1, 2, 3][..], rgb.to_f64()));
}

#[test]
fn jpeg_is_read_and_other_files_are_refused() {
    let pixels = image::RgbImage::from_pixel(16, 8, image::Rgb([200, 100, 50]));
    let mut jpeg = Cursor::new(Vec::new());
    DynamicImage::ImageRgb8(pixels).write_to(&mut jpeg, ImageFormat::Jpeg).expect("writes");
    let decoded = image(&[decode(Color::Rgb)], jpeg.get_ref()).expect("decodes");
    assert_eq!(decoded.shape(), [8, 16, 3]);
    assert!((decoded.to_f64()[0] - 200.0).abs() < 4.0, "{:?}", decoded.to_f64()[0]);
    let png = std::fs::read(digits("seven.png")).expect("seven.png");
    for bytes in [&b"GIF89a\x01\x00\x01\x00"[..], b"", b"no image", &png[..60], &jpeg.get_ref()[..40]] {
        assert!(matches!(image(&[decode(Color::Gray)], bytes), Err(Error::Image(_))), "{bytes:?}");
    }
}

#[test]
fn a_small_file_cannot_claim_a_large_image() {
    // The header of a PNG of this size with 3 channels of 8 bits, and no pixels.
    let claim = |width: u32, height: u32| {
        let mut header = b"IHDR".to_vec();
        header.extend(width.to_be_bytes());
        header.extend(height.to_be_bytes());
        header.extend([8, 2, 0, 0, 0]);
        let mut file = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d".to_vec();
        file.extend(&header);
        file.extend(crc32(&header).to_be_bytes());
        file.extend(b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e");
        file
    };
    for (width, height) in [(8193, 1), (1, 8193), (u32::MAX >> 1, u32::MAX >> 1)] {
        let error = image(&[decode(Color::Rgb)], &claim(width, height)).expect_err("too large");
        assert!(matches!(error, Error::TooLarge(_)), "{error}");
    }
    // Within the sides, but 8192 × 8192 × 3 × 4 bytes as f32.
    let blank = png(DynamicImage::new_luma8(8192, 8192));
    assert!(blank.len() < 1_000_000);
    assert_eq!(image(&[decode(Color::Rgb)], &blank).expect_err("too large").code(), Code::TooLarge);
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn resizing_keeps_the_range_and_the_mean() {
    let board: Vec<f32> = (0..16).map(|n| if (n / 4 + n % 4) % 2 == 0 { 0.0 } else { 255.0 }).collect();
    let board = f32s(&[4, 4, 1], &board);
    for filter in [Filter::Triangle, Filter::CatmullRom, Filter::Lanczos3] {
        let small = numbers(&[InputOp::Resize { width: 1, height: 1, filter }], &board).expect("resizes");
        assert!((small.to_f64()[0] - 127.5).abs() < 0.5, "{filter:?} {small:?} {:?}", small.to_f64());
    }
    let nearest = InputOp::Resize { width: 8, height: 2, filter: Filter::Nearest };
    let wide = numbers(&[nearest], &board).expect("resizes");
    assert_eq!(wide.shape(), [2, 8, 1]);
    assert!(wide.to_f64().iter().all(|value| *value == 0.0 || *value == 255.0));
    let same = InputOp::Resize { width: 4, height: 4, filter: Filter::Lanczos3 };
    assert_eq!(numbers(&[same], &board).expect("stays"), board);
}

#[test]
fn the_middle_is_cut_out() {
    let values: Vec<f32> = (0..20).map(|n| n as f32).collect();
    let crop = |width, height| numbers(&[InputOp::CenterCrop { width, height }], &f32s(&[4, 5, 1], &values));
    assert_eq!(crop(3, 2).expect("fits").to_f64(), [6., 7., 8., 11., 12., 13.]);
    assert_eq!(crop(2, 1).expect("fits").to_f64(), [6., 7.]);
    assert!(crop(6, 1).is_err());
}

#[test]
fn values_are_scaled_normalised_and_cast() {
    let pixel = f32s(&[1, 1, 3], &[0.0, 127.5, 255.0]);
    let ops = [
        InputOp::Scale { factor: 2.0 / 255.0, offset: -1.0 },
        InputOp::Normalize { mean: vec![0.0, 0.5, 1.0], std: vec![1.0, 0.5, 2.0] },
    ];
    assert_eq!(numbers(&ops, &pixel).expect("applies").to_f64(), [-1.0, -1.0, 0.0]);
    assert!(numbers(&[InputOp::Normalize { mean: vec![0.0], std: vec![1.0] }], &pixel).is_err());
    let cast = |dtype| {
        apply_inputs(&[InputOp::Scale { factor: 1.0, offset: 10.0 }], Source::Tensor(&pixel), &spec(dtype, &[]))
    };
    assert_eq!(cast(Dtype::U8).expect("casts").data(), [10, 138, 255]);
    assert_eq!(cast(Dtype::I8).expect("casts").to_f64(), [10.0, 127.0, 127.0]);
    for dtype in [Dtype::F16, Dtype::F32, Dtype::F64] {
        assert_eq!(cast(dtype).expect("casts").to_f64(), [10.0, 137.5, 265.0]);
    }
    assert!(cast(Dtype::I64).is_err());
}

#[test]
fn tensors_stand_for_decoded_pixels_or_pass_unchanged() {
    let i64s = Tensor::new(Dtype::I64, vec![1], 9_007_199_254_740_993i64.to_le_bytes().to_vec()).expect("fits");
    assert_eq!(apply_inputs(&[], Source::Tensor(&i64s), &spec(Dtype::I64, &[1])).expect("unchanged"), i64s);
    let gray = Tensor::new(Dtype::U8, vec![1, 2], vec![3, 4]).expect("fits");
    let ops = [decode(Color::Gray), InputOp::Layout { to: Layout::Nchw }];
    assert_eq!(numbers(&ops, &gray).expect("pixels").shape(), [1, 1, 1, 2]);
    assert!(numbers(&[decode(Color::Rgb)], &gray).is_err());
    assert!(image(&[InputOp::Scale { factor: 1.0, offset: 0.0 }], b"x").is_err());
    assert!(image(&[], b"x").is_err());
}

#[test]
fn outputs_are_ranked_with_nan_last_and_the_first_of_equals_first() {
    let scores = f32s(&[2, 4], &[0.1, f32::NAN, 0.7, 0.1, -1.0, -1.0, f32::INFINITY, 2.0]);
    let labels: Vec<String> = ["a", "b", "c", "d"].map(String::from).to_vec();
    let places = |answer: Answer| match answer {
        Answer::Ranked(rows) => rows.iter().map(|row| row.iter().map(|r| r.index).collect()).collect::<Vec<Vec<u64>>>(),
        Answer::Best(row) => vec![row.iter().map(|r| r.index).collect()],
        Answer::Values(_) => panic!("not ranked"),
    };
    let top = |k| apply_outputs(&[OutputOp::TopK { k, labels: labels.clone() }], &scores).expect("ranks");
    assert_eq!(places(top(2)), [[2, 0], [2, 3]]);
    assert_eq!(places(top(9)), [[2, 0, 3, 1], [2, 3, 0, 1]]);
    let best = apply_outputs(&[OutputOp::ArgMax { labels: vec![] }], &scores).expect("ranks");
    assert_eq!(serde_json::to_string(&best).expect("json"), r#"[{"index":2,"value":0.7},{"index":2,"value":null}]"#);
    let kept = apply_outputs(&[OutputOp::Threshold { min: 0.1, labels: vec![] }], &scores).expect("ranks");
    assert_eq!(places(kept), [vec![2, 0, 3], vec![2, 3]]);
    let short = vec!["a".to_owned()];
    assert!(apply_outputs(&[OutputOp::ArgMax { labels: short }], &scores).is_err());
    assert!(apply_outputs(&[OutputOp::ArgMax { labels: vec![] }, OutputOp::Softmax], &scores).is_err());
    assert!(apply_outputs(&[OutputOp::Softmax], &f32s(&[2, 0], &[])).is_err());
    assert_eq!(apply_outputs(&[], &scores).map(|a| matches!(a, Answer::Values(_))), Ok(true));
}

#[test]
fn softmax_sums_to_one_and_does_not_overflow() {
    let Ok(Answer::Values(soft)) =
        apply_outputs(&[OutputOp::Softmax], &f32s(&[2, 2], &[1000.0, 1000.0, 0.0, 3f32.ln()]))
    else {
        panic!("no values");
    };
    assert_eq!(soft.dtype(), Dtype::F32);
    assert!(soft.to_f64().iter().zip([0.5, 0.5, 0.25, 0.75]).all(|(got, want)| (got - want).abs() < 1e-6));
}

#[test]
fn steps_that_do_not_fit_the_model_are_found_at_registration() {
    use InputOp::*;
    let input = spec(Dtype::F32, &[0, 3, 8, 8]);
    let output = spec(Dtype::F32, &[0, 2]);
    let (rgb, nchw) = (|| decode(Color::Rgb), || Layout { to: muster_proto::manifest::Layout::Nchw });
    let sized = |side| Resize { width: side, height: side, filter: Filter::Triangle };
    let norm = |n: usize, std: f32| Normalize { mean: vec![0.5; n], std: vec![std; n] };
    let inputs: Vec<(Vec<InputOp>, &str)> = vec![
        (vec![rgb(), sized(8), norm(3, 0.5), nchw()], ""),
        (vec![rgb(), nchw()], ""),
        (vec![sized(12), CenterCrop { width: 8, height: 8 }, nchw()], ""),
        (vec![Scale { factor: 2.0, offset: 0.0 }], ""),
        (vec![], ""),
        (vec![rgb(), sized(8)], "end with layout"),
        (vec![rgb(), sized(9), nchw()], "the steps give [1, 3, 9, 9], the model wants f32 [N, 3, 8, 8]"),
        (vec![decode(Color::Gray), sized(8), nchw()], "[1, 1, 8, 8]"),
        (vec![rgb(), sized(8), Layout { to: muster_proto::manifest::Layout::Nhwc }], "[1, 8, 8, 3]"),
        (vec![sized(8), rgb(), nchw()], "has to be the first"),
        (vec![rgb(), sized(8), norm(1, 0.5), nchw()], "for 3 channels, not 1 and 1"),
        (vec![rgb(), sized(8), norm(3, 0.0), nchw()], "other than 0"),
        (vec![rgb(), nchw(), norm(3, 0.5)], "after layout"),
        (vec![rgb(), sized(4), CenterCrop { width: 8, height: 8 }, nchw()], "larger than the image"),
        (vec![rgb(), sized(0), nchw()], "1 to 8192"),
        (vec![rgb(), sized(100_000), nchw()], "1 to 8192"),
        (vec![Scale { factor: f32::NAN, offset: 0.0 }], "finite"),
    ];
    let transforms = |ops: Vec<InputOp>| Transforms { inputs: [("x".to_owned(), ops)].into(), ..Transforms::default() };
    for (ops, want) in inputs {
        verdict(check(&transforms(ops), std::slice::from_ref(&input), std::slice::from_ref(&output)), want);
    }
    verdict(check(&transforms(vec![rgb()]), &[spec(Dtype::I64, &[1])], &[]), "the model wants i64");
    verdict(check(&transforms(vec![]), &[], &[]), "\"x\" is not an input");

    let labels = |n: usize| vec!["l".to_owned(); n];
    let outputs: Vec<(Vec<OutputOp>, &str)> = vec![
        (vec![OutputOp::Softmax, OutputOp::ArgMax { labels: labels(2) }], ""),
        (vec![OutputOp::TopK { k: 5, labels: labels(0) }], ""),
        (vec![OutputOp::TopK { k: 5, labels: labels(3) }], "3 labels for 2 values"),
        (vec![OutputOp::TopK { k: 0, labels: labels(0) }], "k of 1 or more"),
        (vec![OutputOp::Threshold { min: f32::NAN, labels: labels(0) }], "finite min"),
        (vec![OutputOp::ArgMax { labels: labels(0) }, OutputOp::Softmax], "have to be the last step"),
    ];
    for (ops, want) in outputs {
        let transforms = Transforms { outputs: [("x".to_owned(), ops)].into(), ..Transforms::default() };
        verdict(check(&transforms, std::slice::from_ref(&input), std::slice::from_ref(&output)), want);
    }
}

/// An empty `want` is a pass.
fn verdict(found: Result<(), String>, want: &str) {
    match found {
        Ok(()) => assert_eq!(want, ""),
        Err(text) => assert!(!want.is_empty() && text.contains(want), "{text:?}, wanted {want:?}"),
    }
}
