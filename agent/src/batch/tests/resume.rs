//! Runs that are stopped, killed, and gone on with.

use super::*;

/// Copies the state of a run at some moment, as a crash then would leave it.
struct Crash<'a> {
    bench: &'a Bench,
    from: &'a str,
    /// Where to, at so many rows.
    to: Vec<(String, u64)>,
    taken: Mutex<usize>,
}

impl Progress for Crash<'_> {
    fn advanced(&self, now: Snapshot) {
        let mut taken = self.taken.lock().expect("no panic");
        let Some((to, _)) = self.to.get(*taken).filter(|(_, rows)| now.rows >= *rows) else { return };
        *taken += 1;
        let (from, to) = (self.bench.path(self.from).join(".muster-batch"), self.bench.path(to).join(".muster-batch"));
        fs::create_dir_all(&to).expect("makes");
        for entry in fs::read_dir(from).expect("reads").flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
        }
    }

    fn note(&self, _: &str) {}
}

/// Files of several kinds with some bad rows, in `in/`.
fn inputs(bench: &Bench) {
    let rows = pixels(90);
    let mut table = csv(&rows[..40], false);
    table.push_str("too,short\n");
    bench.write("in/a.csv", table).write("in/b.jsonl", format!("{}[1]\n", jsonl(&rows[40..60])));
    bench.write("in/c.npy", npy("<f4", "(20, 64)", &bytes_of(&rows[60..80])));
    for (index, row) in rows[80..90].iter().enumerate() {
        bench.write(&format!("in/d/{index}.png"), png(row));
    }
}

fn files(bench: &Bench, output: &str) -> (String, String) {
    (bench.text(&format!("{output}/part-00000.jsonl")), bench.text(&format!("{output}/errors.jsonl")))
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bytes() {
    let bench = Bench::new();
    inputs(&bench);
    let to: Vec<(String, u64)> = (0..6).map(|n| (format!("crash-{n}"), n * 17)).collect();
    let crash = Crash { bench: &bench, from: "whole", to: to.clone(), taken: Mutex::default() };
    // Not each batch is made to last, so that files are ahead of the journal.
    let whole = Options { checkpoint: Duration::from_micros(300), ..bench.options(&["in"], "whole") };
    super::super::run(&bench.loaded, &whole, &crash, &Arc::default()).expect("runs");
    assert_eq!(*crash.taken.lock().expect("no panic"), 6);
    let want = files(&bench, "whole");
    assert_eq!((want.0.lines().count(), want.1.lines().count()), (90, 2));
    for (output, _) in to {
        // Half a line more than the journal knows of.
        let partial = bench.path(&output).join(".muster-batch/00000.results");
        let mut ahead = fs::read(&partial).unwrap_or_default();
        ahead.extend(b"{\"half\": ");
        fs::write(&partial, ahead).expect("writes");
        let summary = bench.run(&bench.options(&["in"], &output)).expect("goes on");
        assert_eq!((summary.rows, summary.failed), (92, 2), "{output}");
        assert_eq!(files(&bench, &output), want, "{output}");
    }
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_bytes() {
    let bench = Bench::new();
    inputs(&bench);
    bench.run(&bench.options(&["in"], "whole")).expect("runs");
    let options = bench.options(&["in"], "out");
    let (mut stops, mut rows) = (0, 0);
    let last = loop {
        let ear = Ear { after: Some(rows + 20), ..Ear::default() };
        let summary = bench.run_with(&options, &ear).expect("runs");
        if summary.ended == Ended::Finished {
            break summary;
        }
        assert!(summary.rows > rows && !bench.path("out/part-00000.jsonl").exists());
        (stops, rows) = (stops + 1, summary.rows);
    };
    assert!(stops >= 2 && last.resumed == stops, "{stops} stops, {last:?}");
    assert_eq!(files(&bench, "out"), files(&bench, "whole"));
    let ear = Ear::default();
    let again = bench.run_with(&options, &ear).expect("is done");
    assert_eq!((again.rows, ear.notes.lock().expect("no panic").len()), (92, 1));
}

#[test]
fn what_was_scored_gets_its_name_after_a_crash() {
    let bench = Bench::new();
    bench.write("a.jsonl", jsonl(&pixels(5)));
    let options = bench.options(&["a.jsonl"], "out");
    bench.run(&options).expect("runs");
    let journal = bench.path("out/.muster-batch/00000.json");
    let done: Value = serde_json::from_slice(&fs::read(&journal).expect("reads")).expect("JSON");
    // As if the end had come between the renames, and before the first.
    for moved in [&["part-00000.jsonl"][..], &["part-00000.jsonl", "errors.jsonl"]] {
        let mut scored = done.clone();
        scored["stage"] = "scored".into();
        fs::write(&journal, scored.to_string()).expect("writes");
        for name in moved {
            let partial = if name.starts_with("part") { "00000.results" } else { "00000.errors" };
            fs::rename(bench.path(&format!("out/{name}")), bench.path(&format!("out/.muster-batch/{partial}")))
                .expect("moves");
        }
        let _ = fs::remove_file(bench.path("out/summary.json"));
        let summary = bench.run(&options).expect("ends");
        assert_eq!((summary.rows, bench.lines("out/part-00000.jsonl").len()), (5, 5));
        assert!(bench.path("out/summary.json").exists() && bench.path("out/errors.jsonl").exists());
    }
}

#[test]
fn another_model_input_or_wish_does_not_go_on() {
    let mut bench = Bench::new();
    bench.write("a.jsonl", jsonl(&pixels(30)));
    let options = bench.options(&["a.jsonl"], "out");
    let ear = Ear { after: Some(8), ..Ear::default() };
    assert_eq!(bench.run_with(&options, &ear).expect("runs").ended, Ended::Stopped);
    let refused = |bench: &Bench, options: &Options, want: &str| {
        let error = bench.run(options).expect_err(want);
        assert!(matches!(error, Error::Conflict { .. }) && error.to_string().contains(want), "{error}");
        assert!(error.next_step().contains("--restart"), "{}", error.next_step());
    };
    refused(
        &bench,
        &Options { batch_size: Some(4), ..options.clone() },
        "had --batch-size \"8\", and this one has \"4\"",
    );
    let other = std::mem::replace(&mut bench.loaded, testing::Bundle::digits(1).load().expect("loads"));
    refused(&bench, &options, "the run there was with digits:2");
    bench.loaded = other;
    bench.write("a.jsonl", jsonl(&pixels(31)));
    refused(&bench, &options, "or were changed since");
    let summary = bench.run(&Options { start: Start::Restart, ..options.clone() }).expect("begins again");
    assert_eq!((summary.rows, summary.resumed), (31, 0));
    fs::remove_file(bench.path("out/part-00000.jsonl")).expect("removes");
    refused(&bench, &options, "is not there any more");
    fs::write(bench.path("out/.muster-batch/00000.json"), "{").expect("writes");
    refused(&bench, &options, "cannot be used");
}

#[test]
fn two_runs_do_not_share_an_output() {
    let bench = Bench::new();
    bench.write("a.jsonl", jsonl(&pixels(3))).write("out/.muster-batch/00000.lock", "");
    let held = fs::File::open(bench.path("out/.muster-batch/00000.lock")).expect("opens");
    held.try_lock().expect("locks");
    let error = bench.run(&bench.options(&["a.jsonl"], "out")).expect_err("held");
    assert!(error.to_string().starts_with("another run writes into"), "{error}");
}
