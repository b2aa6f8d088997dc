//! Deltas: computed once for each pair of files, one at a time, off the async threads.
//!
//! A delta is the wanted file, zstd-compressed with the held file as prefix, as `zstd --patch-from` does.
//! Outcomes are kept, also that there is nothing worth sending.

use std::collections::{HashMap, VecDeque};
use std::io::Write as _;

use bytes::Bytes;
use muster_proto::id::{DeviceId, Digest, Hasher};
use muster_proto::manifest::{Blob, Codec};
use muster_proto::transfer::{Delta, MAX_DELTA_CHUNKS, chunk_count, chunk_size_for};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::blobs::{self, Blobs, Kind};
use crate::storage::{self, DeltaRecord, FileRecord, Storage};

/// The largest file that serves as prefix, or is made from one: both are in memory whole, and so they are on the device.
pub const MAX_FILE: u64 = 512 << 20;
/// A blob this small is fetched whole sooner than a delta is asked for.
const MIN_BLOB: u64 = 8 * 1024;
/// So many of the files that a device holds are tried.
const MAX_BASES: usize = 3;
/// The most pairs that wait to be computed; beyond that devices fetch the whole file.
const MAX_PENDING: usize = 64;
/// The most devices that wait for one pair.
const MAX_WAITING: usize = 10_000;
/// Files up to this size are worth the slow level: about 5 seconds of one core.
const SLOW_LEVEL_BELOW: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A file could not be read, or the delta not be stored.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// zstd failed; trying again cannot help.
    #[error("zstd failed")]
    Zstd(#[from] std::io::Error),
    /// The computation was lost; trying again may help.
    #[error("the computation of a delta was lost")]
    Lost(#[from] tokio::task::JoinError),
}

/// A device's question.
#[derive(Debug, Clone)]
pub struct Query {
    /// Who asks.
    pub device: DeviceId,
    /// The file that it wants.
    pub want: Digest,
    /// The files that it holds, best guess first.
    pub held: Vec<Digest>,
}

/// The answer to a device's question.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Who asked.
    pub device: DeviceId,
    /// The file that it wants.
    pub want: Digest,
    /// The best delta, or none.
    pub offer: Option<Delta>,
}

type Pair = (Digest, Digest);

/// Answers questions, one task.
pub struct Deltas {
    storage: Storage,
    blobs: Blobs,
    answers: mpsc::Sender<Answer>,
    pending: HashMap<Pair, Vec<Query>>,
    order: VecDeque<Pair>,
    running: Option<(Pair, JoinHandle<Result<(), Error>>)>,
}

impl Deltas {
    /// Starts the task; it ends when the sender of questions is gone.
    pub fn start(storage: Storage, blobs: Blobs, answers: mpsc::Sender<Answer>, queries: mpsc::Receiver<Query>) {
        let deltas = Self { storage, blobs, answers, pending: HashMap::new(), order: VecDeque::new(), running: None };
        tokio::spawn(deltas.run(queries));
    }

