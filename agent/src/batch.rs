//! Batch scoring: many rows from files through one model, in parallel, and again from where it stopped.
//!
//! Rows come from CSV, JSON lines, Parquet, .npy and folders of images; they go into batches of a fixed size that never
//! span two files, so that a run that was cut off and gone on with writes the same bytes as one that was not. What is
//! written lies in `.muster-batch/` beside a journal until it is whole. The module knows the engine and the readers of
//! rows that the API has; it knows no dispatcher, no Kubernetes and no terminal.

mod answer;
mod args;
mod crew;
mod error;
mod glob;
mod inputs;
mod journal;
mod load;
mod options;
mod progress;
mod read;
mod run;
mod score;
mod source;
mod stop;
mod transfer;
mod work;

pub use args::Args;
pub use error::Error;
pub use load::{Error as LoadError, load};
pub use options::{Columns, Destination, Format, MaxErrors, Missing, Options, OutputFormat, Shard, Start, Transforms};
pub use progress::{Lines, Progress, Snapshot};
pub use run::{Ended, Summary, run};
pub use stop::on_signal as stop_on_signal;

/// Done, and some rows failed: they are in the error file.
pub const EXIT_ROW_ERRORS: u8 = 3;
/// Stopped on request (sysexits.h EX_TEMPFAIL); the same command goes on.
pub const EXIT_STOPPED: u8 = 75;

#[cfg(test)]
mod tests;
