//! Can the configuration be read, and where is it?

use std::path::Path;

use super::Finding;
use crate::config::{Config, Error};

pub(super) fn check(path: &Path, config: Result<&Config, &Error>) -> Finding {
    match config {
        Ok(_) if path.exists() => Finding::ok("config", path.display().to_string()),
        Ok(config) => Finding::ok(
            "config",
            format!("defaults ({} does not exist), data in {}", path.display(), config.data.display()),
        ),
        Err(error) => {
            Finding::fail("config", error.to_string(), "mend the named key; `muster-agent --help` lists all keys")
        }
    }
}
