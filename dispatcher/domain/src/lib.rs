//! The rules: what is registered, who gets what, and what follows from each event.
//!
//! Synchronous and total: no I/O, no clock, no randomness. The driver feeds [`fleet::step`] and carries
//! out what it answers; tests feed it by the million.

pub mod device;
pub mod fleet;
pub mod notice;
pub mod registry;
pub mod rollout;
pub mod service;
pub mod telemetry;

pub use device::{Assignment, Device, Group, Proven};
pub use fleet::{Denied, Effect, Event, Fleet};
pub use notice::{DeviceChange, WatchEvent};
pub use rollout::{DevicePhase, Part, Rollout, RolloutId, RolloutStatus};

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests;
