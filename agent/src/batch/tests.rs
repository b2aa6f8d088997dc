//! Whole runs with the digits models.

mod columns;
mod faults;
#[cfg(feature = "parquet")]
mod parquet;
mod resume;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_proto::manifest::{Color, InputOp, Layout, OutputOp};
use serde_json::Value;

use super::options::{Columns, Destination, MaxErrors, Missing, OutputFormat, Shard, Start, Transforms};
use super::{Ended, Error, Options, Progress, Snapshot, Summary};
use crate::engine::{Loaded, testing};

/// A folder with inputs, and where results go.
struct Bench {
    dir: tempfile::TempDir,
    loaded: Loaded,
}

/// Remembers what it was told, and may ask the run to stop.
#[derive(Default)]
struct Ear {
    notes: Mutex<Vec<String>>,
    stop: Arc<AtomicBool>,
    /// From so many rows on the run is to stop.
    after: Option<u64>,
}

impl Progress for Ear {
    fn advanced(&self, now: Snapshot) {
        assert!(now.failed <= now.rows && now.done <= now.total, "{now:?}");
        if self.after.is_some_and(|after| now.rows >= after) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    fn note(&self, text: &str) {
        self.notes.lock().expect("no panic").push(text.to_owned());
    }
}

impl Bench {
    /// The second digits model as it is registered: images in, a label out.
    fn new() -> Self {
        let mut bundle = testing::Bundle::digits(2);
        let inputs = vec![
            InputOp::DecodeImage { color: Color::Gray },
            InputOp::Scale { factor: 1.0 / 255.0, offset: 0.0 },
            InputOp::Layout { to: Layout::Nchw },
        ];
        bundle.manifest.transforms.inputs.insert("image".into(), inputs);
        let labels = "0123456789".chars().map(String::from).collect();
        let outputs = vec![OutputOp::ArgMax { labels }];
        bundle.manifest.transforms.outputs.insert(bundle.manifest.outputs[0].name.clone(), outputs);
        let loaded = bundle.load().expect("digits load");
        Self { dir: tempfile::tempdir().expect("temp dir"), loaded }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
        fs::write(path, bytes).expect("writes");
        self
    }

    fn options(&self, inputs: &[&str], output: &str) -> Options {
        let output = Destination::parse(&self.path(output).display().to_string());
        Options {
            inputs: inputs.iter().map(|name| self.path(name).display().to_string()).collect(),
            output_format: output.format().unwrap_or(OutputFormat::Jsonl),
            output,
            work: None,
            format: None,
            columns: Columns::default(),
            batch_size: Some(8),
            jobs: Some(2),
            shard: Shard::WHOLE,
            max_errors: MaxErrors::Any,
            missing: Missing::Allow,
            transforms: Transforms::Apply,
            start: Start::Resume,
            max_download: 1 << 20,
            ca: None,
            checkpoint: Duration::ZERO,
        }
    }

    fn run(&self, options: &Options) -> Result<Summary, Error> {
        self.run_with(options, &Ear::default())
    }

