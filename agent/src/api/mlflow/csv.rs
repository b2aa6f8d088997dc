//! A data frame as comma-separated values: a header row with the columns' names, then rows.

use muster_proto::manifest::{Dtype, TensorSpec};

use super::super::error::Error;
use super::super::rows::Inputs;
use super::super::table::{Rules, Table};

/// Reads the frame.
pub fn read(body: &[u8], specs: &[TensorSpec]) -> Result<Inputs, Error> {
    if let Some(half) = specs.iter().find(|spec| spec.dtype == Dtype::F16) {
        return Err(Error::Input(format!("input '{}' is FP16, for which CSV has no form", half.name)));
    }
    // Spreadsheets write a byte order mark.
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(body);
    let header = reader.headers().map_err(malformed)?;
    if header.iter().all(str::is_empty) {
        return Err(Error::BadRequest("the CSV has no header row with the columns' names".into()));
    }
    let columns = header.iter().map(|name| name.trim().to_owned()).collect();
    let mut table = Table::new(columns, specs, Rules::Frame).map_err(Error::Input)?;
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(malformed)? {
        table.text_row(record.iter()).map_err(Error::Input)?;
    }
    table.inputs().map_err(Error::Input)
}

fn malformed(error: csv::Error) -> Error {
    Error::BadRequest(format!("the CSV cannot be read: {error}"))
}
