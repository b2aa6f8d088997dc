//! The dispatcher and the operator's command line; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster_dispatcher::cli::main(std::env::args_os())
}
