//! `muster rollout start` and `plan`: from arguments or a file to a document.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use muster_proto::id::{DeviceId, GroupName, SlotName};

use super::{document, text, watch};
use crate::app::plan::{OnBreach, Plan, Preset};
use crate::app::units::{Amount, Span};
use crate::app::{RolloutDocument, RolloutPreview, RolloutView};
use crate::cli::parse::ModelSpec;
use crate::cli::{Failure, Session};

#[derive(Debug, Args)]
pub(in crate::cli) struct StartArgs {
    #[command(flatten)]
    what: What,
    /// Follow it until it ends; fails unless it completes.
    #[arg(long, short)]
    wait: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PlanArgs {
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Args)]
struct What {
    /// A document instead of the options below: TOML, YAML or JSON by its name; - is standard input.
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with_all = ["model", "group", "device", "all", "filter"])]
    file: Option<PathBuf>,
    /// The model; its newest version unless one is named.
    #[arg(long, short, value_name = "MODEL[:VERSION]", required_unless_present = "file")]
    model: Option<ModelSpec>,
    #[command(flatten)]
    target: TargetArgs,
    /// The slot on the devices; the last part of the model's name unless given.
    #[arg(long, short)]
    slot: Option<SlotName>,
    /// Stages, gates and soak times for people in a hurry; fast unless given.
    #[arg(long, value_enum)]
    preset: Option<PresetArg>,
    /// So many devices, or such a share of them, come in the first stage: 1, 5%.
    #[arg(long, value_name = "DEVICES")]
    canary: Option<Amount>,
    /// So many devices, or such a share of those with an outcome, may fail: 0, 5%.
    #[arg(long, value_name = "DEVICES")]
    max_failures: Option<Amount>,
    /// What a breached gate leads to.
    #[arg(long, value_enum)]
    on_breach: Option<OnBreachArg>,
    /// How long a device has to answer well before it counts as healthy, in every stage: 90s, 1h.
    #[arg(long, value_name = "SPAN")]
    soak: Option<Span>,
    /// Do not run the version as a shadow first, whatever the preset says.
    #[arg(long)]
    no_shadow: bool,
    /// The most devices that update at once.
    #[arg(long, visible_alias = "max-in-flight", value_name = "DEVICES")]
    in_flight: Option<u32>,
    /// Fetch and verify everywhere first; the stages then only switch.
    #[arg(long)]
    prestage: bool,
    /// Of rollouts that want the same slot of a device the one with the highest priority goes first.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    priority: Option<i32>,
}

#[derive(Debug, Args)]
struct TargetArgs {
    /// The members of a group, later ones too. Repeats.
    #[arg(long, short)]
    group: Vec<GroupName>,
    /// One device. Repeats.
    #[arg(long, short)]
    device: Vec<DeviceId>,
    /// Every device, later ones too.
    #[arg(long, conflicts_with_all = ["group", "device"])]
    all: bool,
    /// Of these, the devices for which an expression holds: 'labels.site == "berlin"'.
    #[arg(long = "where", value_name = "CEL", id = "filter")]
    filter: Option<String>,
    /// But not this device. Repeats.
    #[arg(long, value_name = "DEVICE")]
    except_device: Vec<DeviceId>,
    /// But not the members of this group. Repeats.
    #[arg(long, value_name = "GROUP")]
    except_group: Vec<GroupName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PresetArg {
    /// Five stages over days, a shadow run first, every gate, abort on a breach.
    Careful,
    /// Four stages within hours, a shadow run first, abort on a breach.
    Standard,
    /// Two stages within minutes, pause on a breach.
    Fast,
    /// Everyone at once, pause when a quarter fails.
    Emergency,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnBreachArg {
    /// Nothing more is offered until somebody decides.
    Pause,
    /// What has not switched is called off, and what has goes back.
    Abort,
}

pub(super) fn start(args: StartArgs, session: &Session) -> anyhow::Result<()> {
    let document = document(args.what)?;
    let answer = session.client.post("/v1/rollouts", &document)?;
    let view: RolloutView = answer.parse()?;
    if args.wait {
        session.out.note(&format!(
            "Rollout {} brings {}:{} to {}.",
            view.id,
            view.model,
            view.version,
            text::target(&view.plan.target)
        ));
        return watch::follow(view.id, watch::Until::Stopped, session);
    }
    session.out.answer(&answer, text::summary)?;
    session.out.note(&format!("Follow it: muster rollout watch {}", view.id));
    Ok(())
}

pub(super) fn plan(args: PlanArgs, session: &Session) -> anyhow::Result<()> {
    let document = document(args.what)?;
    let answer = session.client.post("/v1/rollouts/plan", &document)?;
    session.out.answer(&answer, |preview: &RolloutPreview| text::preview(preview))
}

fn document(args: What) -> anyhow::Result<RolloutDocument> {
    let mut document = match (&args.file, args.model.clone()) {
        (Some(file), _) => document::read(file)?,
        (None, Some(model)) => {
            RolloutDocument { model: model.name, version: model.version, slot: None, plan: Plan::default() }
        }
        (None, None) => return Err(usage("name a model, or a file with -f").into()),
    };
    document.slot = args.slot.clone().or(document.slot);
    apply(&args, &mut document.plan)?;
    Ok(document)
}

/// Puts the options into the plan. What changes stages needs them, so the preset is filled in here.
fn apply(args: &What, plan: &mut Plan) -> anyhow::Result<()> {
    let target = &mut plan.target;
    let TargetArgs { group, device, all, filter, except_device, except_group } = &args.target;
    target.groups.extend(group.iter().cloned());
    target.devices.extend(device.iter().cloned());
    target.all |= all;
    target.except.devices.extend(except_device.iter().cloned());
    target.except.groups.extend(except_group.iter().cloned());
    if let Some(filter) = filter {
        target.filter = Some(filter.parse().map_err(|e| usage(&format!("--where {filter:?}: {e}")))?);
    }
    if !target.all && target.groups.is_empty() && target.devices.is_empty() && target.filter.is_none() {
        return Err(usage("say whom it is for: --all, --group, --device or --where").into());
    }
    if let Some(preset) = args.preset {
        plan.preset = Some(match preset {
            PresetArg::Careful => Preset::Careful,
            PresetArg::Standard => Preset::Standard,
            PresetArg::Fast => Preset::Fast,
            PresetArg::Emergency => Preset::Emergency,
        });
    }
    plan.priority = args.priority.unwrap_or(plan.priority);
    plan.schedule.prestage |= args.prestage;
    plan.rate.in_flight = args.in_flight.or(plan.rate.in_flight);
    let changes_stages = args.canary.is_some()
        || args.max_failures.is_some()
        || args.on_breach.is_some()
        || args.soak.is_some()
        || args.no_shadow;
    if changes_stages {
        plan.preset.unwrap_or(Preset::Fast).complete(plan);
    }
    if let (Some(canary), Some(first)) = (args.canary, plan.stages.first_mut()) {
        first.size = canary;
    }
    for stage in &mut plan.stages {
        stage.gates.failures = args.max_failures.or(stage.gates.failures);
        stage.soak = args.soak.unwrap_or(stage.soak);
        if let Some(action) = args.on_breach {
            stage.gates.on_breach = Some(match action {
                OnBreachArg::Pause => OnBreach::Pause,
                OnBreachArg::Abort => OnBreach::Abort,
            });
        }
        if args.no_shadow {
            (stage.shadow, stage.gates.agreement) = (None, None);
        }
    }
    Ok(())
}

fn usage(what: &str) -> Failure {
    Failure::usage(what, "`muster rollout start --help` shows examples")
}
