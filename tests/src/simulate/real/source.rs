//! Where a device with the real core fetches from: the dispatcher, or somebody who took it over.

use std::collections::BTreeMap;

use muster_agent::core::Event;
use muster_proto::code::Code;
use muster_proto::id::Digest;
use muster_proto::transfer::{Fetch, Frame, Object};
use muster_proto::trust::testing::Publisher;

use super::bundles::{Bundles, metadata};

/// What a device can fetch: what is signed, and what an intruder puts in its place.
pub struct Source<'a> {
    /// Whose metadata.
    pub publisher: &'a Publisher,
    /// What there is.
    pub bundles: &'a Bundles,
    /// What comes in the place of blobs.
    pub swapped: BTreeMap<Digest, Vec<u8>>,
}

impl<'a> Source<'a> {
    /// Honest.
    pub fn honest(bundles: &'a Bundles) -> Self {
        Self { publisher: &bundles.publisher, bundles, swapped: BTreeMap::new() }
    }

    fn read(&self, object: &Object) -> Option<Vec<u8>> {
        match object {
            Object::Metadata(which) => metadata(self.publisher, *which),
            Object::Blob(digest) => self.swapped.get(digest).or_else(|| self.bundles.blobs.get(digest)).cloned(),
        }
    }

    /// The frames that answer a request.
    pub fn answer(&self, fetch: &Fetch) -> Vec<Event> {
        let Fetch::ChunksV1 { object, chunk_size, indices, .. } = fetch else { return Vec::new() };
        let Some(bytes) = self.read(object) else {
            return vec![Event::FrameArrived(Frame::MissingV1 { object: object.clone(), code: Code::NotFound })];
        };
        let total = bytes.len() as u64;
        let chunk = |index: &u32| {
            let start = *index as usize * *chunk_size as usize;
            let data = bytes.get(start..bytes.len().min(start + *chunk_size as usize))?.to_vec();
            let (object, chunk_size, index) = (object.clone(), *chunk_size, *index);
            Some(Event::FrameArrived(Frame::ChunkV1 { object, chunk_size, index, total, data }))
        };
        indices.iter().filter_map(chunk).collect()
    }
}
