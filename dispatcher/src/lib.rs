//! The cloud side of Muster: registers models, signs them, rolls them out and keeps track of devices.

pub mod config;

pub mod app;
pub mod serve;

pub mod cluster;
pub mod control;
pub use muster_domain as domain;
pub mod driver;
pub mod image;
pub mod registry;
pub mod services;
pub mod transfer;

pub mod blobs;
pub mod link;
pub mod storage;

pub mod acl;
pub mod broker;
pub mod ca;
pub mod signer;
mod signing;
pub mod tls;

mod counters;
mod repeats;

pub mod http;

pub mod cli;
pub mod host;

#[cfg(test)]
mod golden;

/// The time in seconds since 1970.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}
