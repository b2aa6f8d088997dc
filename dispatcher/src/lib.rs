//! placeholder
pub mod ca;
mod repeats;
pub mod tls;
