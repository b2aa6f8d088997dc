//! End to end, simulation and fault injection; never published.

pub mod inprocess;
pub mod plans;
pub mod processes;
pub mod simulate;
pub mod world;
