//! Steps after the model.

use std::cmp::Ordering;

use muster_proto::manifest::{Dtype, OutputOp, Tensor};
use serde::{Serialize, Serializer};

use super::Error;
use crate::engine::json::Explicit;

/// What a caller gets of one output.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The values; as JSON `{"dtype", "shape", "data"}`.
    Values(Tensor),
    /// The best of each row; as JSON an array with one object for each row.
    Best(Vec<Ranked>),
    /// The kept values of each row, the largest first; as JSON an array with one array for each row.
    Ranked(Vec<Vec<Ranked>>),
}

/// A value with its place in its row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Ranked {
    /// The place in the last dimension.
    pub index: u64,
    /// The label of that place, where there are labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The value, `null` in JSON where it is not finite. That of an f32 is the number that one would
    /// write for it, 0.1 and not 0.10000000149011612.
    pub value: f64,
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Answer::Values(tensor) => Explicit(tensor).serialize(serializer),
            Answer::Best(rows) => rows.serialize(serializer),
            Answer::Ranked(rows) => rows.serialize(serializer),
        }
    }
}

/// Applies `ops` in order over the last dimension; what is before it are rows. NaN is smaller than any
/// number, and of equal values the first is the larger one. Without steps, the values are the answer.
pub fn apply_outputs(ops: &[OutputOp], output: &Tensor) -> Result<Answer, Error> {
    let mut answer = Answer::Values(output.clone());
    for op in ops {
        let Answer::Values(values) = &answer else {
            return Err(form("output", "ranking to be the last step", "a step after it"));
        };
        answer = match op {
            OutputOp::Softmax => Answer::Values(softmax(values)?),
            OutputOp::ArgMax { labels } => {
                let rows = rank(values, labels, |row| row.largest(1))?;
                Answer::Best(rows.into_iter().flatten().collect())
            }
            OutputOp::TopK { k, labels } => Answer::Ranked(rank(values, labels, |row| row.largest(*k as usize))?),
            OutputOp::Threshold { min, labels } => {
                Answer::Ranked(rank(values, labels, |row| row.at_least(f64::from(*min)))?)
            }
        };
    }
    Ok(answer)
}

/// `exp(x − max) / Σ exp(x − max)`, which does not overflow; f64 stays, everything else becomes f32.
fn softmax(values: &Tensor) -> Result<Tensor, Error> {
    let width = width(values)?;
    let mut elements = values.to_f64();
    for row in elements.chunks_exact_mut(width) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        row.iter_mut().for_each(|value| *value = (*value - max).exp());
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|value| *value /= sum);
    }
    let dtype = if values.dtype() == Dtype::F64 { Dtype::F64 } else { Dtype::F32 };
    let data = match dtype {
        Dtype::F64 => elements.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => elements.iter().flat_map(|v| (*v as f32).to_le_bytes()).collect(),
    };
    Tensor::new(dtype, values.shape().to_vec(), data).map_err(|e| form("softmax", "as many values", &e.to_string()))
}

/// One row under a ranking.
struct Row<'a>(&'a [f64]);

impl Row<'_> {
    /// The places of the `count` largest values, largest first.
    fn largest(&self, count: usize) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.0.len()).collect();
        let count = count.min(places.len());
        if count == 0 {
            return Vec::new();
        }
        if count < places.len() {
            places.select_nth_unstable_by(count - 1, |a, b| self.order(*a, *b));
            places.truncate(count);
        }
        places.sort_unstable_by(|a, b| self.order(*a, *b));
        places
    }

    /// The places of the values from `min` up, largest first.
    fn at_least(&self, min: f64) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.0.len()).filter(|place| self.0[*place] >= min).collect();
        places.sort_unstable_by(|a, b| self.order(*a, *b));
        places
    }

    fn order(&self, a: usize, b: usize) -> Ordering {
        let (x, y) = (self.0[a], self.0[b]);
        let by_value = y.partial_cmp(&x).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()));
        by_value.then(a.cmp(&b))
    }
}

fn rank(values: &Tensor, labels: &[String], choose: impl Fn(&Row) -> Vec<usize>) -> Result<Vec<Vec<Ranked>>, Error> {
    let width = width(values)?;
    if !labels.is_empty() && labels.len() != width {
        return Err(form("labels", &format!("{width} labels"), &labels.len().to_string()));
    }
    let single = matches!(values.dtype(), Dtype::F32 | Dtype::F16);
    let ranked = |row: &[f64]| {
        let one = |place: usize| Ranked {
            index: place as u64,
            label: labels.get(place).cloned(),
            value: if single { as_written(row[place]) } else { row[place] },
        };
        choose(&Row(row)).into_iter().map(one).collect()
    };
    Ok(values.to_f64().chunks_exact(width).map(ranked).collect())
}

/// The f64 nearest to the shortest text of an f32.
fn as_written(value: f64) -> f64 {
    (value as f32).to_string().parse().unwrap_or(value)
}

/// The length of a row; a scalar is a row of one.
fn width(values: &Tensor) -> Result<usize, Error> {
    match values.shape().last().copied().unwrap_or(1) {
        0 => Err(form("output", "rows with values", &format!("{:?}", values.shape()))),
        width => Ok(width as usize),
    }
}

fn form(step: &'static str, wanted: &str, got: &str) -> Error {
    Error::Form { step, wanted: wanted.to_owned(), got: got.to_owned() }
}
