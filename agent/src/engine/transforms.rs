//! The declared steps between what a caller sends and the model's input, and between the model's output
//! and an answer. They are data of the manifest: nothing here is code of a publisher.

use muster_proto::code::Code;

mod check;
mod input;
mod output;

pub use check::check;
pub use input::{MAX_BYTES, MAX_SIDE, Source, apply_inputs};
pub use output::{Answer, Ranked, apply_outputs};

/// Why a transform could not be applied. A retry with the same data cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are no PNG or JPEG image, or a damaged one.
    #[error("the image cannot be decoded: {0}")]
    Image(String),
    /// The image is over a limit that keeps small files from filling the memory.
    #[error("the image is too large: {0}")]
    TooLarge(String),
    /// A step got data of a form that it does not take.
    #[error("{step}: wanted {wanted}, got {got}")]
    Form {
        /// The step.
        step: &'static str,
        /// What it takes.
        wanted: String,
        /// What it got.
        got: String,
    },
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::Image(_) | Error::Form { .. } => Code::InputInvalid,
            Error::TooLarge(_) => Code::TooLarge,
        }
    }
}

#[cfg(test)]
mod tests;
