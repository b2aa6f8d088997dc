//! `muster audit`.

use clap::Subcommand;

use super::Session;
use super::client::query;
use super::output::{table, when};
use crate::app::AuditEntry;
use crate::http::List;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the newest lines of the audit log, newest first.
    #[command(after_help = "Examples:\n  muster audit list --limit 20\n  muster audit list --before 417")]
    List {
        /// How many lines, at most 1000.
        #[arg(long, short, default_value_t = 50)]
        limit: u32,
        /// Only lines with a smaller number, for the next page.
        #[arg(long, value_name = "NUMBER")]
        before: Option<u64>,
    },
}

pub(super) fn run(command: &Command, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    let Command::List { limit, before } = command;
    let before = before.map(|before| ("before", before.to_string()));
    let answer =
        client.get(&format!("/v1/audit{}", query([("limit", limit.to_string())].into_iter().chain(before))))?;
    out.answer(&answer, entries)
}

pub(super) fn entries(all: &List<AuditEntry>) -> String {
    let row = |e: &AuditEntry| {
        [e.seq.to_string(), when(e.at), e.actor.clone(), e.action.clone(), e.subject.clone(), e.detail.clone()]
    };
    table(["NO", "WHEN", "WHO", "WHAT", "TO", "DETAIL"], all.items.iter().map(row))
}
