//! `muster group`.

use clap::Subcommand;
use muster_proto::id::GroupName;

use super::Session;
use super::client::segment;
use super::output::{facts, list, pairs, table};
use super::parse::pair;
use crate::app::GroupView;
use crate::http::List;
use crate::http::groups::GroupRequest;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List groups.
    List,
    /// Show a group with its members.
    Show {
        /// The group.
        group: GroupName,
    },
    /// Make a group, or change the labels that select its members.
    #[command(after_help = "\
Examples:
  muster group set line-a
  muster group set ulm --selector site=ulm

Without --selector its members are those that were put on its list, by their enrolment
token or by `muster device group`.")]
    Set {
        /// The group.
        group: GroupName,
        /// A label that members have. Repeat it to ask for several.
        #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
        selector: Vec<(String, String)>,
    },
    /// Delete a group. Its devices keep what they run.
    Delete {
        /// The group.
        group: GroupName,
    },
}

pub(super) fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    let path = |group: &GroupName| format!("/v1/groups/{}", segment(group));
    match command {
        Command::List => out.answer(&client.get("/v1/groups")?, groups),
        Command::Show { group } => out.answer(&client.get(&path(&group))?, show),
        Command::Set { group, selector } => {
            let request = GroupRequest { selector: selector.into_iter().collect() };
            out.answer(&client.put(&path(&group), &request)?, show)
        }
        Command::Delete { group } => {
            client.delete(&path(&group))?;
            out.note(&format!("{group} is deleted."));
            Ok(())
        }
    }
}

pub(super) fn groups(all: &List<GroupView>) -> String {
    let row = |g: &GroupView| [g.group.to_string(), g.devices.len().to_string(), pairs(&g.selector)];
    table(["GROUP", "DEVICES", "SELECTOR"], all.items.iter().map(row))
}

fn show(group: &GroupView) -> String {
    facts([
        ("group", group.group.to_string()),
        ("selector", pairs(&group.selector)),
        ("devices", if group.devices.is_empty() { "none".to_owned() } else { list(&group.devices) }),
    ])
}
