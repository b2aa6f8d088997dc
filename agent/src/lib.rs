//! The agent: the engine, and the daemon on the device.
//!
//! Data runs one way: an adapter (link, store, engine, api) makes an event of what happened, the pure
//! [`core`] answers with effects, the [`driver`] carries them out. Adapters never call one another.

pub mod api;
pub mod batch;
pub mod cli;
pub mod collect;
pub mod otlp;
pub mod run;

pub mod config;
pub mod enroll;
pub mod identity;

pub mod core;
pub mod driver;

pub mod engine;
pub mod link;
pub mod serve;
pub mod store;
pub mod veto;
pub mod vitals;

pub mod check;

use std::sync::Once;

/// Makes ring the process's provider of cryptography, once; without a choice rustls refuses to work.
pub fn ensure_crypto_provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another part of the process may have chosen before.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
