//! From a batch of rows to lines of results: the model is run once, and where that fails, once for each row, so that
//! one bad row costs no other row its answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use muster_proto::code::Code;
use muster_proto::manifest::{Dtype, Tensor, TensorSpec};
use serde_json::json;
use serde_json::value::RawValue;

use super::answer::Layout;
use super::error::Fault;
use super::inputs::Unit;
use super::options::Missing;
use super::progress::Tally;
use super::read::{Body, Row};
use super::source::{Batch, Position};
use crate::api::rows::{self, Inputs};
use crate::api::table::{Rules, Table};
use crate::engine::transforms::{Source, apply_inputs};
use crate::engine::{Loaded, model};

/// The largest image file, in bytes.
const MAX_IMAGE: u64 = 64 << 20;

/// What became of a batch.
#[derive(Debug)]
pub struct Scored {
    /// Lines of results.
    pub results: Vec<u8>,
    /// Lines of errors.
    pub errors: Vec<u8>,
    /// Counts of its rows.
    pub tally: Tally,
    /// What comes after it.
    pub next: Position,
    /// How far it is in the input.
    pub bytes: (u64, u64),
}

/// What rows are scored with.
#[derive(Debug)]
pub struct Scorer<'a> {
    /// The model.
    pub loaded: &'a Loaded,
    /// The inputs' names are in the results.
    pub units: &'a [Unit],
    /// How results are written.
    pub layout: Layout<'a>,
    /// Whether missing values reach the model.
    pub missing: Missing,
}

/// A row's file and its number there.
type Where<'a> = (&'a str, u64);

impl Scorer<'_> {
    /// Scores all rows.
    pub fn score(&self, batch: Batch) -> Scored {
        let Batch { unit, first, rows, features, next, bytes } = batch;
        let tally = Tally { rows: rows.len() as u64, ..Tally::default() };
        let mut scored = Scored { results: Vec::new(), errors: Vec::new(), tally, next, bytes };
        let features = features.as_deref().map(Vec::as_slice).unwrap_or_default();
        let places: Vec<Where> = (first..).take(rows.len()).map(|row| self.place(unit, row)).collect();
        let all: Vec<(Where, &Row)> = places.into_iter().zip(&rows).collect();
        let good: Vec<(Where, &Row)> =
            all.iter().filter(|(_, row)| !matches!(row.body, Body::Bad(_))).copied().collect();
        let together = if good.len() > 1 { self.guarded(features, &good, &mut scored.tally.nonfinite) } else { None };
        let mut lines = together.map(Vec::into_iter);
        for (place, row) in all {
            let line = match (&row.body, &mut lines) {
                (Body::Bad(fault), _) => Err(fault.clone()),
                (_, Some(lines)) => lines.next().ok_or_else(internal),
                (_, None) => self.alone(features, (place, row), &mut scored.tally.nonfinite),
            };
            match line {
                Ok(line) => {
                    scored.results.extend_from_slice(&line);
                    scored.tally.ok += 1;
                }
                Err(fault) => {
                    scored.errors.extend_from_slice(&error_line(place, &fault));
                    scored.tally.failed += 1;
                }
            }
        }
        scored
    }

    fn place(&self, unit: usize, row: u64) -> Where<'_> {
        match &self.units[unit] {
            Unit::Table(input) => (&input.name, row),
            // Each image is a file of one row.
            Unit::Images(images) => (images.get(row as usize).map_or("", |input| &input.name), 0),
        }
    }

    /// All rows at once; none where that fails.
    fn guarded(&self, features: &[String], rows: &[(Where, &Row)], nonfinite: &mut u64) -> Option<Vec<Vec<u8>>> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.lines(features, rows)));
        let (lines, count) = outcome.ok()?.ok()?;
        *nonfinite += count;
        Some(lines)
    }

    fn alone(&self, features: &[String], row: (Where, &Row), nonfinite: &mut u64) -> Result<Vec<u8>, Fault> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.lines(features, &[row])));
        let (mut lines, count) = outcome.unwrap_or_else(|_| Err(internal()))?;
        *nonfinite += count;
        lines.pop().ok_or_else(internal)
    }

    /// The results of rows, a line each, and how many numbers of them JSON has no word for.
    fn lines(&self, features: &[String], rows: &[(Where, &Row)]) -> Result<(Vec<Vec<u8>>, u64), Fault> {
        let bodies: Vec<&Body> = rows.iter().map(|(_, row)| &row.body).collect();
        let inputs = self.inputs(features, &bodies)?;
        if self.missing == Missing::Refuse && inputs.values().any(holds_nan) {
            return Err(Fault::input("a value is missing or is not a number"));
        }
        let outputs = self.loaded.model.run(&inputs).map_err(|error| fault_of(&error))?;
        let items = self.layout.items(&outputs, rows.len())?;
        let lines = rows.iter().zip(items.rows).map(|((place, row), item)| self.layout.line(*place, &row.keep, &item));
        Ok((lines.collect(), items.nonfinite))
    }

    /// The model's inputs, with all rows.
    fn inputs(&self, features: &[String], bodies: &[&Body]) -> Result<Inputs, Fault> {
        let specs = self.loaded.model.inputs();
        match bodies.first() {
            Some(Body::Image(_) | Body::Item(_)) => {
                let [spec] = specs else { return Err(internal()) };
                let items = bodies.iter().map(|body| self.item(body, spec)).collect::<Result<Vec<_>, _>>()?;
                Ok(BTreeMap::from([(spec.name.clone(), stack(&items, spec)?)]))
            }
            Some(Body::Value(_)) => {
                let values =
                    bodies.iter().filter_map(|body| if let Body::Value(text) = body { Some(text) } else { None });
                let values: Vec<&str> = values.map(String::as_str).collect();
                if values.len() != bodies.len() {
                    return Err(Fault::input("objects and arrays stand side by side"));
                }
                let list = format!("[{}]", values.join(","));
                let raw: &RawValue = serde_json::from_str(&list).map_err(|error| Fault::input(error.to_string()))?;
                rows::instances(raw, specs, Rules::Frame).map_err(of_one_row)
            }
            _ => table(features, specs, bodies).map_err(of_one_row),
        }
    }

    /// One row of the only input.
    fn item(&self, body: &Body, spec: &TensorSpec) -> Result<Tensor, Fault> {
        match body {
            Body::Image(path) => {
                let ops = self.loaded.manifest.transforms.inputs.get(&spec.name).map_or(&[][..], Vec::as_slice);
                let bytes = read_image(path)?;
                apply_inputs(ops, Source::Image(&bytes), spec)
                    .map_err(|error| Fault { code: error.code(), sentence: error.to_string() })
            }
            Body::Item(tensor) => Ok(tensor.clone()),
            _ => Err(Fault::input("images and other rows stand side by side")),
        }
    }
}

