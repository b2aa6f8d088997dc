//! `muster rollout`.

mod document;
mod start;
mod text;
mod watch;

#[cfg(test)]
pub(super) use text::{rollouts, status};

pub(super) use document::read_document;

use clap::{Args, Subcommand};
use muster_proto::id::{DeviceId, GroupName};

use super::{Global, Session};
use crate::app::{
    Explanation, RolloutApproval, RolloutDetail, RolloutExtension, RolloutId, RolloutReason, RolloutRetry, RolloutView,
};
use crate::http::List;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a rollout. It takes over from a running one of the same slot, device by device.
    #[command(after_help = "\
Examples:
  muster rollout start --model digits:2 --group line-a --preset standard --wait
  muster rollout start --model digits --device gateway-17 --device gateway-18
  muster rollout start --model vision/detect:4 --all --where 'labels.site == \"berlin\"' --in-flight 20
  muster rollout start -f rollout.toml")]
    Start(start::StartArgs),
    /// Say what a rollout would do, and do nothing: who matches, who does not and why, stages, bytes, the end.
    #[command(after_help = "\
Examples:
  muster rollout plan --model digits:2 --all --preset careful
  muster rollout plan -f rollout.toml")]
    Plan(start::PlanArgs),
    /// List rollouts, newest first.
    List,
    /// Show how a rollout stands: stages, gates with their numbers, decisions, devices.
    #[command(
        visible_alias = "show",
        after_help = "Examples:\n  muster rollout status r12\n  muster rollout status r12 --watch"
    )]
    Status {
        #[command(flatten)]
        id: Id,
        /// Follow it until it ends; fails unless it completes.
        #[arg(long, short)]
        watch: bool,
    },
    /// Follow a rollout until it ends; fails unless it completes. A live view in a terminal, else lines.
    Watch(Id),
    /// Say why a device is where it is: every condition in order, with its value and since when.
    #[command(after_help = "Examples:\n  muster rollout explain r12 gateway-17")]
    Explain {
        #[command(flatten)]
        id: Id,
        /// The device.
        #[arg(value_name = "DEVICE")]
        device: DeviceId,
    },
    /// Offer nothing more until somebody resumes it.
    Pause(Why),
    /// Go on. What its gates hold against it counts as looked at.
    Resume(Id),
    /// Call off what has not switched, and take back what has, from the devices' own stores.
    Abort(Recall),
    /// Take back a rollout that is complete or was ended, from the devices' own stores.
    Rollback(Recall),
    /// End a rollout: no further device is offered it. Those that were keep it.
    Cancel(Id),
    /// Agree to a rollout's plan, by the hash that `muster rollout status` shows.
    #[command(after_help = "\
Examples:
  muster rollout approve r12 --plan 8f3a…
  muster rollout approve r12 --plan 8f3a… --key alice.pem   signs, for devices that ask for it")]
    Approve(Approve),
    /// Pass the stage under way without its gates.
    Skip(Why),
    /// Offer it again to devices that failed; to all of them unless some are named.
    Retry {
        #[command(flatten)]
        id: Id,
        /// The devices.
        #[arg(value_name = "DEVICE")]
        devices: Vec<DeviceId>,
    },
    /// Let devices switch that fetched the version beforehand.
    Release(Id),
    /// Let it be for another group as well. Its devices come last.
    Extend {
        #[command(flatten)]
        id: Id,
        /// The group.
        #[arg(long, short)]
        group: GroupName,
    },
    /// Print a rollout as a document that starts the same again.
    #[command(
        after_help = "Examples:\n  muster rollout export r12 > rollout.toml\n  muster rollout export r12 --format yaml"
    )]
    Export {
        #[command(flatten)]
        id: Id,
        /// How to write it.
        #[arg(long, value_enum, default_value_t = document::Format::Toml)]
        format: document::Format,
    },
    /// Print the JSON Schema of rollout documents, for editors.
    Schema,
    /// List versions that were recalled. They are not offered again unless they are asked for by name.
    Recalled,
}

#[derive(Debug, Args)]
pub(super) struct Id {
    /// The rollout.
    #[arg(value_name = "ID")]
    id: RolloutId,
}

