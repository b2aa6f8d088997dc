//! CSV: a header row with the columns' names, then rows.

use std::io::Read;
use std::sync::Arc;

use ::csv::{ByteRecord, ReaderBuilder, StringRecord};

use super::open::{self, Gauge};
use super::{Body, Context, Places, Row, Rows};
use crate::batch::Error;
use crate::batch::error::Fault;
use crate::batch::inputs::Input;

/// What spreadsheets begin a file with.
const MARK: &[u8] = b"\xef\xbb\xbf";

pub struct Csv {
    input: Input,
    reader: ::csv::Reader<Box<dyn Read + Send>>,
    gauge: Gauge,
    record: ByteRecord,
    width: usize,
    /// None where the file is empty.
    places: Option<Places>,
}

impl Csv {
    pub fn open(input: &Input, context: Context) -> Result<Self, Error> {
        let stream = open::open(input)?;
        let lower = input.name.to_ascii_lowercase();
        let usual = if lower.trim_end_matches(".gz").trim_end_matches(".zst").ends_with(".tsv") { b'\t' } else { b',' };
        let mut builder = ReaderBuilder::new();
        builder.flexible(true).delimiter(context.columns.delimiter.unwrap_or(usual));
        let mut reader = builder.from_reader(stream.reader);
        let header = reader.byte_headers().map_err(|error| super::unreadable(input, error))?.clone();
        let mut names = Vec::with_capacity(header.len());
        for (place, name) in header.iter().enumerate() {
            let name = if place == 0 { name.strip_prefix(MARK).unwrap_or(name) } else { name };
            let name = std::str::from_utf8(name).map_err(|_| super::unreadable(input, "its header is not UTF-8"))?;
            names.push(name.trim().to_owned());
        }
        let places =
            if names.iter().all(String::is_empty) { None } else { Some(Places::find(&input.name, &names, context)?) };
        let (record, width) = (ByteRecord::new(), names.len());
        Ok(Self { input: input.clone(), reader, gauge: stream.gauge, record, width, places })
    }

    fn advance(&mut self) -> Result<bool, Error> {
        self.gauge.begin_row();
        self.reader.read_byte_record(&mut self.record).map_err(|error| super::unreadable(&self.input, error))
    }
}

impl Rows for Csv {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        if !self.advance()? {
            return Ok(None);
        }
        let bad = |sentence: String| Ok(Some(Row { body: Body::Bad(Fault::input(sentence)), keep: Vec::new() }));
        let Some(places) = &self.places else {
            return bad("the file has no header row with the columns' names".into());
        };
        if self.record.len() != self.width {
            let (got, width) = (self.record.len(), self.width);
            return bad(format!("the row has {got} cells, and the header has {width}"));
        }
        let Ok(record) = StringRecord::from_byte_record(self.record.clone()) else {
            return bad("the row is not UTF-8".into());
        };
        let texts = places.features.iter().filter_map(|place| record.get(*place)).collect();
        let text = |place: &usize| serde_json::Value::from(record.get(*place).unwrap_or_default()).to_string();
        Ok(Some(Row { body: Body::Texts(texts), keep: places.keep.iter().map(text).collect() }))
    }

    fn skip(&mut self, count: u64) -> Result<(), Error> {
        for _ in 0..count {
            if !self.advance()? {
                break;
            }
        }
        Ok(())
    }

    fn behind(&self) -> u64 {
        self.gauge.behind()
    }

    fn features(&self) -> Option<Arc<Vec<String>>> {
        self.places.as_ref().map(|places| Arc::clone(&places.names))
    }
}
