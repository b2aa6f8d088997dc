//! Why a run ends, and why a row has no answer.

use std::fmt;
use std::io;
use std::path::Path;

use muster_proto::code::Code;

/// Why a run ends before its last row. Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was asked for cannot be done. A retry with the same cannot help.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
        /// What to do next.
        next: String,
    },
    /// An input cannot be read, or is not what its name says. A retry helps once it was mended.
    #[error("{what}")]
    Input {
        /// What is wrong, with the file.
        what: String,
        /// What to do next.
        next: String,
    },
    /// The results cannot be written. A retry may help.
    #[error("{what}")]
    Output {
        /// What is wrong, with the file.
        what: String,
        /// What to do next.
        next: String,
        /// The stable code.
        code: Code,
    },
    /// The output holds another run. A retry with the same cannot help.
    #[error("{what}")]
    Conflict {
        /// What is wrong.
        what: String,
        /// What to do next.
        next: String,
    },
    /// More rows failed than were allowed. A retry helps once the rows were mended or more are allowed.
    #[error("{what}")]
    TooMany {
        /// What is wrong.
        what: String,
        /// What to do next.
        next: String,
    },
    /// A URL cannot be read or written. A retry may help.
    #[error("{what}")]
    Transfer {
        /// What is wrong.
        what: String,
        /// What to do next.
        next: String,
    },
    /// A mistake of this program.
    #[error("{what}")]
    Internal {
        /// What is wrong.
        what: String,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Usage { .. } => Code::BadRequest,
            Error::Input { .. } | Error::TooMany { .. } => Code::InputInvalid,
            Error::Output { code, .. } => *code,
            Error::Conflict { .. } => Code::Conflict,
            Error::Transfer { .. } => Code::TransferStalled,
            Error::Internal { .. } => Code::Internal,
        }
    }

    /// What a person does next.
    pub fn next_step(&self) -> &str {
        match self {
            Error::Usage { next, .. }
            | Error::Input { next, .. }
            | Error::Output { next, .. }
            | Error::Conflict { next, .. }
            | Error::TooMany { next, .. }
            | Error::Transfer { next, .. } => next,
            Error::Internal { .. } => Code::Internal.next_step(),
        }
    }

    /// Wrong arguments.
    pub(super) fn usage(what: impl Into<String>, next: impl Into<String>) -> Self {
        Error::Usage { what: what.into(), next: next.into() }
    }

    /// An input that is not what it should be.
    pub(super) fn input(what: impl Into<String>, next: impl Into<String>) -> Self {
        Error::Input { what: what.into(), next: next.into() }
    }

    /// `path` cannot be written.
    pub(super) fn output(path: &Path, error: &io::Error) -> Self {
        let what = format!("{} cannot be written: {error}", path.display());
        if error.kind() == io::ErrorKind::StorageFull {
            let next = "free some room on that disk, then run the same command: it goes on where it stopped";
            return Error::Output { what, next: next.into(), code: Code::DiskFull };
        }
        let next = "check the folder and its permissions, then run the same command: it goes on where it stopped";
        Error::Output { what, next: next.into(), code: Code::StoreFailed }
    }
}

/// Why one row has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The stable code.
    pub code: Code,
    /// What is wrong with the row.
    pub sentence: String,
}

impl Fault {
    /// The row is not what the model takes.
    pub fn input(sentence: impl Into<String>) -> Self {
        Self { code: Code::InputInvalid, sentence: sentence.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}