#[derive(Debug, Args)]
pub(super) struct Why {
    #[command(flatten)]
    id: Id,
    /// Why, for the audit log.
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, Args)]
pub(super) struct Recall {
    #[command(flatten)]
    why: Why,
    /// Wait neither for maintenance windows nor for vetoes.
    #[arg(long)]
    now: bool,
}

#[derive(Debug, Args)]
pub(super) struct Approve {
    #[command(flatten)]
    id: Id,
    /// The hash of the plan that you looked at.
    #[arg(long, value_name = "HASH")]
    plan: muster_proto::id::Digest,
    /// Your Ed25519 private key (PKCS #8, PEM), where devices check approvals themselves.
    #[arg(long, value_name = "FILE")]
    key: Option<std::path::PathBuf>,
}

pub(super) fn run(command: Command, global: &Global) -> anyhow::Result<()> {
    if let Command::Schema = command {
        return document::print_schema();
    }
    let session = &global.session()?;
    let Session { client, out } = session;
    let empty = serde_json::json!({});
    let told = |id: Id, word: &str, body: &serde_json::Value| {
        out.answer(&client.post(&format!("{}/{word}", path(id.id)), body)?, text::summary)
    };
    let why = |why: &Why, now: bool| serde_json::to_value(RolloutReason { reason: why.reason.clone(), now });
    match command {
        Command::Schema => Ok(()),
        Command::Start(args) => start::start(args, session),
        Command::Plan(args) => start::plan(args, session),
        Command::List => out.answer(&client.get("/v1/rollouts")?, |all: &List<RolloutView>| text::rollouts(all)),
        Command::Status { id, watch: false } => {
            out.answer(&client.get(&path(id.id))?, |detail: &RolloutDetail| text::status(detail))
        }
        Command::Status { id, watch: true } | Command::Watch(id) => watch::follow(id.id, watch::Until::Ended, session),
        Command::Explain { id, device } => {
            let answer = client.get(&format!("{}/devices/{device}", path(id.id)))?;
            out.answer(&answer, |explanation: &Explanation| text::explanation(explanation))
        }
        Command::Pause(args) => {
            let body = why(&args, false)?;
            told(args.id, "pause", &body)
        }
        Command::Skip(args) => {
            let body = why(&args, false)?;
            told(args.id, "skip", &body)
        }
        Command::Abort(Recall { why: args, now }) => {
            let body = why(&args, now)?;
            told(args.id, "abort", &body)
        }
        Command::Rollback(Recall { why: args, now }) => {
            let body = why(&args, now)?;
            told(args.id, "rollback", &body)
        }
        Command::Resume(id) => told(id, "resume", &empty),
        Command::Release(id) => told(id, "release", &empty),
        Command::Cancel(id) => told(id, "cancel", &empty),
        Command::Retry { id, devices } => told(id, "retry", &serde_json::to_value(RolloutRetry { devices })?),
        Command::Extend { id, group } => told(id, "extend", &serde_json::to_value(RolloutExtension { group })?),
        Command::Approve(args) => approve(args, session),
        Command::Export { id, format } => {
            let answer = client.get(&format!("{}/document", path(id.id)))?;
            document::export(&answer, format, *out)
        }
        Command::Recalled => out.answer(&client.get("/v1/recalled-versions")?, text::recalled),
    }
}

fn path(id: RolloutId) -> String {
    format!("/v1/rollouts/{id}")
}

fn approve(args: Approve, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    let id = args.id.id;
    let mut approval = RolloutApproval { plan: args.plan, key: None, signature: None };
    if let Some(file) = &args.key {
        let view: RolloutDetail = client.get(&path(id))?.parse()?;
        let info: crate::app::Info = client.get("/v1/info")?.parse()?;
        let signed = document::sign(file, info.workspace, &view.rollout, args.plan)?;
        (approval.key, approval.signature) = (Some(signed.0), Some(signed.1));
    }
    let answer = client.post(&format!("{}/approve", path(id)), &approval)?;
    out.answer(&answer, text::summary)
}
