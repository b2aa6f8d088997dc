//! Scenario files: the world, the versions, the plans, what operators say and when, what goes wrong, and what is
//! expected of it all. Unknown keys are errors. `tests/scenarios/mixed.toml` explains every key.

mod surroundings;

use std::path::Path;

use anyhow::{Context, ensure};
use muster_dispatcher::domain::rollout::plan::{Plan, Preset};
use muster_dispatcher::domain::rollout::units::{Bytes, Span};
use muster_dispatcher::domain::rollout::{RolloutStatus, units};
use serde::Deserialize;

use super::baseline::Baselines;
pub use surroundings::{FaultSpec, HardwareSpec, NetworkSpec, PresenceSpec, WorldSpec};

/// The longest that a world may last, in seconds: half of what fits.
const MAX_HORIZON: u64 = u32::MAX as u64 / 2;

/// A scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// The devices and what surrounds them.
    pub world: WorldSpec,
    /// The versions; the first one is what devices run at the start.
    pub versions: Vec<VersionSpec>,
    /// The rollouts, in order of their numbers.
    pub rollouts: Vec<RolloutSpec>,
    /// What operators say.
    #[serde(default)]
    pub words: Vec<WordSpec>,
    /// What happens to the dispatcher.
    #[serde(default)]
    pub dispatcher: DispatcherSpec,
    /// What is expected; not given, nothing is.
    #[serde(default)]
    pub expect: Expect,
    /// Settings of the engines to compare with.
    #[serde(default)]
    pub baselines: Baselines,
    /// The same scenario with changes, each one a world of its own; the scenario itself is then not run.
    #[serde(default)]
    pub variants: Vec<Variant>,
}

/// A change of the scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Plans that name no stages take this preset.
    pub preset: Option<Preset>,
    /// Words besides those of the scenario.
    #[serde(default)]
    pub words: Vec<WordSpec>,
    /// What is expected instead.
    pub expect: Option<Expect>,
}

/// A version.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionSpec {
    /// What a device without an earlier version fetches.
    pub bytes: Bytes,
    /// The share of it that one with an earlier version fetches.
    #[serde(default = "all")]
    pub delta: f64,
    /// Memory that it needs; a device with less refuses it.
    #[serde(default)]
    pub needs: Bytes,
    /// What is wrong with it.
    #[serde(default)]
    pub defects: Vec<DefectSpec>,
}

/// What is wrong with a version, and on which devices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DefectSpec {
    /// What.
    pub kind: DefectKind,
    /// Only on this hardware.
    pub hardware: Option<String>,
    /// On this share of it.
    #[serde(default = "all")]
    pub share: f64,
    /// How long after the switch it begins.
    #[serde(default)]
    pub after: Span,
    /// How bad: a factor for latency and memory, a share for errors and wrong answers, degrees for heat.
    #[serde(default = "half")]
    pub by: f64,
}

/// What a version does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DefectKind {
    /// Golden samples give other answers.
    Probe,
    /// The process dies, `after` seconds after the switch.
    Crash,
    /// The latency is `by` times as much more.
    Latency,
    /// So many more inferences fail.
    Errors,
    /// So many answers are wrong; only a comparison with the version before shows it.
    Wrong,
    /// So many answers are given without any confidence.
    Unsure,
    /// It takes `by` times as much more memory.
    Memory,
    /// It makes the device so many degrees hotter.
    Heat,
}

/// A rollout.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutSpec {
    /// When it is started.
    #[serde(default)]
    pub at: Span,
    /// The version, counted from 1.
    pub version: u8,
    /// The plan, as in a rollout's document.
    pub plan: Plan,
}

/// Something that an operator says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WordSpec {
    /// When.
    pub at: Span,
    /// To which rollout, counted from 1.
    #[serde(default = "first")]
    pub rollout: u8,
    /// What.
    pub say: Say,
    /// Who, for approvals.
    #[serde(default)]
    pub by: String,
}

/// What an operator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Say {
    Pause,
    Resume,
    Recall,
    RecallNow,
    Cancel,
    Approve,
    Skip,
    Retry,
    Release,
}

