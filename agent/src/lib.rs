//! The agent: the engine, and the daemon on the device.

pub mod core;
