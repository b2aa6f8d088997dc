//! After the index was lost: the durable state, made anew from signed files and what is whole on disk.

use std::collections::BTreeMap;

use muster_proto::desired::Desired;
use muster_proto::id::Digest;
use muster_proto::manifest::BundleManifest;
use muster_proto::report::ModelRef;
use muster_proto::trust::{Repository, Verified};

use crate::core::Durable;
use crate::core::durable::{Attempt, SlotRecord};

/// What can be known again. In each desired slot answers the desired version if it is whole, else the newest
/// whole one of the same model; on trial, because nobody knows whether it was ever confirmed, with the next best to go
/// back to. Only verified manifests are ever stored, and of them only those count that the trusted
/// targets name (invariant 1); while the targets are about to be replaced, all.
pub fn rebuild(
    desired: Option<(&Verified<Desired>, &[u8])>,
    repository: &Repository,
    manifests: &BTreeMap<Digest, BundleManifest>,
    files: &BTreeMap<Digest, u64>,
    incarnation: u64,
) -> Durable {
    // Whatever ended the process is not held against what is tried now.
    let mut durable = Durable { incarnation, clean_stop: true, ..Durable::default() };
    let Some((desired, signed)) = desired else { return durable };
    durable.generation = desired.generation;
    durable.time_floor = desired.issued_at;
    durable.signed_desired = signed.to_vec();
    let between = repository.missing().is_some();
    let signed_as = |digest: &Digest, manifest: &BundleManifest| {
        between || repository.target(&manifest.target_path()).is_some_and(|t| t.digest == *digest)
    };
    let usable: Vec<(&Digest, &BundleManifest)> = manifests
        .iter()
        .filter(|(digest, m)| signed_as(digest, m) && m.files.iter().all(|f| files.get(&f.digest) == Some(&f.size)))
        .collect();
    for want in &desired.slots {
        let model = muster_proto::manifest::parse_target_path(&want.target).map(|(model, _)| model);
        let mut others: Vec<_> = usable.iter().filter(|(_, m)| Some(&m.model) == model.as_ref()).collect();
        others.sort_by_key(|(digest, m)| (**digest != want.digest, std::cmp::Reverse(m.version)));
        let mut best = others.into_iter().map(|(digest, m)| ModelRef { target: m.target_path(), digest: **digest });
        let (active, previous) = (best.next(), best.next());
        let attempt = |version: &ModelRef| Attempt { digest: version.digest, unclean_ends: 0 };
        let (trial, previous_trial) = (active.as_ref().map(attempt), previous.as_ref().map(attempt));
        let record = SlotRecord { active, previous, trial, previous_trial, ..SlotRecord::default() };
        durable.slots.insert(want.slot.clone(), record);
    }
    durable
}
