//! `muster config`.

use super::output::print;
use super::serve::KeyArgs;
use crate::config;

pub(super) fn run(args: &KeyArgs) -> anyhow::Result<()> {
    let loaded = args.load()?;
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(print(&config::effective(&loaded.values))?)
}