    async fn run(mut self, mut queries: mpsc::Receiver<Query>) {
        loop {
            self.compute_next();
            let finished = async {
                match &mut self.running {
                    Some((pair, task)) => (*pair, task.await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                query = queries.recv() => match query {
                    Some(query) => self.consider(query, Failed::Retry).await,
                    None => return,
                },
                (pair, outcome) = finished => {
                    self.running = None;
                    let outcome = outcome.map_err(Error::from).and_then(|done| done);
                    let failed = match outcome {
                        Ok(()) => Failed::Retry,
                        Err(error) => {
                            tracing::warn!(base = %pair.0, want = %pair.1, %error, "no delta could be computed");
                            Failed::Pass
                        }
                    };
                    for query in self.pending.remove(&pair).unwrap_or_default() {
                        self.consider(query, failed).await;
                    }
                }
            }
        }
    }

    /// Answers a question, or lets it wait for a computation.
    async fn consider(&mut self, query: Query, failed: Failed) {
        let answer = |offer| Answer { device: query.device.clone(), want: query.want, offer };
        match self.look_up(&query).await {
            Ok(Found::Offer(offer)) => self.answer(answer(offer)).await,
            Ok(Found::Unknown(pair)) if failed == Failed::Retry && self.has_room(pair) => {
                if !self.pending.contains_key(&pair) {
                    self.order.push_back(pair);
                }
                let waiting = self.pending.entry(pair).or_default();
                if waiting.len() < MAX_WAITING && !waiting.iter().any(|q| q.device == query.device) {
                    waiting.push(query);
                }
            }
            Ok(Found::Unknown(_)) => self.answer(answer(None)).await,
            Err(error) => {
                tracing::warn!(want = %query.want, %error, "a question for a delta could not be looked up");
                self.answer(answer(None)).await;
            }
        }
    }

    async fn answer(&self, answer: Answer) {
        // A full channel means that the link is slower than questions come: the device asks again.
        let _ = self.answers.try_send(answer);
    }

    fn has_room(&self, pair: Pair) -> bool {
        self.pending.contains_key(&pair) || self.pending.len() < MAX_PENDING
    }

    async fn look_up(&self, query: &Query) -> Result<Found, Error> {
        let Some(want) = self.storage.file(query.want).await? else { return Ok(Found::Offer(None)) };
        if want.size > MAX_FILE || want.blob_size <= MIN_BLOB {
            return Ok(Found::Offer(None));
        }
        let mut tried = 0;
        for base in query.held.iter().filter(|base| **base != query.want) {
            let Some(file) = self.storage.file(*base).await? else { continue };
            if file.size > MAX_FILE || file.size == 0 {
                continue;
            }
            match self.storage.delta(*base, query.want).await? {
                None => return Ok(Found::Unknown((*base, query.want))),
                Some(DeltaRecord { offer: Some(offer), .. }) => return Ok(Found::Offer(Some(offer))),
                Some(DeltaRecord { offer: None, .. }) => {}
            }
            tried += 1;
            if tried == MAX_BASES {
                break;
            }
        }
        Ok(Found::Offer(None))
    }

    fn compute_next(&mut self) {
        if self.running.is_some() {
            return;
        }
        if let Some(pair) = self.order.pop_front() {
            let task = tokio::spawn(compute(self.storage.clone(), self.blobs.clone(), pair));
            self.running = Some((pair, task));
        }
    }
}

/// What happens to a question whose delta is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    /// It is computed.
    Retry,
    /// It was tried just now and failed: the device fetches the whole file.
    Pass,
}

enum Found {
    Offer(Option<Delta>),
    Unknown(Pair),
}

async fn compute(storage: Storage, blobs: Blobs, (base, want): Pair) -> Result<(), Error> {
    let Some(file) = storage.file(want).await? else { return Ok(()) };
    let base_bytes = blobs.read(Kind::Raw, base, MAX_FILE).await?;
    let want_bytes = blobs.read(Kind::Raw, want, MAX_FILE).await?;
    let delta = tokio::task::spawn_blocking(move || encode(&base_bytes, &want_bytes, want)).await??;
    let offer = match delta.and_then(|delta| worth_sending(&file, base, &delta).map(|offer| (offer, delta))) {
        Some((offer, delta)) => {
            blobs.write(Kind::Delta, Bytes::from(delta)).await?;
            Some(offer)
        }
        None => None,
    };
    tracing::info!(%base, %want, full = file.blob_size, delta = offer.as_ref().map(|o| o.size), "delta computed");
    storage.insert_delta(&DeltaRecord { base, want, offer }, crate::now()).await?;
    Ok(())
}

/// Smaller than nine tenths of the whole blob, and few enough chunks for one message.
fn worth_sending(file: &FileRecord, base: Digest, delta: &[u8]) -> Option<Delta> {
    let size = delta.len() as u64;
    let chunk_size = chunk_size_for(size);
    if size.saturating_mul(10) >= file.blob_size.saturating_mul(9)
        || chunk_count(size, chunk_size) > MAX_DELTA_CHUNKS as u64
    {
        return None;
    }
    let blob = Blob::describe(Codec::Zstd, delta, chunk_size);
    Some(Delta { base, digest: blob.digest, size, chunk_size, chunks: blob.chunks })
}

/// `want` with `base` as prefix, or none where it does not decode to `digest`.
fn encode(base: &[u8], want: &[u8], digest: Digest) -> Result<Option<Vec<u8>>, std::io::Error> {
    let level = if base.len().max(want.len()) <= SLOW_LEVEL_BELOW { 19 } else { 3 };
    // The window has to reach from the end of the file to the beginning of the prefix.
    let window = window_log(base.len() as u64 + want.len() as u64);
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), level, base)?;
    encoder.window_log(window)?;
    encoder.long_distance_matching(true)?;
    encoder.set_pledged_src_size(Some(want.len() as u64))?;
    encoder.include_contentsize(true)?;
    encoder.write_all(want)?;
    let delta = encoder.finish()?;
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(&delta[..], base)?;
    decoder.window_log_max(window)?;
    let mut hasher = Hashing(Hasher::new());
    std::io::copy(&mut decoder, &mut hasher)?;
    Ok((hasher.0.finish() == digest).then_some(delta))
}

/// The smallest zstd window that holds `bytes`, within what every build of zstd can read (RFC 8878 allows more).
fn window_log(bytes: u64) -> u32 {
    bytes.max(1).next_power_of_two().trailing_zeros().clamp(10, 31)
}

struct Hashing(Hasher);

impl std::io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn a_small_change_costs_little_even_far_from_its_base() {
        // 20 MB takes the fast level with long-distance matching, 1 MB the slow one.
        for size in [1 << 20, 20 << 20] {
            let base = noise(1, size);
            let mut want = base.clone();
            want.splice(1000..1000, noise(2, 500));
            want[size / 2] ^= 0xff;
            let delta = encode(&base, &want, Digest::of(&want)).expect("zstd works").expect("decodes");
            assert!(delta.len() < 20_000, "{size}: {}", delta.len());
            let file = FileRecord {
                path: "m".into(),
                digest: Digest::of(&want),
                size: want.len() as u64,
                blob: Digest::of(b""),
                blob_size: want.len() as u64,
            };
            let offer = worth_sending(&file, Digest::of(&base), &delta).expect("is worth it");
            assert_eq!(offer.chunks.len() as u64, chunk_count(offer.size, offer.chunk_size));
        }
    }

    #[test]
    fn a_delta_as_large_as_the_file_is_not_offered() {
        let (base, want) = (noise(1, 100_000), noise(2, 100_000));
        let delta = encode(&base, &want, Digest::of(&want)).expect("zstd works").expect("decodes");
        let file = |blob_size| FileRecord {
            path: "m".into(),
            digest: Digest::of(&want),
            size: 100_000,
            blob: Digest::of(b""),
            blob_size,
        };
        assert_eq!(worth_sending(&file(100_000), Digest::of(&base), &delta), None);
        assert!(worth_sending(&file(200_000), Digest::of(&base), &delta).is_some());
        let many = vec![0; (MAX_DELTA_CHUNKS + 1) * 65_536];
        assert_eq!(worth_sending(&file(1 << 40), Digest::of(&base), &many), None);
    }
}
