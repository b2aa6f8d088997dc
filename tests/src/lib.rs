//! End to end, simulation and fault injection; never published.

pub mod inprocess;
pub mod processes;
pub mod world;
