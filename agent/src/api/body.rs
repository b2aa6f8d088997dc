//! Bodies: how much of them is read, unpacked and held, and how answers are packed. It knows no model.

use std::io::{self, Read, Write};
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use axum::http::{HeaderMap, HeaderValue};
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{Error, clip};

/// What every request may hold whatever the others do, so that small ones never wait for large ones.
const FREE: usize = 64 << 10;
/// What the budget is counted in.
const UNIT: usize = 64 << 10;
/// Shorter answers are sent as they are: packing them costs more than it saves.
const WORTH_PACKING: usize = 1024;

/// How much memory all bodies together may take (invariant 10).
#[derive(Debug, Clone)]
pub struct Budget {
    units: Arc<Semaphore>,
    body: usize,
}

impl Budget {
    /// At most `body` bytes for one body and `total` for all.
    pub fn new(body: usize, total: usize) -> Self {
        Self { units: Arc::new(Semaphore::new(total / UNIT)), body }
    }

    /// The same memory, with another limit for one body.
    pub fn with_limit(&self, body: usize) -> Self {
        Self { units: Arc::clone(&self.units), body }
    }

    /// A part of it, with nothing in it yet.
    pub fn hold(&self) -> Held {
        Held { budget: self.clone(), permits: None }
    }
}

/// A body as it arrived, counted against the budget until it is dropped.
#[derive(Debug)]
pub struct Received {
    bytes: Vec<u8>,
    coding: Option<Coding>,
    held: Held,
}

/// A body in plain bytes.
#[derive(Debug)]
pub struct Plain {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What is counted for them; to be kept for as long as what was made of them.
    pub held: Held,
}

/// A part of the budget.
#[derive(Debug)]
pub struct Held {
    budget: Budget,
    permits: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// Counts up to `bytes`; refuses what is over a limit, before anything is allocated for it.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes > self.budget.body {
            return Err(Error::TooLarge(self.budget.body));
        }
        let wanted = bytes.saturating_sub(FREE).div_ceil(UNIT);
        let more = wanted.saturating_sub(self.permits.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).map_err(|_| Error::Busy)?;
        let permits = Arc::clone(&self.budget.units).try_acquire_many_owned(more).map_err(|_| Error::Busy)?;
        match &mut self.permits {
            Some(held) => held.merge(permits),
            none => *none = Some(permits),
        }
        Ok(())
    }

    /// Gives everything back.
    pub fn release(&mut self) {
        self.permits = None;
    }
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, which HTTP calls deflate.
    Deflate,
}

impl Coding {
    /// Its name in a header.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Deflate => "deflate",
        }
    }

    /// Unpacks `bytes`, and counts both forms.
    pub fn unpack(self, bytes: &[u8], held: &mut Held) -> Result<Vec<u8>, Error> {
        match self {
            // As zlib itself does, which takes either where clients mix them up.
            Coding::Deflate if !bytes.starts_with(&[0x1f, 0x8b]) => unpack(ZlibDecoder::new(bytes), bytes.len(), held),
            Coding::Gzip | Coding::Deflate => unpack(MultiGzDecoder::new(bytes), bytes.len(), held),
        }
    }
}

/// Reads a whole body.
pub async fn receive(headers: &HeaderMap, body: Body, budget: &Budget) -> Result<Received, Error> {
    let coding = coding_of(headers)?;
    let claimed = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if claimed.is_some_and(|bytes| bytes > budget.body as u64) {
        return Err(Error::TooLarge(budget.body));
    }
    let mut held = budget.hold();
    let (mut bytes, mut stream) = (Vec::new(), body.into_data_stream());
    while let Some(part) = stream.next().await {
        let part = part.map_err(|_| Error::BadRequest("the body broke off".into()))?;
        held.grow_to(bytes.len() + part.len())?;
        bytes.extend_from_slice(&part);
    }
    Ok(Received { bytes, coding, held })
}

impl Received {
    /// Whether the work on it is worth a thread of its own; so is everything packed, whose size nobody knows.
    pub fn is_heavy(&self) -> bool {
        self.coding.is_some() || self.bytes.len() > FREE
    }

    /// Unpacks it.
    pub fn plain(self) -> Result<Plain, Error> {
        let Self { bytes, coding, mut held } = self;
        let bytes = match coding {
            None => bytes,
            Some(coding) => coding.unpack(&bytes, &mut held)?,
        };
        Ok(Plain { bytes, held })
    }
}

/// The limit holds for the unpacked bytes; what is still held packed counts too.
fn unpack(mut reader: impl Read, packed: usize, held: &mut Held) -> Result<Vec<u8>, Error> {
    let (mut bytes, mut block) = (Vec::new(), vec![0; UNIT]);
    loop {
        let length = match reader.read(&mut block) {
            Ok(0) => return Ok(bytes),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::BadRequest(format!("the body cannot be unpacked: {error}"))),
        };
        if bytes.len() + length > held.budget.body {
            return Err(Error::TooLarge(held.budget.body));
        }
        held.grow_to((bytes.len() + length + packed).min(held.budget.body))?;
        bytes.extend_from_slice(&block[..length]);
    }
}

