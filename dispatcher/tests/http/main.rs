//! The HTTP API over the real dispatcher, without a network: requests go straight into the router.

#![allow(clippy::unwrap_used)]

mod access;
mod events;
mod fixture;
mod requests;
mod resources;
