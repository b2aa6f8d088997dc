//! The engine against a toy fleet, on a clock that the tests turn.

mod bench;
mod ends;
mod explain;
mod forecast;
mod gates;
mod invariants;
mod line;
mod metrics;
mod overlap;
mod pace;
mod prestage;
mod recount;
mod retry;
mod shadow;
mod silence;

pub use bench::{Bench, Kind, device, plan};
