//! The agent's decisions: desired state in, effects out. Pure and synchronous: no I/O, no clock, no
//! randomness, no logging. The driver carries effects out and brings their results back as events.

pub mod backoff;
pub mod durable;
pub mod event;
pub mod fetch;
pub mod outbox;
pub mod state;

mod boot;
mod hold;
mod install;
mod report;
mod retention;
mod slot;
mod step;
mod walk;
mod window;

pub use durable::Durable;
pub use event::{Effect, Event};
pub use hold::Veto;
pub use state::{Identity, Limits, State};
pub use step::step;

#[cfg(test)]
mod tests;

/// The time of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never jumps, for deadlines.
    pub mono_ms: u64,
    /// Seconds since 1970 as the device believes, for expiry where time is trusted.
    pub wall_s: u64,
}
