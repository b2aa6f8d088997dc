//! `muster rollout`.

use clap::{Args, Subcommand};
use muster_proto::id::{DeviceId, GroupName, SlotName};

use super::Session;
use super::output::{facts, list, size, table, when};
use super::parse::ModelSpec;
use super::watch;
use crate::app::{Audience, DevicePhase, RolloutDetail, RolloutDevice, RolloutId, RolloutRequest, RolloutView};
use crate::http::List;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a rollout. It takes over from a running one of the same slot, device by device.
    #[command(after_help = "\
Examples:
  muster rollout start --model digits:2 --group line-a --canary 1 --wait
  muster rollout start --model digits --device gateway-17 --device gateway-18
  muster rollout start --model vision/detect:4 --all --max-in-flight 20 --max-failures 3")]
    Start(StartArgs),
    /// List rollouts, newest first.
    List,
    /// Show how a rollout stands, device by device.
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  muster rollout status r12\n  muster rollout status r12 --watch"
    )]
    Status {
        /// The rollout.
        #[arg(value_name = "ID")]
        id: RolloutId,
        /// Follow it until it ends; fails unless it completes.
        #[arg(long, short)]
        watch: bool,
    },
    /// Follow a rollout until it ends; fails unless it completes. The same as `status --watch`.
    Watch {
        /// The rollout.
        #[arg(value_name = "ID")]
        id: RolloutId,
    },
    /// End a rollout: no further device is offered it. Those that were keep it.
    Cancel {
        /// The rollout.
        #[arg(value_name = "ID")]
        id: RolloutId,
    },
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// The model; its newest version unless one is named.
    #[arg(long, short, value_name = "MODEL[:VERSION]")]
    model: ModelSpec,
    #[command(flatten)]
    audience: AudienceArgs,
    /// The slot on the devices; the last part of the model's name unless given.
    #[arg(long, short)]
    slot: Option<SlotName>,
    /// So many devices have to be healthy before the others are offered it.
    #[arg(long, value_name = "DEVICES", default_value_t = 0, hide_default_value = true)]
    canary: u32,
    /// The most devices that update at once; 50 unless given.
    #[arg(long, value_name = "DEVICES")]
    max_in_flight: Option<u32>,
    /// The most failures before no further device is offered it.
    #[arg(long, value_name = "DEVICES", default_value_t = 0)]
    max_failures: u32,
    /// How long after activation a crash leads back to the version before; 60 unless given.
    #[arg(long, value_name = "SECONDS")]
    trial_seconds: Option<u32>,
    /// Follow it until it ends; fails unless it completes.
    #[arg(long, short)]
    wait: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct AudienceArgs {
    /// The members of a group, later ones too.
    #[arg(long, short)]
    group: Option<GroupName>,
    /// One device. Repeats.
    #[arg(long, short)]
    device: Vec<DeviceId>,
    /// Every device, later ones too.
    #[arg(long)]
    all: bool,
}

impl From<AudienceArgs> for Audience {
    fn from(args: AudienceArgs) -> Self {
        match args.group {
            Some(group) => Audience::Group { group },
            None if args.all => Audience::All,
            None => Audience::Devices { devices: args.device.into_iter().collect() },
        }
    }
}

pub(super) fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    match command {
        Command::Start(args) => start(args, session),
        Command::List => out.answer(&client.get("/v1/rollouts")?, rollouts),
        Command::Status { id, watch: false } => out.answer(&client.get(&path(id))?, status),
        Command::Status { id, watch: true } | Command::Watch { id } => watch::follow(id, session),
        Command::Cancel { id } => out
            .answer(&client.post(&format!("{}/cancel", path(id)), &serde_json::json!({}))?, |view: &RolloutView| {
                summary(view)
            }),
    }
}

pub(super) fn path(id: RolloutId) -> String {
    format!("/v1/rollouts/{id}")
}

