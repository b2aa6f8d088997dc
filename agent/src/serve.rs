//! The scoring server: many services in one process, from bundles that follow from a trust root. It assembles what `api`
//! and `engine` do and adds where versions come from; it knows no broker and no rollout.

pub mod admin;
pub mod bundle;
pub mod config;
pub mod desk;
pub mod fetch;
pub mod metadata;
pub mod run;

pub use config::Document;
pub use run::{Error, Scoring, start};

#[cfg(test)]
mod tests;
