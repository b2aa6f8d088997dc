//! Columns by name, as data frames and lists of records have them, to a model's inputs. Cells go
//! straight into the inputs' bytes.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use muster_proto::manifest::{Dim, Dtype, Tensor, TensorSpec};
use serde_json::value::RawValue;

use super::error::clip;
use super::rows::{Inputs, fit, names};
use super::walk;
use crate::engine::json::elements;

/// The most columns that are read.
const MAX_COLUMNS: usize = 1 << 16;
/// What pandas takes for a missing value in CSV, of what people write.
const MISSING: [&str; 11] = ["", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None"];

/// What columns may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// As the inputs are, and no other.
    Inputs,
    /// As the inputs are, and more; or, where the model has one input of columns, anything in its order.
    Frame,
}

/// A table whose rows are being read.
#[derive(Debug)]
pub struct Table<'m> {
    specs: &'m [TensorSpec],
    rules: Rules,
    /// By place in a row; none where a column is ignored.
    columns: Vec<Option<Column>>,
    places: BTreeMap<String, usize>,
    /// Whether the columns together are the only input.
    together: bool,
    rows: u64,
}

#[derive(Debug)]
struct Column {
    name: String,
    dtype: Dtype,
    /// How its cells are nested, once one was read.
    cell: Option<Vec<u64>>,
    data: Vec<u8>,
    rows: u64,
}

impl<'m> Table<'m> {
    /// A table with these columns for a model with the inputs `specs`. The error is a sentence.
    pub fn new(columns: Vec<String>, specs: &'m [TensorSpec], rules: Rules) -> Result<Self, String> {
        if columns.len() > MAX_COLUMNS {
            return Err(format!("{} columns, at most {MAX_COLUMNS} are read", columns.len()));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = columns.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(format!("column '{}' stands twice", clip(twice)));
        }
        let missing: Vec<&str> =
            specs.iter().map(|spec| spec.name.as_str()).filter(|name| !seen.contains(name)).collect();
        let together = match specs {
            [spec] if rules == Rules::Frame && !missing.is_empty() && spec.shape.len() > 1 => {
                are_enough(spec, columns.len())?;
                true
            }
            _ if missing.is_empty() => false,
            _ => {
                let (missing, given) = (missing.join("', '"), clip(&columns.join(", ")));
                return Err(format!("column '{missing}' is missing; the model takes {}, got {given}", names(specs)));
            }
        };
        let mut table = Self { specs, rules, columns: Vec::new(), places: BTreeMap::new(), together, rows: 0 };
        for (place, name) in columns.into_iter().enumerate() {
            let spec = if together { specs.first() } else { specs.iter().find(|spec| spec.name == name) };
            if spec.is_none() {
                table.refuse_unknown(&name)?;
            }
            table.places.insert(name.clone(), place);
            let column = |spec: &TensorSpec| Column { name, dtype: spec.dtype, cell: None, data: Vec::new(), rows: 0 };
            table.columns.push(spec.map(column));
        }
        Ok(table)
    }

    /// Reads a list of objects; the first one says which columns there are.
    pub fn records(raw: &RawValue, specs: &'m [TensorSpec], rules: Rules) -> Result<Inputs, String> {
        let mut table: Option<Self> = None;
        walk::items(raw, |record| {
            let known = match &mut table {
                Some(table) => table,
                none => {
                    let mut columns = Vec::new();
                    walk::members(record, |name, _| {
                        columns.push(name.into_owned());
                        if columns.len() > MAX_COLUMNS { Err("too many columns".into()) } else { Ok(()) }
                    })
                    .map_err(|text| format!("row 0: {text}"))?;
                    none.insert(Self::new(columns, specs, rules)?)
                }
            };
            known.record(record)
        })?;
        table.ok_or_else(|| "there are no rows".to_owned())?.inputs()
    }

