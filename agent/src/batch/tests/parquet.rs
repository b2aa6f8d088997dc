//! Parquet as pyarrow writes it (`tests/fixtures/batch/make.py`).

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(testing::fixture("batch").join(name)).expect("a fixture")
}

#[test]
fn columns_and_lists_give_the_answers_of_csv() {
    let bench = Bench::new();
    bench.write("a.csv", csv(&pixels(20), false));
    bench.run(&bench.options(&["a.csv"], "csv")).expect("runs");
    for (name, keep, last) in
        [("columns.parquet", vec!["id"], Value::from("n19")), ("lists.parquet", vec!["at", "id"], Value::from(19))]
    {
        bench.write(name, fixture(name));
        let output = format!("out-{}", keep.len());
        let mut options = bench.options(&[name], &output);
        options.columns.keep = keep.iter().map(|name| (*name).to_owned()).collect();
        let summary = bench.run(&options).expect(name);
        assert_eq!((summary.rows, summary.failed), (20, 0));
        let results = format!("{output}/part-00000.jsonl");
        assert_eq!(bench.labels(&results), bench.labels("csv/part-00000.jsonl"), "{name}");
        let lines: Vec<Value> = bench.lines(&results);
        assert_eq!(lines[19]["keep"]["id"], last);
        if keep.len() == 2 {
            assert_eq!((&lines[3]["keep"]["id"], &lines[7]["keep"]["at"]), (&Value::Null, &7.into()));
        }
    }
}

#[test]
fn row_groups_are_passed_over_when_a_run_goes_on() {
    let bench = Bench::new();
    bench.write("a.parquet", fixture("lists.parquet"));
    let options = |output: &str| {
        let columns = Columns { keep: vec!["id".into()], ..Columns::default() };
        Options { columns, batch_size: Some(3), ..bench.options(&["a.parquet"], output) }
    };
    bench.run(&options("whole")).expect("runs");
    for after in [1, 5, 10, 16] {
        let output = format!("out-{after}");
        let ear = Ear { after: Some(after), ..Ear::default() };
        assert_eq!(bench.run_with(&options(&output), &ear).expect("runs").ended, Ended::Stopped);
        bench.run(&options(&output)).expect("goes on");
        assert_eq!(bench.text(&format!("{output}/part-00000.jsonl")), bench.text("whole/part-00000.jsonl"), "{after}");
    }
    for index in 0..3 {
        bench.run(&Options { shard: Shard { index, count: 3 }, ..options("shards") }).expect("runs");
    }
    let lines: usize = (0..3).map(|index| bench.lines(&format!("shards/part-{index:05}.jsonl")).len()).sum();
    assert_eq!(lines, 20);
}

#[test]
fn bad_cells_and_files_are_told() {
    let bench = Bench::new();
    bench.write("bad.parquet", fixture("bad.parquet")).write("nested.parquet", fixture("nested.parquet"));
    let summary = bench.run(&bench.options(&["bad.parquet"], "out")).expect("runs");
    assert_eq!((summary.ok, summary.failed), (2, 2));
    let errors = bench.lines("out/errors.jsonl");
    assert_eq!((&errors[0]["row"], &errors[1]["row"]), (&1.into(), &3.into()));

    let error = bench.run(&bench.options(&["nested.parquet"], "nested")).expect_err("nested");
    assert!(error.to_string().ends_with("column \"image\" is nested"), "{error}");
    bench.write("empty.parquet", fixture("empty.parquet"));
    let error = bench.run(&bench.options(&["empty.parquet"], "empty")).expect_err("empty");
    assert_eq!(error.to_string(), "there are no rows in any input");
    let whole = fixture("lists.parquet");
    for (index, length) in [0, 4, 100, whole.len() - 1].into_iter().enumerate() {
        bench.write("cut.parquet", &whole[..length]);
        let error = bench.run(&bench.options(&["cut.parquet"], &format!("cut-{index}"))).expect_err("cut off");
        assert!(error.to_string().contains("cut.parquet cannot be read"), "{error}");
    }
}

#[test]
fn damage_anywhere_ends_in_a_sentence() {
    let bench = Bench::new();
    let whole = fixture("lists.parquet");
    for place in (4..whole.len()).step_by(whole.len() / 60) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x55;
        bench.write("damaged.parquet", &damaged);
        let output = format!("out-{place}");
        // Some damage is in values, which nothing vouches for.
        if let Err(error) = bench.run(&bench.options(&["damaged.parquet"], &output)) {
            assert!(!matches!(error, Error::Internal { .. }), "{place}: {error:?}");
        }
    }
}
