//! What is told of bad rows, bad files and bad places.

use super::*;

#[test]
fn a_bad_row_is_told_and_costs_no_other_its_answer() {
    let bench = Bench::new();
    let good = jsonl(&pixels(1));
    let good = good.trim();
    let long = format!("[{}]", vec!["0"; 65].join(","));
    let table: [(&str, &str, &str); 6] = [
        ("{", "input_invalid", "row 1: the line is not JSON"),
        ("[1, 2]", "input_invalid", "wanted f32 [N, 1, 8, 8]"),
        (&long, "input_invalid", "got f32 [1, 65]"),
        ("[\"x\"]", "input_invalid", "element 0 is \"x\", which is no FP32"),
        ("{\"other\": 1}", "", "input 'image' takes 64 columns in its own order"),
        ("null", "input_invalid", "row 1: input \"image\""),
    ];
    for (index, (bad, code, want)) in table.into_iter().enumerate() {
        bench.write("a.jsonl", format!("{good}\n{bad}\n{good}\n"));
        let output = format!("out-{index}");
        let outcome = bench.run(&bench.options(&["a.jsonl"], &output));
        if code.is_empty() {
            let error = outcome.expect_err(bad).to_string();
            assert!(error.contains(want), "{error}");
            continue;
        }
        let summary = outcome.expect(bad);
        assert_eq!((summary.ok, summary.failed), (2, 1), "{bad}");
        let line = &bench.lines(&format!("{output}/errors.jsonl"))[0];
        let error = line["error"].as_str().expect("a text");
        assert!(error.contains("a.jsonl, row 1: ") && error.contains(want), "{error}");
        assert_eq!((line["code"].as_str(), line["row"].as_u64()), (Some(code), Some(1)), "{bad}");
        assert!(!line["next_step"].as_str().expect("a text").is_empty());
        assert_eq!(bench.lines(&format!("{output}/part-00000.jsonl"))[1]["row"], 2);
    }
}

#[test]
fn bad_cells_of_csv_are_told_by_column() {
    let bench = Bench::new();
    let table = csv(&pixels(4), false);
    let lines: Vec<&str> = table.lines().collect();
    let ragged = lines[2].rsplit_once(',').expect("cells").0;
    let wrong = lines[3].replacen(',', ",abc", 1);
    bench.write("a.csv", [lines[0], lines[1], ragged, &wrong, lines[4]].join("\n"));
    let summary = bench.run(&bench.options(&["a.csv"], "out")).expect("runs");
    assert_eq!((summary.ok, summary.failed), (2, 2));
    let errors: Vec<String> =
        bench.lines("out/errors.jsonl").iter().map(|line| line["error"].as_str().expect("a text").to_owned()).collect();
    assert!(errors[0].ends_with("row 1: the row has 63 cells, and the header has 64"), "{errors:?}");
    assert!(errors[1].contains("row 2: column 'p1': abc") && errors[1].ends_with("is no FP32"), "{errors:?}");
}

#[test]
fn images_that_do_not_decode_are_rows_without_an_answer() {
    let bench = Bench::new();
    let rows = pixels(2);
    bench.write("in/0.png", png(&rows[0])).write("in/1.png", "no image").write("in/2.png", png(&rows[1]));
    bench.write("in/3.png", &png(&rows[1])[..40]);
    let summary = bench.run(&bench.options(&["in"], "out")).expect("runs");
    assert_eq!((summary.ok, summary.failed), (2, 2));
    let lines = bench.lines("out/errors.jsonl");
    let error = lines[0]["error"].as_str().expect("a text");
    assert!(error.contains("in/1.png, row 0: the image cannot be decoded"), "{error}");
    assert!(lines[1]["file"].as_str().expect("a text").ends_with("in/3.png"));
}

#[test]
fn files_that_cannot_be_read_end_the_run_with_a_next_step() {
    let bench = Bench::new();
    let data = bytes_of(&pixels(2));
    let mut cut = packed(csv(&pixels(40), false).as_bytes(), "gz");
    cut.truncate(cut.len() / 2);
    let table: [(&str, Vec<u8>, &str); 10] = [
        ("other.csv", b"a,b\n1,2\n".to_vec(), "takes 64 columns in its own order"),
        ("twice.csv", b"a,a\n1,2\n".to_vec(), "column 'a' stands twice"),
        ("cut.csv.gz", cut, "cut.csv.gz cannot be read"),
        ("text.npy", b"text".to_vec(), "cannot be read"),
        ("wide.npy", npy("<f8", "(1, 64)", &[0; 512]), "holds f64, and input \"image\" takes f32"),
        ("shape.npy", npy("<f4", "(4, 32)", &data), "has shape [4, 32], which does not fill"),
        ("other.npy", npy("<f4", "(2, 8, 8, 1)", &data), "has shape [2, 8, 8, 1], which does not fill"),
        ("cut.npy", npy("<f4", "(3, 64)", &data), "is cut off"),
        ("number.npy", npy("<f4", "()", &[0; 4]), "holds one number"),
        ("empty.csv", Vec::new(), "no rows in any input"),
    ];
    for (name, bytes, want) in table {
        bench.write(name, bytes);
        let error = bench.run(&bench.options(&[name], &format!("out-{name}.d"))).expect_err(name);
        assert!(error.to_string().contains(want), "{error}");
        assert!(!error.next_step().is_empty() && !matches!(error, Error::Internal { .. }), "{error:?}");
    }
    let kept = Options {
        columns: Columns { keep: vec!["id".into()], ..Columns::default() },
        ..bench.options(&["other.csv"], "k")
    };
    assert!(bench.run(&kept).expect_err("no such column").to_string().contains("has no column \"id\", but a, b"));
}