fn read_image(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = |error: std::io::Error| Fault {
        code: Code::StoreFailed,
        sentence: format!("the image cannot be read: {error}"),
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_IMAGE + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_IMAGE {
        let sentence = format!("the image file has more than {MAX_IMAGE} bytes");
        return Err(Fault { code: Code::TooLarge, sentence });
    }
    Ok(bytes)
}

/// Rows with the same columns.
fn table(features: &[String], specs: &[TensorSpec], bodies: &[&Body]) -> Result<Inputs, String> {
    let mut table = Table::new(features.to_vec(), specs, Rules::Frame)?;
    for body in bodies {
        match body {
            Body::Texts(record) => table.text_row(record.iter())?,
            #[cfg(feature = "parquet")]
            Body::Cells(cells) => table.row(serde_json::from_str(cells).map_err(|error| error.to_string())?)?,
            Body::Record(record) => table.record(serde_json::from_str(record).map_err(|error| error.to_string())?)?,
            _ => return Err("objects and other values stand side by side".into()),
        }
    }
    table.inputs()
}

/// One tensor of items, which each begin with a 1.
fn stack(items: &[Tensor], spec: &TensorSpec) -> Result<Tensor, Fault> {
    let Some(first) = items.first() else { return Err(internal()) };
    if items.iter().any(|item| item.shape() != first.shape()) {
        return Err(Fault::input("rows of different shapes cannot be run at once"));
    }
    let mut shape = first.shape().to_vec();
    match shape.first_mut() {
        Some(rows) => *rows = items.len() as u64,
        None if items.len() == 1 => {}
        None => return Err(Fault::input("the input has no dimension for rows")),
    }
    let data = items.iter().flat_map(Tensor::data).copied().collect();
    Tensor::new(spec.dtype, shape, data).map_err(|error| Fault::input(error.to_string()))
}

fn holds_nan(tensor: &Tensor) -> bool {
    matches!(tensor.dtype(), Dtype::F16 | Dtype::F32 | Dtype::F64) && tensor.to_f64().iter().any(|value| value.is_nan())
}

/// Rows are numbered by their file, so a sentence about a table of one row need not number it.
fn of_one_row(text: String) -> Fault {
    let text = text.strip_prefix("row 0 has ").map_or(text.clone(), |rest| format!("the row has {rest}"));
    let text = text.strip_prefix("row 0: ").map_or(text.clone(), str::to_owned);
    Fault::input(text.replacen(", row 0:", ":", 1))
}

fn fault_of(error: &model::Error) -> Fault {
    Fault { code: error.code(), sentence: error.to_string() }
}

fn internal() -> Fault {
    Fault { code: Code::Internal, sentence: "this program failed on the row".into() }
}

/// A line of the error file.
fn error_line((file, row): Where, fault: &Fault) -> Vec<u8> {
    let line = json!({
        "file": file, "row": row, "code": fault.code,
        "error": format!("{file}, row {row}: {}", fault.sentence),
        "next_step": next_step(fault.code),
    });
    format!("{line}\n").into_bytes()
}

fn next_step(code: Code) -> &'static str {
    match code {
        Code::InputInvalid => "mend the row in its file and score that file again",
        Code::TooLarge => "make the row smaller",
        Code::InferenceFailed => {
            "ask who made the model what it takes: it failed on values of the right type and shape"
        }
        Code::StoreFailed => "check the file and its permissions, and score it again",
        other => other.next_step(),
    }
}
