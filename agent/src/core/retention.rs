//! What stays on the disk: active, previous, what is being fetched, and as many more versions as the
//! owner's budget allows.

use std::collections::BTreeSet;

use muster_proto::id::Digest;

use super::event::Effect;
use super::state::State;

impl State {
    /// Removes what nothing needs. `keep_bytes` is the budget for versions beyond those in use.
    pub(super) fn collect(&mut self, keep_bytes: u64, fx: &mut Vec<Effect>) {
        let used = self.manifests_in_use();
        let mut spare: Vec<_> = self.manifests.iter().filter(|(d, _)| !used.contains(d)).collect();
        // The newest first: the higher version of a model is the likelier base of a delta.
        spare.sort_by_key(|(_, m)| std::cmp::Reverse((m.created_at, m.version)));
        let mut keep: BTreeSet<Digest> = used;
        let mut bytes = 0u64;
        for (digest, manifest) in spare {
            bytes = bytes.saturating_add(manifest.total_size());
            if bytes <= keep_bytes {
                keep.insert(*digest);
            }
        }
        let manifests: Vec<Digest> = self.manifests.keys().filter(|d| !keep.contains(d)).copied().collect();
        self.manifests.retain(|d, _| keep.contains(d));
        let needed: BTreeSet<Digest> = self.manifests.values().flat_map(|m| m.files.iter().map(|f| f.digest)).collect();
        let files: Vec<Digest> = self.files.keys().filter(|d| !needed.contains(d)).copied().collect();
        self.files.retain(|d, _| needed.contains(d));
        if !manifests.is_empty() || !files.is_empty() {
            fx.push(Effect::Collect { manifests, files });
        }
    }
}
