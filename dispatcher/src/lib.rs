//! placeholder

pub mod signer;
