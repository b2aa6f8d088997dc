//! The cloud side of Muster: registers models, signs them, rolls them out and keeps track of devices.

pub mod app;

pub mod domain;
pub mod driver;

pub mod blobs;
mod counters;
pub mod link;
mod signing;
pub mod storage;
pub mod transfer;

pub mod broker;
pub mod ca;
mod repeats;
pub mod signer;
pub mod tls;

/// The time in seconds since 1970.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}
