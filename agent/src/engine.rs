//! The engine: loads, optimises and runs models, applies their transforms, probes them with golden
//! samples and keeps the slots where they answer. It is the only user of tract, and knows no network,
//! no store and no policy about versions.
//!
//! A model reaches this module only after its bytes were verified (invariant 1), or from an operator
//! who registers it.

mod batch;
mod guard;
mod onnx;
mod plan;
mod tensor;

pub mod model;

pub mod import;
pub mod probe;
mod synthetic;

pub mod json;
pub mod script;
pub mod transforms;

pub mod executor;
pub mod loaded;
pub mod sample;
pub mod shadow;
pub mod sketch;
pub mod slots;
pub mod stats;
pub mod together;

pub use executor::Executor;
pub use loaded::Loaded;
pub use model::Model;
pub use muster_proto::manifest::Tensor;
pub use slots::Slots;
pub use synthetic::synthetic_inputs;

/// The engine's name in manifests and reports.
pub const NAME: &str = "tract";
/// The engine's version in manifests and reports.
pub const VERSION: &str = "0.23.9";

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_the_one_that_is_linked() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).expect("Cargo.lock");
        let entry = lock.split("[[package]]").find(|p| p.contains("name = \"tract-onnx\"")).expect("tract-onnx");
        assert!(entry.contains(&format!("version = \"{}\"", super::VERSION)), "{entry}");
    }
}