    /// Reads a row that is an object; a column that it lacks is missing in it.
    pub fn record(&mut self, record: &RawValue) -> Result<(), String> {
        let row = self.rows;
        walk::members(record, |name, cell| match self.places.get(name.as_ref()).copied() {
            Some(place) => self.push_json(place, cell),
            None => self.refuse_unknown(&name).map_err(|text| format!("row {row}: {text}")),
        })
        .map_err(|text| if text == "an object is wanted" { format!("row {row}: {text}") } else { text })?;
        for column in self.columns.iter_mut().flatten().filter(|column| column.rows == row) {
            column.push(row, "null")?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Reads a row whose cells are in the order of the columns.
    pub fn row(&mut self, cells: &RawValue) -> Result<(), String> {
        let (row, mut place) = (self.rows, 0);
        walk::items(cells, |cell| {
            place += 1;
            self.push_json(place - 1, cell)
        })
        .map_err(|text| if text == "an array is wanted" { format!("row {row}: {text}") } else { text })?;
        self.end_row(place)
    }

    /// Reads a row of texts, as CSV has them.
    pub fn text_row<'c>(&mut self, cells: impl Iterator<Item = &'c str>) -> Result<(), String> {
        let (row, mut count) = (self.rows, 0);
        for (place, cell) in cells.enumerate() {
            count = place + 1;
            let (cell, Some(Some(column))) = (cell.trim(), self.columns.get_mut(place)) else { continue };
            // A list in a cell is an input of several numbers.
            match cell.starts_with('[').then(|| serde_json::from_str(cell)) {
                Some(Ok(list)) => column.push_array(row, list)?,
                _ => column.push(row, &as_token(cell, column.dtype))?,
            }
        }
        self.end_row(count)
    }

    /// Reads all cells of the column at `place`.
    pub fn column(&mut self, place: usize, cells: &RawValue) -> Result<(), String> {
        let mut row = 0;
        walk::items(cells, |cell| {
            let Some(Some(column)) = self.columns.get_mut(place) else { return Ok(()) };
            row += 1;
            let is_array = cell.get().starts_with(['[', '{']);
            if is_array { column.push_array(row - 1, cell) } else { column.push(row - 1, cell.get()) }
        })?;
        if place == 0 {
            self.rows = row;
        }
        match self.columns.get(place) {
            Some(Some(column)) if row != self.rows => {
                Err(format!("column '{}' has {row} rows, and the first one {}", clip(&column.name), self.rows))
            }
            _ => Ok(()),
        }
    }

    fn end_row(&mut self, cells: usize) -> Result<(), String> {
        if cells != self.columns.len() {
            return Err(format!("row {} has {cells} cells, and there are {} columns", self.rows, self.columns.len()));
        }
        self.rows += 1;
        Ok(())
    }

    fn push_json(&mut self, place: usize, cell: &RawValue) -> Result<(), String> {
        let row = self.rows;
        match self.columns.get_mut(place) {
            Some(Some(column)) if column.rows > row => Err(format!("row {row} has '{}' twice", clip(&column.name))),
            Some(Some(column)) if cell.get().starts_with(['[', '{']) => column.push_array(row, cell),
            Some(Some(column)) => column.push(row, cell.get()),
            Some(None) => Ok(()),
            None => Err(format!("row {row} has more than {} cells", self.columns.len())),
        }
    }

    fn refuse_unknown(&self, name: &str) -> Result<(), String> {
        match self.rules {
            Rules::Frame => Ok(()),
            Rules::Inputs => Err(format!("the model has no input '{}', but {}", clip(name), names(self.specs))),
        }
    }

    /// The model's inputs.
    pub fn inputs(self) -> Result<Inputs, String> {
        let Self { specs, columns, together, rows, .. } = self;
        let mut columns: Vec<Column> = columns.into_iter().flatten().collect();
        if let ([spec], true) = (specs, together) {
            let tensor = interleave(&columns, rows, spec)?;
            return Ok(BTreeMap::from([(spec.name.clone(), tensor)]));
        }
        let mut inputs = BTreeMap::new();
        for spec in specs {
            let place = columns.iter().position(|column| column.name == spec.name);
            let Some(column) = place.map(|place| columns.swap_remove(place)) else { continue };
            let shape: Vec<u64> = [rows].into_iter().chain(column.cell.unwrap_or_default()).collect();
            let tensor = Tensor::new(spec.dtype, fit(shape, spec), column.data);
            inputs.insert(spec.name.clone(), tensor.map_err(|error| format!("column '{}': {error}", spec.name))?);
        }
        Ok(inputs)
    }
}

impl Column {
    fn push(&mut self, row: u64, token: &str) -> Result<(), String> {
        self.nest(row, &[])?;
        let is_float = matches!(self.dtype, Dtype::F32 | Dtype::F64);
        if token == "null" && !is_float {
            let (name, dtype) = (clip(&self.name), self.dtype.oip_name());
            return Err(format!("column '{name}', row {row}: a value is missing, for which {dtype} has no word"));
        }
        elements::push(self.dtype, token, &mut self.data).ok_or_else(|| {
            let (name, dtype) = (clip(&self.name), self.dtype.oip_name());
            format!("column '{name}', row {row}: {} is no {dtype}", clip(token))
        })?;
        self.rows += 1;
        Ok(())
    }

