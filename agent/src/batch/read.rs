//! Readers of rows, one for each format. They know files and columns, and no model beyond its inputs.

mod csv;
mod images;
mod jsonl;
mod npy;
mod open;
#[cfg(feature = "parquet")]
mod parquet;

pub use images::take_image;

use std::path::PathBuf;
use std::sync::Arc;

use ::csv::StringRecord;
use muster_proto::manifest::{Dtype, Tensor, TensorSpec};

use super::Error;
use super::error::Fault;
use super::inputs::{Input, Unit};
use super::options::{Columns, Format};
use crate::api::table::{Rules, Table};

/// The most bytes of one row as it stands in its file: an open quote would else take the whole file for one.
pub const MAX_ROW: u64 = 64 << 20;

/// A row as it was read.
#[derive(Debug)]
pub struct Row {
    /// What is in it.
    pub body: Body,
    /// The kept cells, each as JSON.
    pub keep: Vec<String>,
}

/// What a row is made of.
#[derive(Debug)]
pub enum Body {
    /// The cells of a table's features, as texts.
    Texts(StringRecord),
    /// The same as a JSON array.
    #[cfg(feature = "parquet")]
    Cells(String),
    /// A JSON object with the features.
    Record(String),
    /// A JSON value for the only input.
    Value(String),
    /// The only input, with a leading 1.
    Item(Tensor),
    /// An image file.
    Image(PathBuf),
    /// A row that cannot be read.
    Bad(Fault),
}

/// Reads the rows of one unit, in order.
pub trait Rows: Send {
    /// The next row; none at the end. An error is one of the whole file.
    fn next(&mut self) -> Result<Option<Row>, Error>;
    /// Passes over `count` rows.
    fn skip(&mut self, count: u64) -> Result<(), Error>;
    /// How many bytes of the unit are behind, about.
    fn behind(&self) -> u64;
    /// The features' names, where they have some.
    fn features(&self) -> Option<Arc<Vec<String>>> {
        None
    }
}

/// What readers know of the run.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The model's inputs.
    pub specs: &'a [TensorSpec],
    /// What was said of columns.
    pub columns: &'a Columns,
}

/// Opens `unit`, whose files are all here.
pub fn open<'a>(unit: &Unit, context: Context<'a>) -> Result<Box<dyn Rows + 'a>, Error> {
    let input = match unit {
        Unit::Images(images) => return Ok(Box::new(images::Images::new(images, context)?)),
        Unit::Table(input) => input,
    };
    let half = context.specs.iter().find(|spec| spec.dtype == Dtype::F16);
    if let (Some(half), Format::Csv | Format::Jsonl | Format::Parquet) = (half, input.format) {
        let what = format!("input {:?} takes f16, for which {} has no form", half.name, input.name);
        return Err(Error::usage(what, "save the rows as .npy"));
    }
    Ok(match input.format {
        Format::Csv => Box::new(csv::Csv::open(input, context)?),
        Format::Jsonl => Box::new(jsonl::Jsonl::open(input, context)?),
        Format::Npy => Box::new(npy::Npy::open(input, context)?),
        #[cfg(feature = "parquet")]
        Format::Parquet => Box::new(parquet::Parquet::open(input, context)?),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => {
            let what = format!("{} is Parquet, which this build does not read", input.name);
            return Err(Error::usage(what, "use `muster batch run`, or convert it to CSV or JSON lines"));
        }
        Format::Images => Box::new(images::Images::new(unit.files(), context)?),
    })
}

/// Where a table's features and kept columns stand among its own columns.
#[derive(Debug)]
struct Places {
    /// The features' names, in their order.
    names: Arc<Vec<String>>,
    /// Where each stands.
    features: Vec<usize>,
    /// Where each kept column stands.
    keep: Vec<usize>,
}

impl Places {
    /// Finds them in `header`, the columns of the file called `file`.
    fn find(file: &str, header: &[String], context: Context) -> Result<Self, Error> {
        let Context { specs, columns } = context;
        let place = |name: &String| {
            header.iter().position(|column| column == name).ok_or_else(|| {
                let what = format!("{file} has no column {name:?}, but {}", shorten(&header.join(", ")));
                Error::input(what, "check the names given to --keep and --columns")
            })
        };
        let is_input = |name: &String| specs.iter().any(|spec| spec.name == *name);
        let keep = columns.keep.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let features: Vec<usize> = if columns.features.is_empty() {
            let other = |(_, name): &(usize, &String)| is_input(name) || !columns.keep.contains(name);
            header.iter().enumerate().filter(other).map(|(place, _)| place).collect()
        } else {
            columns.features.iter().map(place).collect::<Result<_, _>>()?
        };
        let names: Vec<String> = features.iter().map(|place| header[*place].clone()).collect();
        Table::new(names.clone(), specs, Rules::Frame).map_err(|text| {
            let next = "name the model's columns in its order by --columns, and those that are no input by --keep";
            Error::input(format!("{file}: {text}"), next)
        })?;
        Ok(Self { names: Arc::new(names), features, keep })
    }
}

fn unreadable(input: &Input, error: impl std::fmt::Display) -> Error {
    let next = "mend or replace the file; what was done before it stays, and the same command goes on there";
    Error::input(format!("{} cannot be read: {error}", input.name), next)
}

fn shorten(text: &str) -> String {
    crate::api::error::clip(text)
}
