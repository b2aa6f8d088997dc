//! What crosses a wire or gets signed in Muster.
//!
//! This crate performs no I/O, reads no clock and draws no random numbers: bytes and times come in
//! as arguments, values and bytes go out. That is what lets the same code verify a bundle on a
//! device, in a pod, in the dispatcher and in the simulator.

#![warn(missing_docs)]

pub mod id;

pub mod code;
pub mod manifest;

pub mod trust;

pub mod desired;
pub mod enroll;
pub mod report;
pub mod transfer;

pub mod topic;
pub mod wire;
