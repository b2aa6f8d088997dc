use super::*;

fn spec(name: &str, shape: &[Dim]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype: Dtype::F32, shape: shape.to_vec() }
}

fn rows() -> Dim {
    Dim::Symbol("N".into())
}

fn layout<'a>(format: OutputFormat, keep: &'a [String], specs: &'a [TensorSpec], ops: &'a [OutputOp]) -> Layout<'a> {
    let output = |spec| Output { spec, ops, form: form(spec, ops) };
    Layout { format, keep, outputs: specs.iter().map(output).collect() }
}

fn outputs<const N: usize>(all: [(&str, &[u64], &[f32]); N]) -> BTreeMap<String, Tensor> {
    let tensor = |shape: &[u64], values| Tensor::from_f32(shape.to_vec(), values).expect("fits");
    all.into_iter().map(|(name, shape, values)| (name.to_owned(), tensor(shape, values))).collect()
}

fn written(layout: &Layout, outputs: &BTreeMap<String, Tensor>, count: usize, keep: &[&str]) -> (String, u64) {
    let items = layout.items(outputs, count).expect("fits");
    let keep: Vec<String> = keep.iter().map(|text| (*text).to_owned()).collect();
    let lines = items.rows.iter().enumerate().flat_map(|(row, item)| layout.line(("f", row as u64), &keep, item));
    (String::from_utf8([layout.header(), lines.collect()].concat()).expect("UTF-8"), items.nonfinite)
}

#[test]
fn lines_hold_each_rows_part_of_each_output() {
    let specs = [
        spec("score", &[rows()]),
        spec("pair", &[rows(), Dim::Fixed(2)]),
        spec("free", &[rows(), Dim::Symbol("M".into())]),
    ];
    let given = outputs([
        ("score", &[2], &[0.5, f32::NAN]),
        ("pair", &[2, 2], &[1.0, 2.0, 3.0, f32::INFINITY]),
        ("free", &[2, 1], &[0.1, 0.2]),
    ]);
    let keep = ["id".to_owned(), "a, b".to_owned()];
    let (text, nonfinite) = written(&layout(OutputFormat::Jsonl, &keep, &specs, &[]), &given, 2, &["7", "\"x,\\\"y\""]);
    let want = "{\"file\":\"f\",\"row\":0,\"keep\":{\"id\":7,\"a, b\":\"x,\\\"y\"},\"outputs\":{\"score\":0.5,\"pair\":[1.0,2.0],\"free\":[0.1]}}\n\
        {\"file\":\"f\",\"row\":1,\"keep\":{\"id\":7,\"a, b\":\"x,\\\"y\"},\"outputs\":{\"score\":null,\"pair\":[3.0,null],\"free\":[0.2]}}\n";
    assert_eq!((text.as_str(), nonfinite), (want, 2));
    let (text, _) = written(&layout(OutputFormat::Csv, &keep, &specs, &[]), &given, 2, &["null", "\"x,\\\"y\""]);
    let want = "file,row,id,\"a, b\",score,pair.0,pair.1,free\n\
        f,0,,\"x,\"\"y\",0.5,1.0,2.0,[0.1]\n\
        f,1,,\"x,\"\"y\",,3.0,,[0.2]\n";
    assert_eq!(text, want);
}

#[test]
fn output_transforms_see_one_row_at_a_time() {
    let specs = [spec("y", &[rows(), Dim::Fixed(3)])];
    let given = outputs([("y", &[2, 3], &[1.0, 9.0, 2.0, 5.0, 4.0, 3.0])]);
    let labels = ["a", "b", "c"].map(str::to_owned).to_vec();
    let best = [OutputOp::ArgMax { labels: labels.clone() }];
    let (text, _) = written(&layout(OutputFormat::Csv, &[], &specs, &best), &given, 2, &[]);
    assert_eq!(text, "file,row,y.index,y.label,y.value\nf,0,1,b,9.0\nf,1,0,a,5.0\n");
    let top = [OutputOp::TopK { k: 1, labels }];
    let (text, _) = written(&layout(OutputFormat::Jsonl, &[], &specs, &top), &given, 2, &[]);
    assert!(text.contains("\"outputs\":{\"y\":[{\"index\":1,\"label\":\"b\",\"value\":9.0}]}"), "{text}");
    // A softmax over the rows instead of a row's own values would give something else for each number of rows.
    let scores = [spec("y", &[rows()])];
    let given = outputs([("y", &[2], &[1.0, 9.0])]);
    let (text, _) = written(&layout(OutputFormat::Csv, &[], &scores, &[OutputOp::Softmax]), &given, 2, &[]);
    assert_eq!(text, "file,row,y\nf,0,1.0\nf,1,1.0\n");
}

#[test]
fn half_floats_are_written_and_odd_counts_refused() {
    let spec = [TensorSpec { dtype: Dtype::F16, ..spec("h", &[rows()]) }];
    let half = Tensor::new(Dtype::F16, vec![1], vec![0x00, 0x3c]).expect("fits");
    let given = BTreeMap::from([("h".to_owned(), half)]);
    let layout = layout(OutputFormat::Csv, &[], &spec, &[]);
    assert_eq!(written(&layout, &given, 1, &[]).0, "file,row,h\nf,0,1.0\n");
    assert!(layout.items(&given, 2).is_err());
    assert!(layout.items(&BTreeMap::new(), 1).is_err());
}
