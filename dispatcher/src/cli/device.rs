//! `muster device`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Subcommand;
use muster_proto::id::{DeviceId, GroupName};

use super::Session;
use super::client::{query, segment};
use super::output::{facts, list, pairs, print, size, table, when};
use super::parse::{Change, pair, seconds};
use crate::app::{
    DeviceDetail, DeviceUpdate, DeviceView, EnrollToken, EnrollTokenRequest, GroupView, SlotView, VersionRef,
};
use crate::http::List;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token with which a machine becomes a device: `muster-agent enroll TOKEN`.
    #[command(after_help = "\
Examples:
  muster device enroll-token --group line-a --label site=ulm
  muster device enroll-token --uses 200 --ttl 7d --quiet > token.txt")]
    EnrollToken {
        /// A group that the device joins. Repeats.
        #[arg(long, short)]
        group: Vec<GroupName>,
        /// A label that the device gets. Repeats.
        #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
        label: Vec<(String, String)>,
        /// How long the token is good, e.g. 15m, 24h, 7d; an hour unless given, at most 30d.
        #[arg(long, value_name = "SPAN", value_parser = seconds)]
        ttl: Option<u64>,
        /// How many devices may use it; one unless given.
        #[arg(long)]
        uses: Option<u32>,
    },
    /// List devices with what they run.
    #[command(after_help = "Example:\n  muster device list --group line-a --offline")]
    List {
        /// Only members of this group.
        #[arg(long, short)]
        group: Option<GroupName>,
        /// Only devices with this label. Repeat it to ask for several.
        #[arg(long, short, value_name = "KEY[=VALUE]")]
        label: Vec<String>,
        /// Only connected ones.
        #[arg(long, conflicts_with = "offline")]
        online: bool,
        /// Only unconnected ones.
        #[arg(long)]
        offline: bool,
    },
    /// Show a device: what it shall run, what it runs, what it last said.
    Show {
        /// The device.
        device: DeviceId,
    },
    /// Set and remove labels of a device.
    #[command(after_help = "Example:\n  muster device label gateway-17 site=ulm old-")]
    Label {
        /// The device.
        device: DeviceId,
        /// `key=value` sets a label, `key-` removes it.
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        changes: Vec<Change>,
    },
    /// Put a device on the lists of groups, or take it off.
    #[command(after_help = "Example:\n  muster device group gateway-17 --add line-b --remove line-a")]
    Group {
        /// The device.
        device: DeviceId,
        /// A group to join. Repeats.
        #[arg(long, short, value_name = "GROUP", required_unless_present = "remove")]
        add: Vec<GroupName>,
        /// A group to leave. Repeats.
        #[arg(long, short, value_name = "GROUP")]
        remove: Vec<GroupName>,
    },
    /// Remove a device: from now on its certificate opens nothing.
    Revoke {
        /// The device.
        device: DeviceId,
    },
}

pub(super) fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    match command {
        Command::EnrollToken { group, label, ttl, uses } => {
            let request = EnrollTokenRequest {
                groups: group.into_iter().collect(),
                labels: label.into_iter().collect(),
                ttl_seconds: ttl,
                uses,
            };
            enroll_token(&request, session)
        }
        Command::List { group, label, online, offline } => {
            let group = group.into_iter().map(|group| ("group", group.to_string()));
            let labels = label.into_iter().map(|label| ("label", label));
            let online = (online || offline).then(|| ("online", online.to_string()));
            let answer = client.get(&format!("/v1/devices{}", query(group.chain(labels).chain(online))))?;
            out.answer(&answer, devices)
        }
        Command::Show { device } => out.answer(&client.get(&path(&device))?, show),
        Command::Label { device, changes } => {
            let now: DeviceDetail = client.get(&path(&device))?.parse()?;
            let labels = changed(now.view.labels, changes);
            let update = DeviceUpdate { labels: Some(labels), groups: None };
            out.answer(&client.patch(&path(&device), &update)?, summary)
        }
        Command::Group { device, add, remove } => {
            let now: DeviceDetail = client.get(&path(&device))?.parse()?;
            let all: List<GroupView> = client.get("/v1/groups")?.parse()?;
            let mut groups = listed(&now.view, &all.items);
            groups.extend(add);
            groups.retain(|group| !remove.contains(group));
            let update = DeviceUpdate { labels: None, groups: Some(groups) };
            out.answer(&client.patch(&path(&device), &update)?, summary)
        }
        Command::Revoke { device } => {
            client.delete(&path(&device))?;
            out.note(&format!("{device} is revoked. To let it in again: muster device enroll-token"));
            Ok(())
        }
    }
}

/// The groups that list a device; those that only select it by its labels are no business of its own list.
fn listed(device: &DeviceView, groups: &[GroupView]) -> BTreeSet<GroupName> {
    let selects = |group: &GroupView| {
        let holds = |(key, value): (&String, &String)| device.labels.get(key) == Some(value);
        !group.selector.is_empty() && group.selector.iter().all(holds)
    };
    let selected: BTreeSet<&GroupName> =
        groups.iter().filter(|group| selects(group)).map(|group| &group.group).collect();
    device.groups.iter().filter(|group| !selected.contains(group)).cloned().collect()
}

