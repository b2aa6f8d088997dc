//! Parquet by its record API, without Arrow; the only user of the crate. Columns are numbers, texts, booleans, or lists
//! of them.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use ::parquet::basic::{ConvertedType, LogicalType};
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::file::serialized_reader::ReadOptionsBuilder;
use ::parquet::record::Field;
use ::parquet::record::reader::RowIter;
use ::parquet::schema::types::Type;
use serde_json::Value;

use super::{Body, Context, Places, Row, Rows, open};
use crate::batch::Error;
use crate::batch::error::Fault;
use crate::batch::inputs::Input;

pub struct Parquet {
    input: Input,
    path: PathBuf,
    names: Arc<Vec<String>>,
    /// The columns that are read: the features, then kept ones that are none.
    projection: Type,
    /// Where among them the kept ones are.
    keep: Vec<usize>,
    /// Rows and packed bytes of each row group.
    groups: Vec<(u64, u64)>,
    rows: RowIter<'static>,
    at: u64,
}

impl Parquet {
    pub fn open(input: &Input, context: Context) -> Result<Self, Error> {
        let path = open::path(input)?.to_owned();
        let reader = reader(input, &path, 0)?;
        let metadata = reader.metadata();
        let schema = metadata.file_metadata().schema_descr().root_schema_ptr();
        let fields = schema.get_fields();
        let header: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
        let Places { names, features, keep } = Places::find(&input.name, &header, context)?;
        let mut read: Vec<usize> = features;
        let mut kept = Vec::with_capacity(keep.len());
        for place in keep {
            let known = read.iter().position(|other| *other == place);
            kept.push(known.unwrap_or(read.len()));
            if known.is_none() {
                read.push(place);
            }
        }
        if let Some(nested) = read.iter().map(|place| &fields[*place]).find(|field| !is_flat(field)) {
            let what = format!("{}: column {:?} is nested", input.name, nested.name());
            return Err(Error::input(what, "write its members as columns of their own, or as one list of numbers"));
        }
        let chosen = read.iter().map(|place| Arc::clone(&fields[*place])).collect();
        let projection = Type::group_type_builder(schema.name()).with_fields(chosen).build();
        let projection = projection.map_err(|error| super::unreadable(input, error))?;
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let groups = metadata.row_groups().iter();
        let groups = groups.map(|group| (count(group.num_rows()), count(group.compressed_size()))).collect();
        let rows = iterate(input, reader, &projection)?;
        Ok(Self { input: input.clone(), path, names, projection, keep: kept, groups, rows, at: 0 })
    }

    fn advance(&mut self) -> Result<Option<::parquet::record::Row>, Error> {
        // Some damaged files make the reader panic.
        let next = catch_unwind(AssertUnwindSafe(|| self.rows.next()));
        let next = next.map_err(|_| super::unreadable(&self.input, "it is damaged"))?;
        self.at += 1;
        next.transpose().map_err(|error| super::unreadable(&self.input, error))
    }
}

fn reader(input: &Input, path: &std::path::Path, from: usize) -> Result<SerializedFileReader<File>, Error> {
    let file = File::open(path).map_err(|error| super::unreadable(input, error))?;
    let options = ReadOptionsBuilder::new().with_predicate(Box::new(move |_, index| index >= from)).build();
    let open = catch_unwind(AssertUnwindSafe(|| SerializedFileReader::new_with_options(file, options)));
    let open = open.map_err(|_| super::unreadable(input, "it is damaged"))?;
    open.map_err(|error| super::unreadable(input, error))
}

fn iterate(input: &Input, reader: SerializedFileReader<File>, columns: &Type) -> Result<RowIter<'static>, Error> {
    let rows = RowIter::from_file_into(Box::new(reader)).project(Some(columns.clone()));
    rows.map_err(|error| super::unreadable(input, error))
}

/// Whether a column is one of values, or of lists of them.
fn is_flat(field: &Type) -> bool {
    if field.is_primitive() {
        return true;
    }
    let info = field.get_basic_info();
    let is_list =
        info.converted_type() == ConvertedType::LIST || matches!(info.logical_type_ref(), Some(LogicalType::List));
    // A list is a group with a repeated group, which holds the element.
    let element = field.get_fields().first().map(|repeated| match repeated.is_primitive() {
        true => true,
        false => repeated.get_fields().len() == 1 && is_flat(&repeated.get_fields()[0]),
    });
    is_list && element == Some(true)
}

impl Rows for Parquet {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        let Some(row) = self.advance()? else { return Ok(None) };
        let cells: Vec<(String, Field)> = row.into_columns();
        let read = || -> Result<Row, String> {
            let value = |(name, field): &(String, Field)| {
                value(field).map(|value| value.to_string()).map_err(|text| format!("column '{name}': {text}"))
            };
            let features: Vec<String> = cells.iter().take(self.names.len()).map(value).collect::<Result<_, _>>()?;
            let keep = self.keep.iter().filter_map(|place| cells.get(*place)).map(value).collect::<Result<_, _>>()?;
            Ok(Row { body: Body::Cells(format!("[{}]", features.join(","))), keep })
        };
        let bad = |sentence| Row { body: Body::Bad(Fault::input(sentence)), keep: Vec::new() };
        Ok(Some(read().unwrap_or_else(bad)))
    }

    fn skip(&mut self, count: u64) -> Result<(), Error> {
        let target = self.at + count;
        let (mut group, mut first) = (0, 0);
        while let Some((rows, _)) = self.groups.get(group).filter(|(rows, _)| first + rows <= target) {
            (group, first) = (group + 1, first + rows);
        }
        if first > self.at {
            self.rows = iterate(&self.input, reader(&self.input, &self.path, group)?, &self.projection)?;
            self.at = first;
        }
        while self.at < target {
            if self.advance()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn behind(&self) -> u64 {
        let (mut bytes, mut left) = (0, self.at);
        for (rows, size) in &self.groups {
            if left < *rows {
                return bytes + size * left / rows.max(&1);
            }
            (bytes, left) = (bytes + size, left - rows);
        }
        bytes
    }

    fn features(&self) -> Option<Arc<Vec<String>>> {
        Some(Arc::clone(&self.names))
    }
}

/// A cell as JSON: NaN is null, times are whole numbers in the unit of their column, decimals are texts.
fn value(field: &Field) -> Result<Value, String> {
    let float = |value: f64| match value {
        value if value.is_nan() => Ok(Value::Null),
        value => serde_json::Number::from_f64(value).map(Value::from).ok_or_else(|| format!("{value} is no number")),
    };
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) | Field::Date(value) | Field::TimeMillis(value) => (*value).into(),
        Field::Long(value)
        | Field::TimeMicros(value)
        | Field::TimestampMillis(value)
        | Field::TimestampMicros(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float16(value) => float(f64::from(value.to_f32()))?,
        // As one would write it: 0.1 and not 0.10000000149011612.
        Field::Float(value) => float(value.to_string().parse().unwrap_or(f64::from(*value)))?,
        Field::Double(value) => float(*value)?,
        Field::Str(text) => text.as_str().into(),
        Field::Decimal(_) => field.to_string().into(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect::<Result<Vec<_>, _>>()?.into(),
        Field::Bytes(_) => return Err("bytes are no value that can be passed on".into()),
        Field::Group(_) | Field::MapInternal(_) => return Err("a nested value cannot be passed on".into()),
    })
}
