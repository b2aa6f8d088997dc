//! The rollout simulator: the real engine (`muster_dispatcher::domain::rollout`) against a modelled fleet of up to a
//! million devices, on a virtual clock of whole seconds, everything from one seed.
//!
//! What is real: the engine's `step`, its plans, its evidence and its stored form, and on some of the devices the agent's
//! core with signed metadata ([`real`]). What is modelled: the other devices ([`agent`], [`compact`]), when they are connected ([`presence`]), links ([`network`]), what versions do
//! ([`version`], [`figures`]), the fleet's desired states and who has a device's slot ([`cloud`]), the store with its
//! fencing token and what a crash leaves of it ([`store`]), and operators' words ([`scenario`]). Messages are counted,
//! not built. The other simulation (`crate::world`) is the one for the real agent core and the real wire: it is a
//! thousand times smaller and a hundred times closer.
//!
//! Data runs one way: the queue gives what happens, the device or the cloud takes it, what follows is planned.
//! [`checks`] looks at every step, [`settle`] at the end; a breach names the invariant of design.md by its number.
//!
//! [`baseline`] has other engines behind the same devices, links and versions, to compare with.

pub mod agent;
pub mod baseline;
pub mod chance;
pub mod checks;
pub mod cloud;
pub mod compact;
pub mod compare;
pub mod desired;
pub mod figures;
pub mod fleet;
pub mod memory;
pub mod network;
pub mod outcome;
pub mod presence;
pub mod queue;
pub mod real;
pub mod scenario;
pub mod seeds;
pub mod settle;
pub mod store;
pub mod version;
pub mod windows;
pub mod world;

mod arbiter;
mod crash;
mod operators;
mod power;
mod radio;
mod telemetry;

#[cfg(test)]
mod tests;

pub use outcome::Outcome;
pub use real::Share;
pub use scenario::Scenario;
pub use world::{simulate, simulate_with};

/// Seconds since 1970 at which virtual time begins, unless the scenario says otherwise: 2026-03-02T00:00:00Z, a Monday.
pub const EPOCH: u64 = 1_772_409_600;
