//! placeholder
pub mod broker;
pub mod ca;
mod repeats;
pub mod tls;
