//! The arithmetic of transfers: which chunks to ask for, what has arrived, when to give up.

use std::collections::BTreeMap;

use muster_proto::manifest::Blob;
use muster_proto::transfer::{Fetch, MAX_CHUNK, Object, WINDOW, chunk_count, chunk_len};

/// A chunk that has not come within this time is asked for again.
const CHUNK_TIMEOUT_MS: u64 = 10_000;
/// The window that a transfer starts with, and falls back to when chunks were lost. Each chunk that arrives widens
/// it by one up to [`WINDOW`], which doubles it every round trip (slow start, RFC 5681): a slow link is not handed a
/// megabyte at once.
const START_WINDOW: usize = 2;
/// A transfer without any progress for this long ends the attempt.
pub const STALL_MS: u64 = 5 * 60 * 1000;
/// This many chunks with a wrong digest end the attempt.
const MAX_BAD: u32 = 16;

/// A blob on its way to disk. The data passes through; only the book-keeping stays.
#[derive(Debug, Clone)]
pub struct Download {
    blob: Blob,
    have: Vec<bool>,
    missing: usize,
    in_flight: BTreeMap<u32, u64>,
    window: usize,
    bad: u32,
    progress_at: u64,
}

/// What became of an arrived chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// New, whole and unchanged: write it.
    Accepted,
    /// Already there.
    Duplicate,
    /// Not the signed bytes.
    Bad,
}

impl Download {
    /// Goes on with `blob` where `have` says that chunks are already on disk.
    pub fn new(blob: Blob, have: Vec<bool>, now_ms: u64) -> Self {
        let mut have = have;
        have.resize(blob.chunks.len(), false);
        let missing = have.iter().filter(|h| !**h).count();
        Self { blob, have, missing, in_flight: BTreeMap::new(), window: START_WINDOW, bad: 0, progress_at: now_ms }
    }

    /// The blob.
    pub fn blob(&self) -> &Blob {
        &self.blob
    }

    /// Whether every chunk is on disk.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// The request that fills the window, if there is something to ask for now.
    pub fn request(&mut self, now_ms: u64) -> Option<Fetch> {
        let asked = self.in_flight.len();
        self.in_flight.retain(|_, asked_at| now_ms < asked_at.saturating_add(CHUNK_TIMEOUT_MS));
        if self.in_flight.len() < asked {
            self.window = START_WINDOW;
        }
        let room = self.window.saturating_sub(self.in_flight.len());
        // A request per chunk would double the messages; half a window at a time keeps the link busy.
        if room < self.window / 2 && self.missing > self.in_flight.len() && !self.in_flight.is_empty() {
            return None;
        }
        let indices: Vec<u32> = (0..self.have.len() as u32)
            .filter(|i| !self.have[*i as usize] && !self.in_flight.contains_key(i))
            .take(room)
            .collect();
        if indices.is_empty() {
            return None;
        }
        for index in &indices {
            self.in_flight.insert(*index, now_ms);
        }
        let object = Object::Blob(self.blob.digest);
        Some(Fetch::ChunksV1 { object, chunk_size: self.blob.chunk_size, indices, joined: true })
    }

    /// Takes note of an arrived chunk (invariant 1: only the signed bytes are accepted).
    pub fn arrived(&mut self, index: u32, data: &[u8], now_ms: u64) -> Arrival {
        match self.have.get(index as usize) {
            Some(true) => return Arrival::Duplicate,
            Some(false) if self.blob.accepts(index, data) => {}
            _ => {
                self.bad += 1;
                self.in_flight.remove(&index);
                return Arrival::Bad;
            }
        }
        self.have[index as usize] = true;
        self.missing -= 1;
        self.window = WINDOW.min(self.window + 1);
        self.in_flight.remove(&index);
        self.progress_at = now_ms;
        Arrival::Accepted
    }

    /// Everything asked for is lost with the connection: ask again at once.
    pub fn forget_in_flight(&mut self, now_ms: u64) {
        self.in_flight.clear();
        self.window = START_WINDOW;
        self.progress_at = now_ms;
    }

    /// Whether at least one chunk is on disk.
    pub fn has_some(&self) -> bool {
        self.missing < self.have.len()
    }

    /// Whether too many chunks were wrong.
    pub fn is_poisoned(&self) -> bool {
        self.bad >= MAX_BAD
    }

    /// Whether nothing has come for too long.
    pub fn is_stalled(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.progress_at) > STALL_MS
    }
}

/// A small object (metadata or a manifest) that is gathered in memory, never beyond its cap.
#[derive(Debug, Clone)]
pub struct Gather {
    object: Object,
    cap: u64,
    total: Option<u64>,
    parts: BTreeMap<u32, Vec<u8>>,
    asked_at: Option<u64>,
    started_at: u64,
}

/// What a frame did to a gathering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gathered {
    /// Not meant for it, or already there.
    Ignored,
    /// More is to come.
    More,
    /// All bytes.
    Whole(Vec<u8>),
    /// It claims to be larger than its cap.
    TooLarge {
        /// The claimed size in bytes.
        total: u64,
    },
}

impl Gather {
    /// Gathers `object`, which may have at most `cap` bytes.
    pub fn new(object: Object, cap: u64, now_ms: u64) -> Self {
        Self { object, cap, total: None, parts: BTreeMap::new(), asked_at: None, started_at: now_ms }
    }