/// What happens to the dispatcher.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DispatcherSpec {
    /// When it dies; it has just stored something then, or just not.
    pub crashes: Vec<Span>,
    /// Whether it dies at every decision.
    pub crash_at_decisions: bool,
    /// How long it is gone.
    pub down: Span,
    /// When its lease goes to another replica, and it does not notice for a minute.
    pub lease_changes: Vec<Span>,
    /// When the director's key is rotated: devices accept nothing newer before they have the new root.
    pub rotate_key: Option<Span>,
}

impl Default for DispatcherSpec {
    fn default() -> Self {
        let none = Vec::new;
        Self { crashes: none(), crash_at_decisions: false, down: Span(30), lease_changes: none(), rotate_key: None }
    }
}

/// What is expected of Muster's engine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// How each rollout stands at the end; one of them.
    pub status: Vec<Vec<RolloutStatus>>,
    /// At most this share of the devices is harmed.
    pub harmed_at_most: Option<units::Amount>,
    /// At least this share of the devices is healthy on the newest version that was rolled out.
    pub healthy_at_least: Option<f64>,
    /// At most this share of them is.
    pub healthy_at_most: Option<f64>,
    /// The first rollout has ended or paused by then.
    pub within: Option<Span>,
    /// A decision says this.
    pub says: Vec<String>,
    /// At least so many writes of a replica that had lost its lease were refused.
    pub refused_writes_at_least: u64,
}

impl Scenario {
    /// Reads and checks a scenario file.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not a scenario", path.display()))
    }

    /// Reads and checks a scenario.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Scenario = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The worlds that it stands for: itself, or its variants.
    pub fn worlds(&self) -> Vec<(String, Scenario)> {
        if self.variants.is_empty() {
            return vec![(String::new(), self.clone())];
        }
        self.variants.iter().map(|variant| (variant.name.clone(), self.vary(variant))).collect()
    }

    fn vary(&self, variant: &Variant) -> Scenario {
        let mut scenario = self.clone();
        scenario.variants.clear();
        scenario.words.extend(variant.words.iter().cloned());
        for rollout in scenario.rollouts.iter_mut().filter(|r| r.plan.stages.is_empty()) {
            rollout.plan.preset = variant.preset.or(rollout.plan.preset);
        }
        scenario.expect = variant.expect.clone().unwrap_or(scenario.expect);
        scenario
    }

    fn check(&self) -> anyhow::Result<()> {
        let whole = |shares: f64| (shares - 1.0).abs() < 1e-6;
        ensure!(whole(self.world.hardware.iter().map(|h| h.share).sum()), "the shares of hardware do not add up to 1");
        ensure!(
            whole(self.world.presence.iter().map(|p| p.share()).sum()),
            "the shares of presence do not add up to 1"
        );
        ensure!(self.versions.len() >= 2 && self.versions.len() < 250, "two versions at least, and below 250");
        ensure!(!self.rollouts.is_empty() && self.rollouts.len() < 250, "one rollout at least, and below 250");
        ensure!(self.world.horizon.0 + self.world.settle.0 < MAX_HORIZON, "the horizon is too far");
        for rollout in &self.rollouts {
            let known = rollout.version >= 1 && usize::from(rollout.version) <= self.versions.len();
            ensure!(known, "rollouts: there is no version {}", rollout.version);
            rollout.completed_plan().check().map_err(|problem| anyhow::anyhow!("plan: {problem}"))?;
        }
        for word in self.words.iter().chain(self.variants.iter().flat_map(|v| &v.words)) {
            let known = word.rollout >= 1 && usize::from(word.rollout) <= self.rollouts.len();
            ensure!(known, "words: there is no rollout {}", word.rollout);
        }
        for defect in self.versions.iter().flat_map(|v| &v.defects) {
            let known = |name: &String| self.world.hardware.iter().any(|h| h.name == *name);
            ensure!(defect.hardware.as_ref().is_none_or(known), "defects: there is no hardware {:?}", defect.hardware);
        }
        Ok(())
    }
}

impl RolloutSpec {
    /// The plan with what its preset fills in.
    pub fn completed_plan(&self) -> Plan {
        let mut plan = self.plan.clone();
        plan.preset.unwrap_or_default().complete(&mut plan);
        plan
    }
}

fn first() -> u8 {
    1
}

fn all() -> f64 {
    1.0
}

fn half() -> f64 {
    0.5
}
