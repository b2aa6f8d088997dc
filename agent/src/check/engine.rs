//! Does the engine load what is stored, and do its golden samples pass here?

use std::path::Path;

use super::Finding;
use crate::engine::{Loaded, NAME, VERSION};
use crate::store::Files;

pub(super) fn check(dir: &Path) -> Finding {
    let engine = format!("{NAME} {VERSION} on {}", std::env::consts::ARCH);
    let Some(files) = Files::existing(dir) else { return Finding::ok("engine", engine) };
    let mut passed = 0;
    for (digest, manifest, folder) in files.laid_out() {
        if let Err(error) = Loaded::load(&folder, &manifest, digest) {
            let message = format!("{engine}: {} {}: {error}", manifest.model, manifest.version);
            return Finding::fail("engine", message, error.code().next_step());
        }
        passed += 1;
    }
    Finding::ok("engine", format!("{engine}, {passed} stored versions load and pass their golden samples"))
}
