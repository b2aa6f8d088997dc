//! JSON lines: on each an object with columns, or an array or number for the only input. The first object says in
//! which order columns are that have no input's name.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use serde_json::value::RawValue;

use super::open::{self, Gauge};
use super::{Body, Context, Places, Row, Rows};
use crate::api::walk;
use crate::batch::Error;
use crate::batch::error::Fault;
use crate::batch::inputs::Input;

pub struct Jsonl<'a> {
    input: Input,
    reader: BufReader<Box<dyn Read + Send>>,
    gauge: Gauge,
    line: Vec<u8>,
    context: Context<'a>,
    places: Option<Places>,
}

impl<'a> Jsonl<'a> {
    pub fn open(input: &Input, context: Context<'a>) -> Result<Self, Error> {
        let open::Stream { reader, gauge } = open::open(input)?;
        let reader = BufReader::with_capacity(64 << 10, reader);
        Ok(Self { input: input.clone(), reader, gauge, line: Vec::new(), context, places: None })
    }

    /// Reads a line that is not empty.
    fn advance(&mut self) -> Result<bool, Error> {
        loop {
            self.gauge.begin_row();
            self.line.clear();
            let count = self.reader.read_until(b'\n', &mut self.line);
            if count.map_err(|error| super::unreadable(&self.input, error))? == 0 {
                return Ok(false);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    /// The columns are those of the first line that is an object.
    fn learn(&mut self) -> Result<(), Error> {
        if self.places.is_some() {
            return Ok(());
        }
        let Ok(raw) = serde_json::from_slice::<&RawValue>(&self.line) else { return Ok(()) };
        let mut header = Vec::new();
        let walked = walk::members(raw, |name, _| {
            header.push(name.into_owned());
            Ok(())
        });
        if walked.is_ok() {
            self.places = Some(Places::find(&self.input.name, &header, self.context)?);
        }
        Ok(())
    }

    fn row(&self) -> Result<Row, String> {
        let raw: &RawValue =
            serde_json::from_slice(&self.line).map_err(|error| format!("the line is not JSON: {error}"))?;
        if !raw.get().starts_with('{') {
            if self.context.columns.keep.is_empty() {
                return Ok(Row { body: Body::Value(raw.get().to_owned()), keep: Vec::new() });
            }
            return Err("the line is no object, and so has no columns to keep".into());
        }
        let columns = &self.context.columns.keep;
        let mut keep = vec!["null".to_owned(); columns.len()];
        if !keep.is_empty() {
            walk::members(raw, |name: Cow<str>, value| {
                let kept = columns.iter().zip(&mut keep).filter(|(column, _)| **column == name);
                kept.for_each(|(_, cell)| value.get().clone_into(cell));
                Ok(())
            })?;
        }
        Ok(Row { body: Body::Record(raw.get().to_owned()), keep })
    }
}

impl Rows for Jsonl<'_> {
    fn next(&mut self) -> Result<Option<Row>, Error> {
        if !self.advance()? {
            return Ok(None);
        }
        self.learn()?;
        let bad = |sentence| Row { body: Body::Bad(Fault::input(sentence)), keep: Vec::new() };
        Ok(Some(self.row().unwrap_or_else(bad)))
    }

    fn skip(&mut self, count: u64) -> Result<(), Error> {
        for _ in 0..count {
            if !self.advance()? {
                break;
            }
            self.learn()?;
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
