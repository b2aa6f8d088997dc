//! Answers what devices fetch: metadata, chunks and deltas. It knows which objects exist, not what they mean.
//!
//! Requests go into bounded queues; one task sends, as fast as the link takes it. Whatever is lost or turned
//! away is asked for again.

mod cache;
mod delta;
mod queue;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use muster_proto::code::Code;
use muster_proto::id::{DeviceId, Workspace};
use muster_proto::topic::{Leaf, Topic};
use muster_proto::transfer::{Fetch, Frame, MAX_CHUNK, MIN_CHUNK, Metadata, Object, WINDOW, chunk_count};
use muster_proto::wire;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::blobs::{self, Blobs, Kind};
use crate::counters::Counters;
use crate::link::{Link, Retain};
use crate::storage::Storage;

use cache::Cache;
use delta::{Answer, Deltas, Query};
use queue::{Asked, Queue, Turn, Want};

/// Frames that are kept, in bytes.
const CACHE_BYTES: usize = 32 << 20;
/// The most files that a device may name in a question for a delta.
const MAX_HELD: usize = 16;
/// Questions for deltas that may wait.
const MAX_QUERIES: usize = 1024;
/// Answers that are no chunks and may wait.
const MAX_ANSWERS: usize = 1024;

/// Gives the published metadata, by version.
pub type MetadataSource = Arc<dyn Fn(&Metadata) -> Option<Vec<u8>> + Send + Sync>;

/// The service. Clones share it.
#[derive(Clone)]
pub struct Transfer(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    wake: Notify,
    queries: mpsc::Sender<Query>,
    counters: Counters,
    begun: Instant,
}

#[derive(Default)]
struct State {
    queue: Queue,
    answers: VecDeque<(DeviceId, Frame)>,
}

/// What the sending task works with.
pub struct Parts {
    /// The workspace, for topics.
    pub workspace: Workspace,
    /// Where blobs are.
    pub blobs: Blobs,
    /// Where files and deltas are known.
    pub storage: Storage,
    /// Where metadata comes from.
    pub metadata: MetadataSource,
    /// Counts what is refused.
    pub counters: Counters,
}

impl Transfer {
    /// The service, and what has to be started once there is a link.
    pub fn new(parts: Parts) -> (Self, Sender) {
        let (queries, asked) = mpsc::channel(MAX_QUERIES);
        let (answers, answered) = mpsc::channel(MAX_ANSWERS);
        Deltas::start(parts.storage.clone(), parts.blobs.clone(), answers, asked);
        let transfer = Self(Arc::new(Inner {
            state: Mutex::default(),
            wake: Notify::new(),
            queries,
            counters: parts.counters.clone(),
            begun: Instant::now(),
        }));
        let sender = Sender { transfer: transfer.clone(), parts, answered, cache: Cache::new(CACHE_BYTES) };
        (transfer, sender)
    }

    /// Takes a device's request. Never waits.
    pub fn request(&self, device: &DeviceId, fetch: Fetch) {
        match fetch {
            Fetch::ChunksV1 { object, chunk_size, indices, joined } => {
                if !(MIN_CHUNK..=MAX_CHUNK).contains(&chunk_size) || indices.len() > WINDOW {
                    self.0.counters.count("fetch_out_of_bounds");
                    return;
                }
                let asked = Asked { object, chunk_size, indices, joined };
                let refused = self.state().queue.push(device, &asked, self.now_ms());
                if refused > 0 {
                    self.0.counters.add("fetch_queue_full", refused as u64);
                }
                self.0.wake.notify_one();
            }
            Fetch::DeltaV1 { want, mut held } => {
                held.truncate(MAX_HELD);
                if self.0.queries.try_send(Query { device: device.clone(), want, held }).is_err() {
                    self.0.counters.count("delta_queue_full");
                    self.answer(device, Frame::DeltaV1 { want, offer: None });
                }
            }
        }
    }

    /// Forgets what a device waits for: it is gone.
    pub fn forget(&self, device: &DeviceId) {
        self.state().queue.forget(device, None);
    }

    /// Forgets what all wait for: the link was lost, and they ask again.
    pub fn forget_all(&self) {
        let mut state = self.state();
        state.queue.clear();
        state.answers.clear();
    }

    fn answer(&self, device: &DeviceId, frame: Frame) {
        let mut state = self.state();
        if state.answers.len() < MAX_ANSWERS {
            state.answers.push_back((device.clone(), frame));
        }
        drop(state);
        self.0.wake.notify_one();
    }

    fn next(&self) -> Option<Next> {
        let now = self.now_ms();
        let mut state = self.state();
        if let Some((device, frame)) = state.answers.pop_front() {
            return Some(Next::Answer(device, frame));
        }
        state.queue.pop(now).map(Next::Chunk)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.0.begun.elapsed().as_millis() as u64
    }
}

enum Next {
    Answer(DeviceId, Frame),
    Chunk(Turn),
}

