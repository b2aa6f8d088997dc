//! The scoring script: a WebAssembly module of the bundle that makes the model's inputs of a request, and an answer of
//! its outputs. What it may cost is part of what is signed, and is the same on every machine.

use serde::{Deserialize, Serialize};

use crate::id::FilePath;

/// The largest module in bytes.
pub const MAX_MODULE: u64 = 4 << 20;
/// The most fuel for one call. A unit is about one instruction; a Raspberry Pi 4 burns very roughly 10⁸ a second.
pub const MAX_FUEL: u64 = 10_000_000_000;
/// The most memory of one call, in bytes.
pub const MAX_MEMORY: u64 = 512 << 20;
/// Less memory than this, in bytes, is none: WebAssembly counts in pages of 64 KiB.
pub const MIN_MEMORY: u64 = 64 << 10;

/// A scoring script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The module, a file of the bundle.
    pub file: FilePath,
    /// Which functions of it are called; at least one.
    pub hooks: Vec<Hook>,
    /// What one call may cost.
    #[serde(default)]
    pub limits: ScriptLimits,
}

/// A function of a scoring script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// From what a caller sends to what plain scoring takes.
    Preprocess,
    /// From what plain scoring gives to what the caller gets.
    Postprocess,
}

impl Hook {
    /// Every hook.
    pub const ALL: &[Hook] = &[Hook::Preprocess, Hook::Postprocess];

    /// The name under which a module exports it.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Preprocess => "preprocess",
            Hook::Postprocess => "postprocess",
        }
    }
}

/// What one call of a scoring script may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScriptLimits {
    /// Units of work, about one for each instruction; at most [`MAX_FUEL`].
    pub fuel: u64,
    /// Memory in bytes, from [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory_bytes: u64,
}

impl Default for ScriptLimits {
    fn default() -> Self {
        Self { fuel: 500_000_000, memory_bytes: 64 << 20 }
    }
}

impl Script {
    /// Checks it, with its module of `size` bytes.
    pub(super) fn check(&self, size: u64) -> Result<(), String> {
        let Self { hooks, limits, .. } = self;
        if hooks.is_empty() || hooks.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("its hooks are preprocess, postprocess, or both in this order".into());
        }
        if size > MAX_MODULE {
            return Err(format!("{size} bytes, at most {MAX_MODULE} are allowed"));
        }
        if !(1..=MAX_FUEL).contains(&limits.fuel) {
            return Err(format!("fuel of {} is not within 1 to {MAX_FUEL}", limits.fuel));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&limits.memory_bytes) {
            return Err(format!("memory of {} bytes is not within {MIN_MEMORY} to {MAX_MEMORY}", limits.memory_bytes));
        }
        Ok(())
    }
}
