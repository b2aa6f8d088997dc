//! OCI images of models, without Docker: the static agent, a bundle and a configuration become a layout, an archive,
//! or a tag in a registry. It must not know how bundles are registered or served.
//!
//! The same recipe gives the same bytes. An image has four layers, so that a registry keeps each part once: the base
//! and the agent (equal for all models), the bundle (equal for all platforms), and the small rest.

pub mod archive;
pub mod auth;
pub mod build;
pub mod document;
mod input;
pub mod layout;
pub mod name;
pub mod platform;
pub mod push;
pub mod sbom;
mod tarball;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use build::{Built, Recipe, build};
pub use layout::Layout;
pub use name::Name;
pub use platform::Platform;