/// The task that sends.
pub struct Sender {
    transfer: Transfer,
    parts: Parts,
    answered: mpsc::Receiver<Answer>,
    cache: Cache<Want>,
}

/// What became of a wanted chunk.
enum Piece {
    /// An encoded frame.
    Frame(Bytes),
    /// There is no such object.
    Missing,
    /// The object ends before it.
    Beyond,
}

impl Sender {
    /// Sends over `link` for ever.
    pub fn start(self, link: Link) -> JoinHandle<()> {
        tokio::spawn(self.run(link))
    }

    async fn run(mut self, link: Link) {
        loop {
            while let Ok(Answer { device, want, offer }) = self.answered.try_recv() {
                self.transfer.answer(&device, Frame::DeltaV1 { want, offer });
            }
            match self.transfer.next() {
                Some(Next::Answer(device, frame)) => self.send(&link, &device, &frame).await,
                Some(Next::Chunk(turn)) => self.serve(&link, turn).await,
                None => {
                    tokio::select! {
                        () = self.transfer.0.wake.notified() => {}
                        answer = self.answered.recv() => match answer {
                            Some(Answer { device, want, offer }) => {
                                self.transfer.answer(&device, Frame::DeltaV1 { want, offer });
                            }
                            None => return,
                        },
                    }
                }
            }
        }
    }

    async fn serve(&mut self, link: &Link, turn: Turn) {
        let Turn { want, devices } = turn;
        let frame = match self.piece(&want).await {
            Ok(Piece::Frame(frame)) => frame,
            Ok(Piece::Beyond) => {
                self.parts.counters.count("fetch_out_of_bounds");
                return;
            }
            Ok(Piece::Missing) => {
                for device in devices {
                    self.transfer.state().queue.forget(&device, Some(&want.object));
                    let missing = Frame::MissingV1 { object: want.object.clone(), code: Code::NotFound };
                    self.send(link, &device, &missing).await;
                }
                return;
            }
            Err(error) => {
                // The device asks again; perhaps the disk is back by then.
                tracing::warn!(object = ?want.object, %error, "a chunk could not be read");
                self.parts.counters.count("fetch_read_failed");
                return;
            }
        };
        let workspace = self.parts.workspace.clone();
        let topic = match (&devices[..], &want.object) {
            ([device], _) => Topic::device(workspace, device.clone(), Leaf::Chunk),
            (_, Object::Blob(digest)) => Topic::Bundle { workspace, digest: *digest },
            (_, Object::Metadata(_)) => return,
        };
        let sent = link.publish(&topic, Retain::No, frame).await;
        debug_assert!(sent.is_ok(), "the largest frame fits a message");
    }

    async fn piece(&mut self, want: &Want) -> Result<Piece, blobs::Error> {
        if let Some(frame) = self.cache.get(want) {
            return Ok(Piece::Frame(frame));
        }
        let start = u64::from(want.index) * u64::from(want.chunk_size);
        let end = start + u64::from(want.chunk_size);
        let (total, data) = match &want.object {
            Object::Metadata(which) => {
                let (source, which) = (Arc::clone(&self.parts.metadata), *which);
                let bytes = tokio::task::spawn_blocking(move || source(&which)).await.ok().flatten();
                let Some(bytes) = bytes.map(Bytes::from) else { return Ok(Piece::Missing) };
                let total = bytes.len() as u64;
                (total, bytes.slice(start.min(total) as usize..end.min(total) as usize))
            }
            Object::Blob(digest) => {
                let mut found = None;
                for kind in [Kind::Blob, Kind::Delta] {
                    if let Some(total) = self.parts.blobs.size(kind, *digest).await? {
                        found = Some((kind, total));
                        break;
                    }
                }
                let Some((kind, total)) = found else { return Ok(Piece::Missing) };
                let range = start.min(total)..end.min(total);
                let data = if range.is_empty() {
                    Bytes::new()
                } else {
                    self.parts.blobs.read_range(kind, *digest, range).await?
                };
                (total, data)
            }
        };
        // The first chunk of an empty object is empty too.
        if u64::from(want.index) >= chunk_count(total, want.chunk_size).max(1) {
            return Ok(Piece::Beyond);
        }
        let frame = Frame::ChunkV1 {
            object: want.object.clone(),
            chunk_size: want.chunk_size,
            index: want.index,
            total,
            data: data.into(),
        };
        let bytes = Bytes::from(wire::encode(&frame).unwrap_or_default());
        // The newest timestamp changes; everything else is named by version or digest.
        if want.object != Object::Metadata(Metadata::Timestamp) {
            self.cache.insert(want.clone(), bytes.clone());
        }
        Ok(Piece::Frame(bytes))
    }

    async fn send(&self, link: &Link, device: &DeviceId, frame: &Frame) {
        let Ok(bytes) = wire::encode(frame) else {
            self.parts.counters.count("answer_too_large");
            return;
        };
        let topic = Topic::device(self.parts.workspace.clone(), device.clone(), Leaf::Chunk);
        let _ = link.publish(&topic, Retain::No, bytes.into()).await;
    }
}