fn coding_of(headers: &HeaderMap) -> Result<Option<Coding>, Error> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let (Some(value), None) = (codings.next(), codings.next()) else {
        return match headers.contains_key(CONTENT_ENCODING) {
            true => Err(Error::MediaType("the body is packed more than once".into())),
            false => Ok(None),
        };
    };
    let text = String::from_utf8_lossy(value.as_bytes()).trim().to_ascii_lowercase();
    match text.as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Coding::Gzip)),
        "deflate" => Ok(Some(Coding::Deflate)),
        other => {
            Err(Error::MediaType(format!("Content-Encoding {:?} cannot be read, but gzip and deflate", clip(other))))
        }
    }
}

/// The coding that the caller likes best and that exists here; gzip where it likes both.
pub fn accepted(headers: &HeaderMap) -> Option<Coding> {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut best: Option<(Coding, f32)> = None;
    for item in values.flat_map(|value| value.split(',')) {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let coding = match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Coding::Gzip,
            "deflate" => Coding::Deflate,
            _ => continue,
        };
        let weight = parameters.trim().strip_prefix("q=").map_or(1.0, |q| q.trim().parse().unwrap_or(0.0));
        let better = best.is_none_or(|(other, so_far)| {
            weight > so_far || (weight == so_far && other == Coding::Deflate && coding == Coding::Gzip)
        });
        if weight > 0.0 && better {
            best = Some((coding, weight));
        }
    }
    best.map(|(coding, _)| coding)
}

/// Packs `bytes` where the caller takes it and it is worth it, and says so in `headers`.
pub fn pack(bytes: Vec<u8>, coding: Option<Coding>, headers: &mut HeaderMap) -> Result<Vec<u8>, Error> {
    let Some(coding) = coding.filter(|_| bytes.len() >= WORTH_PACKING) else { return Ok(bytes) };
    let packed = match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&bytes).and_then(|()| encoder.finish())
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&bytes).and_then(|()| encoder.finish())
        }
    };
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    // Writing to memory does not fail.
    packed.map_err(|_| Error::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|v| (name.parse().expect("a name"), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn the_best_liked_coding_is_chosen() {
        let table: [(&[&str], Option<Coding>); 8] = [
            (&[], None),
            (&["br, zstd, *"], None),
            (&["gzip"], Some(Coding::Gzip)),
            (&["deflate"], Some(Coding::Deflate)),
            (&["deflate, GZIP"], Some(Coding::Gzip)),
            (&["gzip;q=0.5", "deflate;q=0.8"], Some(Coding::Deflate)),
            (&["gzip;q=0"], None),
            (&["gzip;q=x"], None),
        ];
        for (values, want) in table {
            assert_eq!(accepted(&headers("accept-encoding", values)), want, "{values:?}");
        }
    }

    #[test]
    fn unknown_codings_are_refused() {
        for bad in ["br", "gzip, deflate", "zstd"] {
            assert!(matches!(coding_of(&headers("content-encoding", &[bad])), Err(Error::MediaType(_))), "{bad}");
        }
        assert!(coding_of(&headers("content-encoding", &["gzip", "gzip"])).is_err());
        for plain in ["", "identity"] {
            assert_eq!(coding_of(&headers("content-encoding", &[plain])).expect("known"), None);
        }
    }

    #[tokio::test]
    async fn small_files_that_unpack_to_large_ones_are_refused() {
        let budget = Budget::new(1 << 20, 8 << 20);
        for (coding, name) in [(Coding::Gzip, "gzip"), (Coding::Deflate, "deflate")] {
            for (size, good) in [((1 << 20), true), ((1 << 20) + 1, false)] {
                let packed = pack(vec![0; size], Some(coding), &mut HeaderMap::new()).expect("packed");
                assert!(packed.len() < 10_000);
                let headers = headers("content-encoding", &[name]);
                let received = receive(&headers, packed.into(), &budget).await.expect("small");
                let plain = received.plain();
                assert_eq!(plain.is_ok(), good, "{name} {size}");
                assert!(good || matches!(plain, Err(Error::TooLarge(_))));
            }
        }
        assert_eq!(budget.units.available_permits(), 128, "everything was given back");
    }

    #[tokio::test]
    async fn all_bodies_together_are_bounded() {
        let budget = Budget::new(1 << 20, 1 << 20);
        let body = || Body::from(vec![0; 1 << 20]);
        let first = receive(&HeaderMap::new(), body(), &budget).await.expect("room for one");
        assert!(matches!(receive(&HeaderMap::new(), body(), &budget).await, Err(Error::Busy)));
        assert!(receive(&HeaderMap::new(), Body::from(vec![0; FREE]), &budget).await.is_ok(), "small ones go on");
        drop(first);
        assert!(receive(&HeaderMap::new(), body(), &budget).await.is_ok());
        assert!(matches!(
            receive(&HeaderMap::new(), Body::from(vec![0; (1 << 20) + 1]), &budget).await,
            Err(Error::TooLarge(_))
        ));
    }

    #[tokio::test]
    async fn broken_packing_is_the_callers_fault() {
        let budget = Budget::new(1 << 20, 8 << 20);
        for (name, bytes) in [("gzip", &b"\x1f\x8bxx"[..]), ("deflate", b"nonsense"), ("gzip", b"plain")] {
            let headers = headers("content-encoding", &[name]);
            let received = receive(&headers, bytes.to_vec().into(), &budget).await.expect("small");
            assert!(matches!(received.plain(), Err(Error::BadRequest(_))), "{name}");
        }
    }
}