fn start(args: StartArgs, session: &Session) -> anyhow::Result<()> {
    let request = RolloutRequest {
        model: args.model.name,
        version: args.model.version,
        slot: args.slot,
        audience: args.audience.into(),
        canary: args.canary,
        max_in_flight: args.max_in_flight,
        max_failures: args.max_failures,
        trial_seconds: args.trial_seconds,
    };
    let answer = session.client.post("/v1/rollouts", &request)?;
    let view: RolloutView = answer.parse()?;
    if args.wait {
        session.out.note(&format!(
            "Rollout {} brings {}:{} to {}.",
            view.id,
            view.model,
            view.version,
            audience(&view.audience)
        ));
        return watch::follow(view.id, session);
    }
    session.out.answer(&answer, |view: &RolloutView| summary(view))?;
    session.out.note(&format!("Follow it: muster rollout status {} --watch", view.id));
    Ok(())
}

pub(super) fn rollouts(all: &List<RolloutView>) -> String {
    let row = |r: &RolloutView| {
        [
            r.id.to_string(),
            format!("{}:{}", r.model, r.version),
            audience(&r.audience),
            format!("{:?}", r.status).to_lowercase(),
            format!("{}/{}", count(r, DevicePhase::Healthy), r.total),
            count(r, DevicePhase::Failed).to_string(),
            when(r.created_at),
        ]
    };
    table(["ID", "MODEL", "FOR", "STATUS", "HEALTHY", "FAILED", "STARTED"], all.items.iter().map(row))
}

fn count(rollout: &RolloutView, phase: DevicePhase) -> u32 {
    rollout.counts.get(&phase).copied().unwrap_or(0)
}

/// `1 device`, `2 devices`.
fn number(count: u32, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

fn audience(audience: &Audience) -> String {
    match audience {
        Audience::All => "all".to_owned(),
        Audience::Group { group } => format!("group {group}"),
        Audience::Devices { devices } if devices.len() == 1 => list(devices),
        Audience::Devices { devices } => format!("{} devices", devices.len()),
    }
}

/// `3 healthy, 1 failed`.
pub(super) fn counts(rollout: &RolloutView) -> String {
    let some = rollout.counts.iter().filter(|(_, count)| **count > 0);
    some.map(|(phase, count)| format!("{count} {}", name(*phase))).collect::<Vec<_>>().join(", ")
}

pub(super) fn name(phase: DevicePhase) -> String {
    format!("{phase:?}").to_lowercase()
}

fn summary(r: &RolloutView) -> String {
    let status = format!("{:?}", r.status).to_lowercase();
    let ended = if r.ended_at == 0 { String::new() } else { when(r.ended_at) };
    facts([
        ("rollout", r.id.to_string()),
        ("model", format!("{}:{} in slot {}", r.model, r.version, r.slot)),
        ("for", format!("{} ({} now)", audience(&r.audience), number(r.total, "device"))),
        ("status", if r.reason.is_empty() { status } else { format!("{status}: {}", r.reason) }),
        ("devices", counts(r)),
        ("limits", format!("canary {}, {} at once, {} may fail", r.canary, r.max_in_flight, r.max_failures)),
        ("started", format!("{} by {}", when(r.created_at), r.created_by)),
        ("ended", ended),
    ])
}

pub(super) fn status(detail: &RolloutDetail) -> String {
    let device = |d: &RolloutDevice| {
        let code = d.code.map(|code| format!(" [{code}]")).unwrap_or_default();
        let offline = if d.online { "" } else { "offline" };
        let note = [offline.to_owned(), format!("{}{code}", d.detail)];
        let note = note.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        [d.device.to_string(), name(d.phase), when(d.since), size(d.transfer.fetched), size(d.transfer.saved), note]
    };
    let rows = table(["DEVICE", "PHASE", "SINCE", "FETCHED", "SAVED", "NOTE"], detail.devices.iter().map(device));
    format!("{}\n\n{rows}", summary(&detail.rollout))
}
