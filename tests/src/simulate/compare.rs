//! The same scenario under several engines, as a Markdown table.

use std::fmt::Write;

use muster_dispatcher::domain::rollout::RolloutStatus;
use muster_dispatcher::domain::rollout::plan::Preset;
use muster_dispatcher::domain::rollout::units::Span;

use super::baseline::{self, Engine};
use super::{Outcome, Scenario, simulate};

/// Rows of scenario × engine.
pub fn table(scenarios: &[(String, Scenario)], devices: Option<u32>, seed: u64) -> String {
    let presets = [Preset::Careful, Preset::Standard, Preset::Fast];
    let mut text = String::from("| scenario | Muster, its plan | careful | standard | fast |");
    Engine::ALL.iter().for_each(|(_, name)| {
        let _ = write!(text, " {name} |");
    });
    let columns = 2 + presets.len() + Engine::ALL.len();
    let _ = writeln!(text, "\n|{}", "---|".repeat(columns));
    for (name, scenario) in scenarios {
        let _ = write!(text, "| {name} | {} |", cell(&simulate(scenario, devices, seed)));
        for preset in presets {
            let _ = write!(text, " {} |", cell(&simulate(&with_preset(scenario, preset), devices, seed)));
        }
        for (engine, _) in Engine::ALL {
            let _ = write!(text, " {} |", cell(&baseline::simulate(engine, scenario, devices, seed)));
        }
        text.push('\n');
    }
    text
}

/// The scenario with a preset's stages in place of its own; a week is enough for the slowest.
fn with_preset(scenario: &Scenario, preset: Preset) -> Scenario {
    let mut scenario = scenario.clone();
    for rollout in &mut scenario.rollouts {
        rollout.plan.stages.clear();
        rollout.plan.preset = Some(preset);
    }
    scenario.world.horizon = Span(scenario.world.horizon.0.max(8 * 86_400));
    scenario
}

/// `12 harmed, 5h 20m, recalled`.
fn cell(outcome: &Outcome) -> String {
    let rounded = |at: u32| Span(if at < 600 { u64::from(at) } else { u64::from(at) / 60 * 60 });
    let time = outcome.finished_at.map_or("not over".to_owned(), |at| rounded(at).to_string());
    let status = outcome.status.first().copied().unwrap_or(RolloutStatus::Pending);
    let breaches = if outcome.breaches > 0 { format!(", {} breaches", outcome.breaches) } else { String::new() };
    format!("{} harmed, {time}, {}{breaches}", outcome.harmed, format!("{status:?}").to_lowercase())
}