/// The token alone goes to stdout, so that scripts can take it.
fn enroll_token(request: &EnrollTokenRequest, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    let answer = client.post("/v1/enroll-tokens", request)?;
    let token: EnrollToken = answer.parse()?;
    if out.is_json() {
        return Ok(print(answer.text())?);
    }
    print(&token.token)?;
    let devices = if token.uses == 1 { "One device".to_owned() } else { format!("{} devices", token.uses) };
    let groups = if token.groups.is_empty() { String::new() } else { format!(" Groups: {}.", list(&token.groups)) };
    out.note(&format!("{devices} may enrol with it {}.{groups} On the device:", until(token.expires_at)));
    out.note("  muster-agent enroll TOKEN");
    Ok(())
}

fn until(at: u64) -> String {
    let at = when(at);
    at.strip_prefix("in ").map_or_else(|| format!("until {at}"), |span| format!("within {span}"))
}

fn path(device: &DeviceId) -> String {
    format!("/v1/devices/{}", segment(device))
}

fn changed(mut map: BTreeMap<String, String>, changes: Vec<Change>) -> BTreeMap<String, String> {
    for change in changes {
        match change {
            Change::Set(key, value) => drop(map.insert(key, value)),
            Change::Remove(key) => drop(map.remove(&key)),
        }
    }
    map
}

pub(super) fn devices(all: &List<DeviceView>) -> String {
    let row = |d: &DeviceView| {
        let runs = d.slots.iter().map(|slot| named(slot.active.as_ref()));
        let state = match (d.online, d.converged) {
            (false, _) => "offline",
            (true, true) if d.slots.is_empty() => "idle",
            (true, true) => "converged",
            (true, false) => "updating",
        };
        [d.device.to_string(), state.to_owned(), when(d.last_seen), list(&d.groups), list(runs)]
    };
    table(["DEVICE", "STATE", "SEEN", "GROUPS", "RUNS"], all.items.iter().map(row))
}

fn summary(device: &DeviceView) -> String {
    facts([("device", device.device.to_string()), ("groups", list(&device.groups)), ("labels", pairs(&device.labels))])
}

pub(super) fn show(detail: &DeviceDetail) -> String {
    let view = &detail.view;
    let presence = if view.online { "online" } else { "offline" };
    let refused = view.refused.as_ref().map(|failure| format!("{} [{}]", failure.detail, failure.code));
    let vitals = detail.vitals.map(|v| {
        let heat = v.temperature_millicelsius.map(|t| format!(", {:.0} °C", f64::from(t) / 1000.0)).unwrap_or_default();
        format!(
            "agent {}, {} memory and {} disk free{heat}",
            size(v.rss_bytes),
            size(v.memory_available_bytes),
            size(v.disk_free_bytes)
        )
    });
    let mut text = facts([
        ("device", view.device.to_string()),
        ("state", format!("{presence}, seen {}", when(view.last_seen))),
        ("enrolled", when(view.enrolled_at)),
        ("groups", list(&view.groups)),
        ("labels", pairs(&view.labels)),
        ("agent", format!("{} on {} {}, {}", view.agent.version, view.agent.os, view.agent.arch, view.agent.engine)),
        ("generation", format!("{} desired, {} accepted", view.generation, view.reported_generation)),
        ("refused", refused.unwrap_or_default()),
        ("vitals", vitals.unwrap_or_default()),
    ]);
    text.push_str("\n\n");
    text.push_str(&table(
        ["SLOT", "DESIRED", "ACTIVE", "PREVIOUS", "PHASE", "FETCHED", "NOTE"],
        view.slots.iter().map(slot),
    ));
    text
}

fn slot(slot: &SlotView) -> [String; 7] {
    let phase = slot.phase.map(|phase| format!("{phase:?}").to_lowercase());
    let note = slot.failure.as_ref().map(|failure| format!("{} [{}]", failure.detail, failure.code));
    [
        slot.slot.to_string(),
        named(slot.desired.as_ref()),
        named(slot.active.as_ref()),
        named(slot.previous.as_ref()),
        phase.unwrap_or_default(),
        size(slot.transfer.fetched),
        note.unwrap_or_default(),
    ]
}

/// `digits:2`, or the digest's beginning where the version is not known here.
fn named(version: Option<&VersionRef>) -> String {
    match version {
        None => String::new(),
        Some(VersionRef { model: Some(model), version: Some(version), .. }) => format!("{model}:{version}"),
        Some(other) => other.digest.short(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed() {
        let before = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let after = changed(before, vec![Change::Set("c".into(), "3".into()), Change::Remove("a".into())]);
        assert_eq!(pairs(&after), "b=2 c=3");
    }
}