    fn run_with(&self, options: &Options, ear: &Ear) -> Result<Summary, Error> {
        super::run(&self.loaded, options, ear, &ear.stop)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn lines(&self, name: &str) -> Vec<Value> {
        self.text(name).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The label of each row.
    fn labels(&self, name: &str) -> Vec<String> {
        let label = |line: Value| {
            let outputs = line["outputs"].as_object().expect("outputs").clone();
            outputs.values().next().expect("one")["label"].as_str().expect("a label").to_owned()
        };
        self.lines(name).into_iter().map(label).collect()
    }
}

/// The first `count` held-out images: their pixels from 0 to 1.
fn pixels(count: usize) -> Vec<Vec<f32>> {
    let (images, _) = testing::held_out();
    let values = images.to_f64();
    values.chunks_exact(64).take(count).map(|image| image.iter().map(|value| *value as f32).collect()).collect()
}

fn csv(rows: &[Vec<f32>], with_id: bool) -> String {
    let names = (0..64).map(|place| format!("p{place}"));
    let header: Vec<String> = with_id.then(|| "id".to_owned()).into_iter().chain(names).collect();
    let line = |(index, row): (usize, &Vec<f32>)| {
        let cells = row.iter().map(f32::to_string);
        let cells: Vec<String> = with_id.then(|| format!("n{index}")).into_iter().chain(cells).collect();
        cells.join(",")
    };
    let lines: Vec<String> = rows.iter().enumerate().map(line).collect();
    format!("{}\n{}\n", header.join(","), lines.join("\n"))
}

fn jsonl(rows: &[Vec<f32>]) -> String {
    rows.iter().map(|row| format!("{}\n", serde_json::to_string(row).expect("numbers"))).collect()
}

fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    [bytes, header.into_bytes(), data.to_vec()].concat()
}

fn bytes_of(rows: &[Vec<f32>]) -> Vec<u8> {
    rows.iter().flatten().flat_map(|value| value.to_le_bytes()).collect()
}

fn png(row: &[f32]) -> Vec<u8> {
    let pixels = row.iter().map(|value| (value * 255.0).round() as u8).collect();
    let image = image::GrayImage::from_raw(8, 8, pixels).expect("64 pixels");
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("encodes");
    bytes.into_inner()
}

fn packed(bytes: &[u8], by: &str) -> Vec<u8> {
    use std::io::Write as _;
    if by == "zst" {
        return zstd::encode_all(bytes, 1).expect("packs");
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("packs");
    encoder.finish().expect("packs")
}

#[test]
fn every_format_gives_the_same_answers() {
    let bench = Bench::new();
    let rows = pixels(30);
    let (table, lines) = (csv(&rows, false), jsonl(&rows));
    let object = |row: &Vec<f32>| {
        let members: Vec<String> =
            row.iter().enumerate().map(|(place, value)| format!("\"p{place}\": {value}")).collect();
        format!("{{{}}}\n", members.join(", "))
    };
    let named =
        |row: &Vec<f32>| format!("{{\"image\": {}, \"id\": 7}}\n", serde_json::to_string(row).expect("numbers"));
    let list = |row: &Vec<f32>| format!("\"{}\"\n", serde_json::to_string(row).expect("numbers"));
    bench.write("a.csv", &table).write("a.csv.gz", packed(table.as_bytes(), "gz"));
    bench.write("bom.csv", format!("\u{feff}{table}")).write("a.tsv", table.replace(',', "\t"));
    bench.write("lists.csv", format!("image\n{}", rows.iter().map(list).collect::<String>()));
    bench.write("a.jsonl", &lines).write("a.jsonl.zst", packed(lines.as_bytes(), "zst"));
    bench.write("objects.ndjson", rows.iter().map(object).collect::<String>());
    bench.write("named.jsonl", rows.iter().map(named).collect::<String>());
    bench.write("a.npy", npy("<f4", "(30, 1, 8, 8)", &bytes_of(&rows)));
    bench.write("flat.npy", npy("<f4", "(30, 64)", &bytes_of(&rows)));
    let swapped: Vec<u8> = rows.iter().flatten().flat_map(|value| value.to_be_bytes()).collect();
    bench.write("big.npy", npy(">f4", "(30, 64)", &swapped));
    for (index, row) in rows.iter().enumerate() {
        bench.write(&format!("images/{index:02}.png"), png(row));
    }
    let mut want = None;
    let names = ["a.csv", "a.csv.gz", "bom.csv", "a.tsv", "lists.csv", "a.jsonl", "a.jsonl.zst", "objects.ndjson"];
    for name in names.into_iter().chain(["named.jsonl", "a.npy", "flat.npy", "big.npy", "images"]) {
        let output = format!("out-{name}-d");
        let summary = bench.run(&bench.options(&[name], &output)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((summary.rows, summary.ok, summary.failed, summary.ended), (30, 30, 0, Ended::Finished), "{name}");
        let labels = bench.labels(&format!("{output}/part-00000.jsonl"));
        assert_eq!(want.get_or_insert_with(|| labels.clone()), &labels, "{name}");
        assert_eq!(bench.text(&format!("{output}/errors.jsonl")), "");
    }
    let (_, held) = testing::held_out();
    let right = want.expect("labels").iter().zip(held).filter(|(got, want)| **got == want.to_string()).count();
    assert!(right >= 27, "{right} of 30");
}

#[test]
fn batches_and_threads_do_not_change_a_byte() {
    let bench = Bench::new();
    bench.write("a.csv", csv(&pixels(50), true));
    let mut want = None;
    for (batch, jobs) in [(1, 1), (7, 1), (7, 4), (64, 3)] {
        let output = format!("out-{batch}-{jobs}");
        let mut options = bench.options(&["a.csv"], &output);
        (options.batch_size, options.jobs) = (Some(batch), Some(jobs));
        options.columns.keep = vec!["id".into()];
        bench.run(&options).expect("runs");
        let text = bench.text(&format!("{output}/part-00000.jsonl"));
        assert_eq!(want.get_or_insert_with(|| text.clone()), &text, "{batch} {jobs}");
    }
    let lines: Vec<Value> = bench.lines("out-1-1/part-00000.jsonl");
    assert_eq!((&lines[49]["row"], &lines[49]["keep"]["id"]), (&49.into(), &"n49".into()));
}

#[test]
fn shards_together_are_the_whole() {
    let bench = Bench::new();
    let rows = pixels(60);
    let files: Vec<String> = (0..3).map(|file| format!("in/{file}.csv")).collect();
    for (name, rows) in files.iter().zip(rows.chunks(20)) {
        bench.write(name, csv(rows, false));
    }
    let whole = |inputs: &[&str]| {
        let _ = fs::remove_dir_all(bench.path("whole"));
        bench.run(&bench.options(inputs, "whole")).expect("runs");
        let mut lines: Vec<String> = bench.text("whole/part-00000.jsonl").lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    // By batches of one file, by batches of three, and by whole files.
    for (inputs, count) in [(&["in/0.csv"][..], 2), (&["in"][..], 5), (&["in"][..], 2)] {
        let output = format!("out-{}-{count}", inputs[0].len());
        let mut lines = Vec::new();
        for index in 0..count {
            let options = Options { shard: Shard { index, count }, ..bench.options(inputs, &output) };
            let summary = bench.run(&options).expect("runs");
            assert_eq!((summary.shard, summary.failed), (format!("{index}/{count}"), 0));
            lines.extend(bench.text(&format!("{output}/part-{index:05}.jsonl")).lines().map(str::to_owned));
            assert!(bench.path(&format!("{output}/summary-{index:05}.json")).exists());
        }
        lines.sort();
        assert_eq!(lines, whole(inputs), "{inputs:?} {count}");
    }
}

#[test]
fn a_file_of_csv_has_a_column_for_each_part() {
    let bench = Bench::new();
    bench.write("a.csv", csv(&pixels(3), true));
    let mut options = bench.options(&["a.csv"], "scores.csv");
    options.columns.keep = vec!["id".into()];
    bench.run(&options).expect("runs");
    let name = &bench.loaded.model.outputs()[0].name;
    let text = bench.text("scores.csv");
    let header = text.lines().next().expect("a header");
    assert_eq!(header, format!("file,row,id,{name}.index,{name}.label,{name}.value"));
    assert_eq!(text.lines().count(), 4);
    assert!(text.lines().nth(1).expect("a row").contains("a.csv,0,n0,"), "{text}");
    let summary: Value = serde_json::from_str(&bench.text("scores.summary.json")).expect("JSON");
    assert_eq!((&summary["rows"], &summary["version"]), (&3.into(), &2.into()));
    assert_eq!(summary["digest"], bench.loaded.digest.to_string());

    let options = Options { transforms: Transforms::Off, output: Destination::File(bench.path("raw.csv")), ..options };
    bench.run(&options).expect("runs");
    let header = bench.text("raw.csv").lines().next().expect("a header").to_owned();
    assert!(header.ends_with(&format!("{name}.8,{name}.9")), "{header}");
}

#[test]
fn results_name_their_file_as_it_was_given() {
    let bench = Bench::new();
    bench.write("a.jsonl", jsonl(&pixels(1)));
    bench.run(&bench.options(&["a.jsonl"], "out")).expect("runs");
    assert_eq!(bench.lines("out/part-00000.jsonl")[0]["file"], bench.path("a.jsonl").display().to_string());
}
