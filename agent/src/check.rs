//! One read-only check per file: what could keep this device from working, in one line each, with what to
//! do about it. Nothing here mends anything.

mod broker;
mod clock;
mod config;
mod disk;
mod engine;
mod identity;
mod store;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::Config;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but somebody should look.
    Warn,
    /// Does not work.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub check: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do, empty where nothing is to be done.
    pub next: String,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, message: message.into(), next: String::new() }
    }

    fn warn(check: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, message: message.into(), next: next.into() }
    }

    fn fail(check: &'static str, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, message: message.into(), next: next.into() }
    }
}

/// Runs every check. `path` is where the configuration was sought, `config` what came of it.
pub fn all(path: &Path, config: Result<&Config, &crate::config::Error>) -> Vec<Finding> {
    let mut findings = vec![config::check(path, config)];
    let Ok(config) = config else { return findings };
    let identity = crate::identity::Identity::load(&crate::run::identity_dir(&config.data));
    findings.push(identity::check(&identity));
    findings.push(clock::check());
    findings.push(disk::check(config));
    findings.push(broker::check(&identity));
    let store: PathBuf = crate::run::store_dir(&config.data);
    findings.push(store::check(&store));
    findings.push(engine::check(&store));
    findings
}