#[test]
fn an_empty_file_among_others_is_noted() {
    let bench = Bench::new();
    bench.write("in/0.csv", "").write("in/1.csv", csv(&pixels(2), false)).write("in/2.csv", csv(&[], false).trim_end());
    let ear = Ear::default();
    let summary = bench.run_with(&bench.options(&["in"], "out"), &ear).expect("runs");
    assert_eq!(summary.rows, 2);
    let notes = ear.notes.into_inner().expect("no panic");
    assert!(notes.len() == 2 && notes.iter().all(|note| note.ends_with("has no rows")), "{notes:?}");
}

#[test]
fn a_run_with_too_many_errors_ends_and_goes_on_when_more_are_allowed() {
    let bench = Bench::new();
    let good = jsonl(&pixels(1));
    bench.write("a.jsonl", format!("{good}[1]\n[2]\n{good}[3]\n{good}"));
    let options = |most: &str| Options {
        max_errors: most.parse().expect("a limit"),
        batch_size: Some(1),
        ..bench.options(&["a.jsonl"], "out")
    };
    let error = bench.run(&options("2")).expect_err("three fail");
    assert_eq!(error.to_string(), "3 of 5 rows failed, and --max-errors allows 2 rows");
    let error = bench.run(&options("49%")).expect_err("half of them fail");
    assert_eq!(error.to_string(), "3 of 6 rows failed, and --max-errors allows 49% of the rows");
    let summary = bench.run(&options("50%")).expect("half of them may fail");
    assert_eq!((summary.ok, summary.failed), (3, 3));
    assert_eq!(bench.lines("out/errors.jsonl").len(), 3);
}

#[test]
fn outputs_that_are_in_use_are_left_alone() {
    let bench = Bench::new();
    bench.write("a.jsonl", jsonl(&pixels(2))).write("full/notes.txt", "mine").write("there.jsonl", "mine");
    let error = bench.run(&bench.options(&["a.jsonl"], "full")).expect_err("not empty");
    assert!(error.to_string().contains("is not empty: it has notes.txt"), "{error}");
    let error = bench.run(&bench.options(&["a.jsonl"], "there.jsonl")).expect_err("exists");
    assert!(error.to_string().ends_with("there.jsonl exists already"), "{error}");
    assert_eq!((bench.text("full/notes.txt"), bench.text("there.jsonl")), ("mine".into(), "mine".into()));
    let error = bench.run(&bench.options(&["a.jsonl"], "a.jsonl/below")).expect_err("a file is no folder");
    assert!(matches!(error, Error::Output { .. }), "{error:?}");
}

#[test]
fn a_full_disk_is_called_so() {
    let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
    let error = Error::output(std::path::Path::new("out/part"), &full);
    assert_eq!(error.code(), muster_proto::code::Code::DiskFull);
    assert!(error.next_step().starts_with("free some room"), "{}", error.next_step());
}

#[test]
fn wrong_wishes_are_refused_before_anything_is_written() {
    let bench = Bench::new();
    bench.write("a.jsonl", jsonl(&pixels(2))).write("a.png", png(&pixels(1)[0]));
    let base = |inputs: &[&str]| bench.options(inputs, "out");
    let shard = Shard { index: 0, count: 2 };
    let table = [
        (Options { batch_size: Some(0), ..base(&["a.jsonl"]) }, "--batch-size 0"),
        (
            Options { output: Destination::File(bench.path("x.csv")), shard, ..base(&["a.jsonl"]) },
            "each shard writes one",
        ),
        (
            Options { output: Destination::Url("http://h/x?sig=s".into()), shard, ..base(&["a.jsonl"]) },
            "http://h/x is one file",
        ),
        (base(&["missing.csv"]), "cannot be read"),
    ];
    for (options, want) in table {
        let error = bench.run(&options).expect_err(want);
        assert!(matches!(error, Error::Usage { .. }) && error.to_string().contains(want), "{error}");
    }
    let mut plain = Bench::new();
    plain.loaded = testing::Bundle::digits(1).load().expect("loads");
    plain.write("a.png", png(&pixels(1)[0]));
    let error = plain.run(&plain.options(&["a.png"], "out")).expect_err("no transforms");
    assert_eq!(error.to_string(), "digits:1 takes no images");
    assert!(!plain.path("out").exists());
}
