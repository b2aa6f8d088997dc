//! `muster config`.

use super::output::print;
use super::serve::ServeArgs;
use crate::config;

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let loaded = args.load()?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(print(&config::effective(&loaded.values))?)
}
