//! placeholder
pub mod ca;
