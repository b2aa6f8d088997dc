//! Requests as callers send them, answered by real models.

mod clients;
mod errors;
mod listening;
mod metrics;
mod observe;
mod protocol;
mod rows;
mod scoring;
mod scripts;
pub mod support;
mod veto;
