//! The dispatcher's answers to what devices fetch, and what can be wrong with them.

use muster_proto::code::Code;
use muster_proto::id::Digest;
use muster_proto::transfer::{Delta, Fetch, Frame, MAX_CHUNK, Object};

use super::authority::Authority;
use super::catalogue::{Catalogue, describe_delta};
use super::cloud::Cloud;
use super::rng::Rng;

/// How dishonest or clumsy the dispatcher is, in so many of 1000 cases.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sloppiness {
    /// A chunk has other bytes.
    pub corrupt: u32,
    /// A delta does not give the wanted file, or is described wrongly.
    pub wrong_delta: u32,
    /// No delta is offered though there is one.
    pub no_delta: u32,
    /// A chunk goes to everybody who has joined.
    pub broadcast: u32,
    /// An object that is there is said to be missing.
    pub missing: u32,
    /// A chunk claims that its object is huge.
    pub huge: u32,
}

/// The frames that answer `fetch`.
pub fn answer(cloud: &mut Cloud, authority: &Authority, sloppy: Sloppiness, fetch: Fetch, rng: &mut Rng) -> Vec<Frame> {
    match fetch {
        Fetch::ChunksV1 { object, chunk_size, indices, .. } => {
            let bytes = read(cloud, authority, &object).filter(|_| !rng.chance(sloppy.missing));
            let Some(bytes) = bytes else { return vec![Frame::MissingV1 { object, code: Code::NotFound }] };
            let mut frames = Vec::new();
            for index in indices {
                let size = chunk_size.clamp(1, MAX_CHUNK) as usize;
                let start = index as usize * size;
                let end = bytes.len().min(start + size);
                let Some(chunk) = bytes.get(start..end) else { continue };
                let mut data = chunk.to_vec();
                if rng.chance(sloppy.corrupt) && !data.is_empty() {
                    let at = rng.below(data.len() as u64) as usize;
                    data[at] ^= 1 << rng.below(8);
                }
                let total = if rng.chance(sloppy.huge) { u64::MAX } else { bytes.len() as u64 };
                frames.push(Frame::ChunkV1 { object: object.clone(), chunk_size, index, total, data });
            }
            frames
        }
        Fetch::DeltaV1 { want, held } => {
            let none = rng.chance(sloppy.no_delta);
            let deltas = &Catalogue::shared().deltas;
            let best = held.iter().find_map(|base| deltas.get(&(*base, want))).filter(|_| !none).cloned();
            let wrong = rng.chance(sloppy.wrong_delta);
            let offer = if wrong { Some(forge(cloud, &held, best, rng)) } else { best };
            vec![Frame::DeltaV1 { want, offer }]
        }
    }
}

fn read(cloud: &Cloud, authority: &Authority, object: &Object) -> Option<Vec<u8>> {
    match object {
        Object::Metadata(which) => authority.metadata(which, cloud.registered),
        Object::Blob(digest) => {
            let known = Catalogue::shared().blobs.get(digest).map(|bytes| bytes.to_vec());
            known.or_else(|| cloud.forged.get(digest).cloned())
        }
    }
}

/// A delta that leads nowhere.
fn forge(cloud: &mut Cloud, held: &[Digest], honest: Option<Delta>, rng: &mut Rng) -> Delta {
    let base = held.first().copied().unwrap_or(Digest([0; 32]));
    let bytes = rng.bytes(3000);
    let mut delta = describe_delta(base, &bytes);
    match rng.below(4) {
        0 => delta.size = u64::MAX,
        1 => delta.base = Digest([7; 32]),
        2 => delta.chunks.truncate(1),
        _ => {}
    }
    cloud.forged.insert(delta.digest, bytes);
    match honest {
        // The right description of a delta against another base.
        Some(honest) if rng.chance(300) => Delta { base: *rng.pick(held), ..honest },
        _ => delta,
    }
}
