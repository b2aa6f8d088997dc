//! Requests for chunks and metadata, and the frames that answer them. It does not know where either
//! side keeps them.

use serde::{Deserialize, Serialize};

use crate::code::Code;
use crate::id::Digest;
use crate::wire::Message;

/// The largest chunk in bytes.
pub const MAX_CHUNK: u32 = 64 * 1024;
/// The smallest chunk in bytes, of all but the last.
pub const MIN_CHUNK: u32 = 1024;
/// How many chunks may be asked for and not yet answered.
pub const WINDOW: usize = 16;
/// The most chunk digests in a delta offer, so that it fits one message.
pub const MAX_DELTA_CHUNKS: usize = 1800;

/// Something that can be fetched in chunks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Object {
    /// A blob (a manifest, a compressed file or a delta), by the digest of its bytes.
    Blob(Digest),
    /// Signed metadata.
    Metadata(Metadata),
}

/// Signed metadata, by role and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Metadata {
    /// The model repository's root of a version.
    Root(u64),
    /// The newest timestamp.
    Timestamp,
    /// The snapshot of a version.
    Snapshot(u64),
    /// The top-level targets of a version.
    Targets(u64),
    /// The director's root of a version.
    DirectorRoot(u64),
}

/// What a device asks of the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fetch {
    /// Chunks of an object.
    ChunksV1 {
        /// The object.
        object: Object,
        /// The chunk size in bytes, [`MIN_CHUNK`] to [`MAX_CHUNK`].
        chunk_size: u32,
        /// The wanted chunks, at most [`WINDOW`].
        indices: Vec<u32>,
        /// Whether the device has subscribed to the blob's bundle topic, so that a chunk may come there.
        joined: bool,
    },
    /// Is there a delta from a file that the device holds?
    DeltaV1 {
        /// The digest of the whole, uncompressed file that is wanted.
        want: Digest,
        /// The digests of whole files that the device holds, best guess first, at most 16.
        held: Vec<Digest>,
    },
}

/// What the dispatcher answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// One chunk.
    ChunkV1 {
        /// The object.
        object: Object,
        /// The chunk size in bytes that it was cut with.
        chunk_size: u32,
        /// The chunk's index.
        index: u32,
        /// The object's whole size in bytes.
        total: u64,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// There is no such object.
    MissingV1 {
        /// The object.
        object: Object,
        /// Why.
        code: Code,
    },
    /// The answer to [`Fetch::DeltaV1`].
    DeltaV1 {
        /// The digest of the whole file that was asked for.
        want: Digest,
        /// The best delta, or none that is smaller than the full file.
        offer: Option<Delta>,
    },
}

/// A delta: the wanted file, zstd-compressed with another file as prefix. Unsigned: only the digest of
/// the whole file that it gives is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The digest of the whole file that serves as prefix.
    pub base: Digest,
    /// The digest of the delta's bytes.
    pub digest: Digest,
    /// The delta's size in bytes.
    pub size: u64,
    /// The chunk size in bytes.
    pub chunk_size: u32,
    /// The digest of each chunk.
    pub chunks: Vec<Digest>,
}

/// What the dispatcher has made safe and a device may forget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ack {
    /// The first version.
    V1 {
        /// The ids of reports and telemetry windows.
        ids: Vec<u64>,
    },
}

/// How many chunks of `chunk_size` bytes an object of `size` bytes has; an empty object has none.
pub fn chunk_count(size: u64, chunk_size: u32) -> u64 {
    size.div_ceil(u64::from(chunk_size.max(1)))
}

/// The length in bytes of chunk `index`, or 0 beyond the end.
pub fn chunk_len(size: u64, chunk_size: u32, index: u32) -> u64 {
    let start = u64::from(index).saturating_mul(u64::from(chunk_size));
    size.saturating_sub(start).min(u64::from(chunk_size))
}

/// The chunk size for a blob of `size` bytes: small blobs get small chunks, so that a cut connection
/// loses little; large ones as large as a message allows.
pub fn chunk_size_for(size: u64) -> u32 {
    let wanted = (size / 32).next_power_of_two().clamp(4096, u64::from(MAX_CHUNK));
    u32::try_from(wanted).unwrap_or(MAX_CHUNK)
}

impl Message for Fetch {
    const NAME: &'static str = "fetch";
    const VARIANTS: u8 = 2;
    const MAX_BYTES: usize = 4096;
}

impl Message for Frame {
    const NAME: &'static str = "frame";
    const VARIANTS: u8 = 3;
}

impl Message for Ack {
    const NAME: &'static str = "ack";
    const VARIANTS: u8 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_an_object_exactly() {
        for (size, chunk_size) in [(0u64, 4096u32), (1, 4096), (4096, 4096), (4097, 4096), (1_000_000, 65_536)] {
            let count = chunk_count(size, chunk_size);
            let sum: u64 = (0..count).map(|i| chunk_len(size, chunk_size, i as u32)).sum();
            assert_eq!(sum, size);
            assert_eq!(chunk_len(size, chunk_size, count as u32), 0);
        }
        assert_eq!(chunk_len(u64::MAX, MAX_CHUNK, u32::MAX), u64::from(MAX_CHUNK));
    }

    #[test]
    fn chunk_sizes_are_within_their_bounds() {
        for size in [0, 1, 100_000, 1 << 20, 1 << 40] {
            assert!((MIN_CHUNK..=MAX_CHUNK).contains(&chunk_size_for(size)));
        }
    }

    #[test]
    fn the_largest_frame_and_offer_fit_a_message() {
        let chunk = Frame::ChunkV1 {
            object: Object::Blob(Digest::of(b"x")),
            chunk_size: MAX_CHUNK,
            index: u32::MAX,
            total: u64::MAX,
            data: vec![7; MAX_CHUNK as usize],
        };
        assert!(crate::wire::encode(&chunk).is_ok());
        let delta = Delta {
            base: Digest::of(b"a"),
            digest: Digest::of(b"b"),
            size: u64::MAX,
            chunk_size: MAX_CHUNK,
            chunks: vec![Digest::of(b"c"); MAX_DELTA_CHUNKS],
        };
        assert!(crate::wire::encode(&Frame::DeltaV1 { want: Digest::of(b"d"), offer: Some(delta) }).is_ok());
        let fetch = Fetch::DeltaV1 { want: Digest::of(b"d"), held: vec![Digest::of(b"e"); 16] };
        assert!(crate::wire::encode(&fetch).is_ok());
    }
}
