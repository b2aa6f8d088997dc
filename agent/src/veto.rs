//! Vetoes: somebody at the device asks to wait with switches, by the local API for a while, or by a file for as long
//! as it lies there. What a veto counts for is the core's matter.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::core::Veto;

/// The longest veto by the API.
pub const MAX: Duration = Duration::from_secs(86_400);
/// The longest reason in bytes.
pub const MAX_REASON: usize = 200;

/// Where vetoes are put down.
#[derive(Debug)]
pub struct Vetoes {
    file: PathBuf,
    asked: Mutex<Option<Asked>>,
}

#[derive(Debug)]
struct Asked {
    until: Instant,
    reason: String,
}

impl Vetoes {
    /// None by the API so far; `file` is one where it exists.
    pub fn new(file: PathBuf) -> Self {
        Self { file, asked: Mutex::default() }
    }

    /// Where the file would lie.
    pub fn file(&self) -> &std::path::Path {
        &self.file
    }

    /// Asks to wait from now on for `time`, in the place of what was asked before.
    pub fn ask(&self, time: Duration, reason: &str) {
        *self.lock() = Some(Asked { until: Instant::now() + time.min(MAX), reason: clip(reason) });
    }

    /// Takes back what was asked by [`Vetoes::ask`].
    pub fn take_back(&self) {
        *self.lock() = None;
    }

    /// What was asked by [`Vetoes::ask`], and how much longer it holds.
    pub fn asked(&self) -> Option<(Duration, String)> {
        let mut asked = self.lock();
        let left = asked.as_ref().map(|a| a.until.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            *asked = None;
        }
        asked.as_ref().zip(left).map(|(asked, left)| (left, asked.reason.clone()))
    }

    /// The reason in the file, where it exists.
    pub fn filed(&self) -> Option<String> {
        // Anything of this name is a veto; only of plain files is the first line read.
        let found = std::fs::symlink_metadata(&self.file).ok()?;
        let mut text = Vec::new();
        if found.is_file()
            && let Ok(file) = File::open(&self.file)
        {
            let _ = file.take(4 * MAX_REASON as u64).read_to_end(&mut text);
        }
        Some(clip(String::from_utf8_lossy(&text).lines().next().unwrap_or_default()))
    }

    /// The veto that holds now: the API's, or else the file's.
    pub fn current(&self) -> Option<Veto> {
        let reason = self.asked().map(|(_, reason)| reason).or_else(|| self.filed())?;
        Some(Veto { reason })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reason as it is reported: one line, without control characters.
fn clip(reason: &str) -> String {
    let line: String = reason.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let end = (0..=MAX_REASON.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    line[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_veto_comes_from_the_api_or_a_file() {
        let dir = tempfile::tempdir().expect("temp dir");
        let vetoes = Vetoes::new(dir.path().join("veto"));
        let reason = || vetoes.current().map(|v| v.reason);
        assert_eq!(reason(), None);
        std::fs::write(vetoes.file(), "harvest\nuntil Friday\n").expect("written");
        assert_eq!(reason().as_deref(), Some("harvest"));
        vetoes.ask(Duration::from_secs(60), "a\u{7}demonstration ");
        assert_eq!(reason().as_deref(), Some("a demonstration"));
        assert!(vetoes.asked().is_some_and(|(left, _)| left > Duration::from_secs(50)));
        vetoes.take_back();
        assert_eq!(reason().as_deref(), Some("harvest"), "the file stays");
        std::fs::write(vetoes.file(), "ä".repeat(5000)).expect("written");
        assert_eq!(reason().map(|r| r.len()), Some(MAX_REASON));
        std::fs::remove_file(vetoes.file()).expect("removed");
        vetoes.ask(Duration::ZERO, "over");
        assert_eq!(reason(), None);
        std::fs::create_dir(vetoes.file()).expect("made");
        assert_eq!(reason().as_deref(), Some(""), "whatever it is");
    }
}