    fn push_array(&mut self, row: u64, cell: &RawValue) -> Result<(), String> {
        let read = elements::read(cell, self.dtype, u64::MAX)
            .map_err(|text| format!("column '{}', row {row}: {text}", clip(&self.name)))?;
        self.nest(row, &read.shape)?;
        self.data.extend_from_slice(&read.data);
        self.rows += 1;
        Ok(())
    }

    /// All cells of a column are nested alike.
    fn nest(&mut self, row: u64, shape: &[u64]) -> Result<(), String> {
        match &self.cell {
            None => self.cell = Some(shape.to_vec()),
            Some(before) if before != shape => {
                let name = clip(&self.name);
                return Err(format!("column '{name}', row {row}: shape {shape:?}, and {before:?} in the rows before"));
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// Whether so many columns fill one item of `spec`.
fn are_enough(spec: &TensorSpec, columns: usize) -> Result<(), String> {
    let mut sizes = spec.shape.iter().skip(1).map(|dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Symbol(_) => None,
    });
    match sizes.try_fold(1u64, |product, size| size.map(|size| product.saturating_mul(size))) {
        Some(wanted) if wanted != columns as u64 => {
            let name = &spec.name;
            Err(format!(
                "input '{name}' takes {wanted} columns in its own order, or one called '{name}'; got {columns}"
            ))
        }
        _ => Ok(()),
    }
}

fn interleave(columns: &[Column], rows: u64, spec: &TensorSpec) -> Result<Tensor, String> {
    if let Some(nested) = columns.iter().find(|column| column.cell.as_ref().is_some_and(|cell| !cell.is_empty())) {
        return Err(format!("column '{}' holds arrays, and input '{}' takes numbers", clip(&nested.name), spec.name));
    }
    let size = spec.dtype.size();
    let mut data = Vec::with_capacity(columns.iter().map(|column| column.data.len()).sum());
    let mut cells: Vec<_> = columns.iter().map(|column| column.data.chunks_exact(size)).collect();
    for _ in 0..rows {
        cells.iter_mut().filter_map(Iterator::next).for_each(|cell| data.extend_from_slice(cell));
    }
    let tensor = Tensor::new(spec.dtype, fit(vec![rows, columns.len() as u64], spec), data);
    tensor.map_err(|error| format!("input '{}': {error}", spec.name))
}

/// A cell of CSV as JSON would have it.
fn as_token(cell: &str, dtype: Dtype) -> Cow<'_, str> {
    if MISSING.contains(&cell) {
        return "null".into();
    }
    match (dtype, cell) {
        (Dtype::Bool, _) => cell.to_ascii_lowercase().into(),
        _ => cell.into(),
    }
}
