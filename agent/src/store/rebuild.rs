//! After the index was lost: the durable state, made anew from signed files and what is whole on disk.

use std::collections::BTreeMap;

use muster_proto::desired::Desired;
use muster_proto::id::Digest;
use muster_proto::manifest::BundleManifest;
use muster_proto::report::ModelRef;
use muster_proto::trust::{Repository, Verified};

use crate::core::Durable;
use crate::core::durable::SlotRecord;

/// What can be known again. In each desired slot answers the desired version if it is whole, else the newest
/// whole one of the same model; only manifests that the trusted targets name count (invariant 1).
pub fn rebuild(
    desired: Option<(&Verified<Desired>, &[u8])>,
    repository: &Repository,
    manifests: &BTreeMap<Digest, BundleManifest>,
    files: &BTreeMap<Digest, u64>,
    incarnation: u64,
) -> Durable {
    let mut durable = Durable { incarnation, ..Durable::default() };
    let Some((desired, signed)) = desired else { return durable };
    durable.generation = desired.generation;
    durable.time_floor = desired.issued_at;
    durable.signed_desired = signed.to_vec();
    let signed_as = |digest: &Digest, manifest: &BundleManifest| {
        repository.target(&manifest.target_path()).is_some_and(|t| t.digest == *digest)
    };
    let usable: Vec<(&Digest, &BundleManifest)> = manifests
        .iter()
        .filter(|(digest, m)| signed_as(digest, m) && m.files.iter().all(|f| files.get(&f.digest) == Some(&f.size)))
        .collect();
    for want in &desired.slots {
        let model = muster_proto::manifest::parse_target_path(&want.target).map(|(model, _)| model);
        let wanted = usable.iter().find(|(digest, _)| **digest == want.digest);
        let others = usable.iter().filter(|(_, m)| Some(&m.model) == model.as_ref());
        let best = wanted.or_else(|| others.max_by_key(|(_, m)| m.version));
        let active = best.map(|(digest, m)| ModelRef { target: m.target_path(), digest: **digest });
        durable.slots.insert(want.slot.clone(), SlotRecord { active, ..SlotRecord::default() });
    }
    durable
}
