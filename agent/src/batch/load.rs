//! The model of a run, from a bundle's folder.

use std::path::Path;

use muster_proto::code::Code;

use crate::engine::{Loaded, loaded};
use crate::serve::bundle::{self, Wanted};

/// Why a bundle is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not follow from the trust root, or was changed. A retry cannot help.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// The engine refuses it, or a golden sample gave another answer. A retry cannot help.
    #[error(transparent)]
    Load(#[from] loaded::Error),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Bundle(error) => error.code(),
            Error::Load(error) => error.code(),
        }
    }
}

/// Loads the bundle in `folder`, which has to follow from `root`, or from its own where there is none (invariant 1).
pub fn load(folder: &Path, root: Option<&[u8]>, wanted: &Wanted) -> Result<Loaded, Error> {
    let enclosed = match root {
        Some(root) => root.to_vec(),
        None => bundle::enclosed_root(folder)?,
    };
    let opened = bundle::open(folder, &enclosed, wanted)?;
    Ok(Loaded::load(&opened.folder, &opened.manifest, opened.digest)?)
}
