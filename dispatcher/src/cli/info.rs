//! `muster info`.

use clap::Args;

use super::Session;
use super::output::{facts, when};
use crate::app::Info;

#[derive(Debug, Args)]
pub(super) struct InfoArgs {}

pub(super) fn run(session: &Session) -> anyhow::Result<()> {
    session.out.answer(&session.client.get("/v1/info")?, show)
}

pub(super) fn show(info: &Info) -> String {
    let broker = &info.broker;
    let scheme = if broker.tls { "mqtts" } else { "mqtt" };
    let link = if info.link_up { "up" } else { "down" };
    let counters = info.counters.iter().filter(|(_, count)| **count > 0);
    facts([
        ("version", info.version.clone()),
        ("workspace", info.workspace.to_string()),
        ("api", info.api_url.clone()),
        ("broker", format!("{scheme}://{}:{}, link {link}", broker.host, broker.port)),
        ("authority", format!("SHA-256 {}", info.ca_fingerprint)),
        ("started", when(info.started_at)),
        ("devices", format!("{}, {} online", info.devices, info.devices_online)),
        ("counted", counters.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")),
    ])
}