    /// The object.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// The next request, if one is due.
    pub fn request(&mut self, now_ms: u64) -> Option<Fetch> {
        if self.asked_at.is_some_and(|at| now_ms < at.saturating_add(CHUNK_TIMEOUT_MS)) {
            return None;
        }
        self.asked_at = Some(now_ms);
        let count = self.total.map_or(1, |total| chunk_count(total, MAX_CHUNK)) as u32;
        let indices = (0..count).filter(|i| !self.parts.contains_key(i)).take(WINDOW).collect();
        Some(Fetch::ChunksV1 { object: self.object.clone(), chunk_size: MAX_CHUNK, indices, joined: false })
    }

    /// The connection was lost: ask again at once.
    pub fn forget_in_flight(&mut self) {
        self.asked_at = None;
    }

    /// Takes a chunk.
    pub fn arrived(&mut self, object: &Object, chunk_size: u32, index: u32, total: u64, data: &[u8]) -> Gathered {
        if *object != self.object || chunk_size != MAX_CHUNK {
            return Gathered::Ignored;
        }
        if total > self.cap {
            return Gathered::TooLarge { total };
        }
        if self.total.is_some_and(|known| known != total) {
            // The object was replaced while it was read (a new timestamp): begin again with the new one.
            self.parts.clear();
        }
        self.total = Some(total);
        if data.len() as u64 != chunk_len(total, MAX_CHUNK, index) || (data.is_empty() && total > 0) {
            return Gathered::Ignored;
        }
        self.parts.insert(index, data.to_vec());
        if (self.parts.len() as u64) < chunk_count(total, MAX_CHUNK) {
            if self.parts.len().is_multiple_of(WINDOW) || self.parts.len() == 1 {
                self.asked_at = None;
            }
            return Gathered::More;
        }
        Gathered::Whole(std::mem::take(&mut self.parts).into_values().flatten().collect())
    }

    /// Whether it takes too long.
    pub fn is_stalled(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.started_at) > STALL_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::id::Digest;
    use muster_proto::manifest::Codec;

    fn blob(chunks: usize) -> (Blob, Vec<u8>) {
        let bytes: Vec<u8> = (0..chunks * 1024).map(|i| (i % 251) as u8).collect();
        (Blob::describe(Codec::Stored, &bytes, 1024), bytes)
    }

    fn indices(fetch: Option<Fetch>) -> Vec<u32> {
        match fetch {
            Some(Fetch::ChunksV1 { indices, .. }) => indices,
            _ => Vec::new(),
        }
    }

    #[test]
    fn the_window_is_never_exceeded_and_everything_is_asked_for() {
        let (blob, bytes) = blob(40);
        let mut download = Download::new(blob, vec![], 0);
        let mut asked = indices(download.request(0));
        assert_eq!(asked.len(), START_WINDOW);
        let (mut seen, mut widest) = (0, 0);
        while let Some(index) = asked.pop() {
            let start = index as usize * 1024;
            assert_eq!(download.arrived(index, &bytes[start..start + 1024], 1), Arrival::Accepted);
            seen += 1;
            asked.extend(indices(download.request(1)));
            assert!(asked.len() <= WINDOW);
            widest = widest.max(asked.len());
        }
        assert_eq!((seen, widest), (40, WINDOW));
        assert!(download.is_complete());
    }

    #[test]
    fn invariant_1_wrong_bytes_are_not_accepted_and_poison_the_transfer() {
        let (blob, bytes) = blob(2);
        let mut download = Download::new(blob, vec![], 0);
        for _ in 0..MAX_BAD {
            assert_eq!(download.arrived(0, &[9; 1024], 0), Arrival::Bad);
        }
        assert!(download.is_poisoned());
        assert_eq!(download.arrived(7, &bytes[..1024], 0), Arrival::Bad);
    }

    #[test]
    fn lost_chunks_are_asked_for_again() {
        let (blob, _) = blob(3);
        let mut download = Download::new(blob, vec![true, false, false], 0);
        assert_eq!(indices(download.request(0)), [1, 2]);
        assert!(download.request(CHUNK_TIMEOUT_MS - 1).is_none());
        assert_eq!(indices(download.request(CHUNK_TIMEOUT_MS)), [1, 2]);
        download.forget_in_flight(CHUNK_TIMEOUT_MS);
        assert_eq!(indices(download.request(CHUNK_TIMEOUT_MS)), [1, 2]);
        assert!(!download.is_stalled(CHUNK_TIMEOUT_MS + STALL_MS));
        assert!(download.is_stalled(CHUNK_TIMEOUT_MS + STALL_MS + 1));
    }

    #[test]
    fn small_objects_are_gathered_within_their_cap() {
        let object = Object::Blob(Digest::of(b"m"));
        let size = MAX_CHUNK as usize + 10;
        let bytes = vec![5u8; size];
        let mut gather = Gather::new(object.clone(), size as u64, 0);
        assert_eq!(indices(gather.request(0)), [0]);
        let first = gather.arrived(&object, MAX_CHUNK, 0, size as u64, &bytes[..MAX_CHUNK as usize]);
        assert_eq!(first, Gathered::More);
        assert_eq!(indices(gather.request(0)), [1]);
        let short = gather.arrived(&object, MAX_CHUNK, 1, size as u64, &[5; 9]);
        assert_eq!(short, Gathered::Ignored);
        let last = gather.arrived(&object, MAX_CHUNK, 1, size as u64, &[5; 10]);
        assert_eq!(last, Gathered::Whole(bytes));
        let huge = gather.arrived(&object, MAX_CHUNK, 0, size as u64 + 1, &[]);
        assert_eq!(huge, Gathered::TooLarge { total: size as u64 + 1 });
    }
}
