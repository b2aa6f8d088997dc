//! Which columns become the model's input.

use super::*;

#[test]
fn columns_are_chosen_ordered_and_kept() {
    let bench = Bench::new();
    let rows = pixels(5);
    let table = csv(&rows, true);
    let reversed = |line: &str| line.split(',').rev().collect::<Vec<_>>().join(",") + "\n";
    bench.write("plain.csv", csv(&rows, false)).write("id.csv", &table);
    bench.write("reversed.csv", table.lines().map(reversed).collect::<String>());
    let names: Vec<String> = (0..64).map(|place| format!("p{place}")).collect();
    bench.run(&bench.options(&["plain.csv"], "plain")).expect("runs");
    let table: [(&str, &[String], &[&str]); 3] =
        [("id.csv", &[], &["id"]), ("reversed.csv", &names, &["id"]), ("id.csv", &names, &["p3", "id"])];
    for (index, (file, features, keep)) in table.into_iter().enumerate() {
        let mut options = bench.options(&[file], &format!("out-{index}"));
        options.columns.features = features.to_vec();
        options.columns.keep = keep.iter().map(|name| (*name).to_owned()).collect();
        bench.run(&options).expect(file);
        let results = format!("out-{index}/part-00000.jsonl");
        assert_eq!(bench.labels(&results), bench.labels("plain/part-00000.jsonl"), "{file}");
        let kept = bench.lines(&results)[2]["keep"].clone();
        assert_eq!((kept["id"].as_str(), kept.as_object().expect("an object").len()), (Some("n2"), keep.len()));
    }
}

#[test]
fn objects_keep_the_order_of_the_first() {
    let bench = Bench::new();
    let rows = pixels(10);
    // Members in another order for each row; batches of one row could else read their own.
    let object = |(index, row): (usize, &Vec<f32>)| {
        let mut members: Vec<String> = row.iter().enumerate().map(|(p, value)| format!("\"p{p}\": {value}")).collect();
        members.rotate_left(index * 3);
        members.push(format!("\"id\": {{\"n\": {index}}}"));
        format!("{{{}}}\n", members.join(","))
    };
    bench.write("a.jsonl", rows.iter().enumerate().map(object).collect::<String>()).write("a.csv", csv(&rows, false));
    bench.run(&bench.options(&["a.csv"], "csv")).expect("runs");
    for batch in [1, 4] {
        let mut options = bench.options(&["a.jsonl"], &format!("out-{batch}"));
        options.columns.keep = vec!["id".into()];
        options.batch_size = Some(batch);
        bench.run(&options).expect("runs");
        let results = format!("out-{batch}/part-00000.jsonl");
        assert_eq!(bench.labels(&results), bench.labels("csv/part-00000.jsonl"), "{batch}");
        assert_eq!(bench.lines(&results)[9]["keep"]["id"]["n"], 9);
    }
}

#[test]
fn missing_values_are_nan_unless_refused() {
    let bench = Bench::new();
    let mut table = csv(&pixels(3), false);
    let end = table.trim_end().rfind(',').expect("cells");
    table.truncate(end + 1);
    bench.write("a.csv", table + "\n");
    let summary = bench.run(&bench.options(&["a.csv"], "allowed")).expect("runs");
    assert_eq!((summary.ok, summary.failed), (3, 0));
    let options = Options { missing: Missing::Refuse, ..bench.options(&["a.csv"], "refused") };
    let summary = bench.run(&options).expect("runs");
    assert_eq!((summary.ok, summary.failed), (2, 1));
    let line = &bench.lines("refused/errors.jsonl")[0];
    assert!(
        line["error"].as_str().expect("a text").ends_with("row 2: a value is missing or is not a number"),
        "{line}"
    );
}
