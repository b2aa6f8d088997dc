//! Are the stored manifests and files whole? The index is left alone: only its owner opens it.

use std::path::Path;

use super::Finding;
use crate::store::Files;

pub(super) fn check(dir: &Path) -> Finding {
    if !dir.exists() {
        return Finding::ok("store", "nothing is stored yet");
    }
    let Some(files) = Files::existing(dir) else {
        return Finding::warn("store", format!("{} has no store in it", dir.display()), "it is made at the next start");
    };
    let (manifests, broken) = match files.inspect() {
        Ok(found) => found,
        Err(error) => {
            return Finding::fail("store", error.failure().detail, "check that this user may read the folder");
        }
    };
    if !broken.is_empty() {
        let message = format!("{} damaged: {}", broken.len(), broken.join(", "));
        return Finding::fail("store", message, "restart the agent: it removes and fetches again what is damaged");
    }
    if dir.join("index.broken").exists() {
        let message = format!("{manifests} versions whole; an earlier index was damaged and moved to index.broken");
        return Finding::warn("store", message, "check the storage medium, then remove the folder index.broken");
    }
    Finding::ok("store", format!("{manifests} versions, every file has its digest"))
}
