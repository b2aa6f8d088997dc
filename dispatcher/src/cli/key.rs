//! `muster key`.

use clap::Subcommand;

use super::Session;
use super::client::segment;
use super::output::{print, table, when};
use super::parse::seconds;
use crate::app::{CreatedKey, KeyRequest, KeyView, Role};
use crate::http::List;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an API key. Its token is printed once and cannot be shown again.
    #[command(after_help = "\
Examples:
  muster key create --name dashboard --role viewer
  MUSTER_TOKEN=$(muster key create --name ci --role operator --ttl 90d --quiet)")]
    Create {
        /// A name for people and the audit log.
        #[arg(long, short)]
        name: String,
        /// What it may do: viewer reads; operator also changes models, devices and rollouts; admin also makes keys.
        #[arg(long, short, default_value = "viewer")]
        role: Role,
        /// How long it is good, e.g. 24h, 90d; for ever unless given.
        #[arg(long, value_name = "SPAN", value_parser = seconds)]
        ttl: Option<u64>,
    },
    /// List API keys, without their tokens.
    List,
    /// Delete an API key: its token opens nothing from now on.
    Delete {
        /// The key's id, as the list shows it.
        id: String,
    },
}

pub(super) fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    match command {
        Command::Create { name, role, ttl } => {
            let answer = client.post("/v1/keys", &KeyRequest { name, role, ttl_seconds: ttl })?;
            let created: CreatedKey = answer.parse()?;
            if out.is_json() {
                return Ok(print(answer.text())?);
            }
            print(&created.token)?;
            let CreatedKey { key, .. } = created;
            out.note(&format!(
                "Key {} ({}, {}), {}. This is the only time that its token is shown.",
                key.id,
                key.name,
                key.role,
                until(key.expires_at)
            ));
            Ok(())
        }
        Command::List => out.answer(&client.get("/v1/keys")?, keys),
        Command::Delete { id } => {
            client.delete(&format!("/v1/keys/{}", segment(&id)))?;
            out.note(&format!("Key {id} is deleted."));
            Ok(())
        }
    }
}

pub(super) fn keys(all: &List<KeyView>) -> String {
    let row =
        |k: &KeyView| [k.id.clone(), k.name.clone(), k.role.to_string(), when(k.created_at), expiry(k.expires_at)];
    table(["ID", "NAME", "ROLE", "MADE", "EXPIRES"], all.items.iter().map(row))
}

fn expiry(at: u64) -> String {
    if at == 0 { "never".to_owned() } else { when(at) }
}

fn until(at: u64) -> String {
    if at == 0 { "good until it is deleted".to_owned() } else { format!("expires {}", when(at)) }
}
