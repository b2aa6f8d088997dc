//! A file as a stream of its unpacked bytes, that says how far it is and stops at rows without an end.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::MAX_ROW;
use crate::batch::Error;
use crate::batch::inputs::{Input, Packing, Place};

const BUFFER: usize = 256 << 10;

/// The stream, and what it tells.
pub struct Stream {
    /// The unpacked bytes.
    pub reader: Box<dyn Read + Send>,
    /// What it tells.
    pub gauge: Gauge,
}

/// What is known of a stream while somebody else reads it.
#[derive(Debug, Clone, Default)]
pub struct Gauge {
    behind: Arc<AtomicU64>,
    row: Arc<AtomicU64>,
}

impl Gauge {
    /// Bytes of the file that are behind.
    pub fn behind(&self) -> u64 {
        self.behind.load(Relaxed)
    }

    /// A row begins: it may take [`MAX_ROW`] bytes again.
    pub fn begin_row(&self) {
        self.row.store(0, Relaxed);
    }
}

/// The file's path. Files behind URLs are fetched before.
pub fn path(input: &Input) -> Result<&Path, Error> {
    match &input.place {
        Place::File(path) => Ok(path),
        Place::Url(_) => Err(Error::Internal { what: format!("{} was not fetched", input.name) }),
    }
}

/// Opens a file that may be packed.
pub fn open(input: &Input) -> Result<Stream, Error> {
    let unreadable = |error: io::Error| super::unreadable(input, error);
    let gauge = Gauge::default();
    let file = File::open(path(input)?).map_err(unreadable)?;
    let counted = Counted { inner: file, behind: Arc::clone(&gauge.behind) };
    let buffered = BufReader::with_capacity(BUFFER, counted);
    let unpacked: Box<dyn Read + Send> = match input.packing {
        Packing::Plain => Box::new(buffered),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(buffered).map_err(unreadable)?),
    };
    let reader = Box::new(Measured { inner: unpacked, row: Arc::clone(&gauge.row) });
    Ok(Stream { reader, gauge })
}

struct Counted<R> {
    inner: R,
    behind: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.behind.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

struct Measured<R> {
    inner: R,
    row: Arc<AtomicU64>,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if self.row.fetch_add(count as u64, Relaxed) > MAX_ROW {
            let text = format!("a row has more than {MAX_ROW} bytes; look for a quote that is not closed");
            return Err(io::Error::other(text));
        }
        Ok(count)
    }
}
