//! `muster-agent status`

use anyhow::{Context, Result};

use crate::config::Config;
use crate::driver::Status;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, config: &Config) -> Result<()> {
    let bytes = super::local::request(config, "/status", None)?;
    if args.json {
        println!("{}", String::from_utf8_lossy(&bytes));
        return Ok(());
    }
    let status: Status = serde_json::from_slice(&bytes).context("the agent's answer cannot be understood")?;
    print!("{}", text(&status));
    Ok(())
}

/// For people.
fn text(status: &Status) -> String {
    let report = &status.report;
    let online = if status.online { "online" } else { "offline" };
    let mut text = format!(
        "{} in {}, {online}, generation {}\n{}, {} on {}\n",
        report.device,
        report.workspace,
        report.generation,
        report.agent.version,
        report.agent.engine,
        report.agent.arch
    );
    if status.outbox_messages > 0 {
        text.push_str(&format!(
            "{} messages ({} bytes) wait for the dispatcher\n",
            status.outbox_messages, status.outbox_bytes
        ));
    }
    if status.outbox_dropped > 0 {
        text.push_str(&format!("{} messages were dropped before the dispatcher had them\n", status.outbox_dropped));
    }
    if let Some(refused) = &report.refused {
        text.push_str(&format!("refused: {} [{}]\n", refused.detail, refused.code));
    }
    if report.slots.is_empty() {
        text.push_str("no slots yet\n");
    }
    for slot in &report.slots {
        let name = |r: &Option<muster_proto::report::ModelRef>| {
            r.as_ref().map_or_else(|| "-".into(), |r| r.target.trim_end_matches("/manifest").to_owned())
        };
        text.push_str(&format!(
            "slot {:<16} answers {:<20} wants {:<20} {:?}\n",
            slot.slot,
            name(&slot.active),
            name(&slot.desired),
            slot.phase
        ));
        if let Some(failure) = &slot.failure {
            text.push_str(&format!(
                "     {} [{}]\n     → {}\n",
                failure.detail,
                failure.code,
                failure.code.next_step()
            ));
        }
    }
    text
}
