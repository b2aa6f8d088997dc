//! Plans for people in a hurry: four presets, from careful to emergency.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Gates, OnBreach, Plan, Shadow, Stage};
use crate::rollout::units::{Amount, Share, Span};

/// A ready plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Five stages over days: a shadow run first, every gate, abort on a breach.
    Careful,
    /// Four stages within hours: a canary with a shadow run where there is something to shadow, abort on a breach.
    #[default]
    Standard,
    /// Two stages within minutes, no metric gates, pause on a breach.
    Fast,
    /// Everyone at once, and a pause when a quarter fails: for a version that mends something worse.
    Emergency,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Preset; 4] = [Preset::Careful, Preset::Standard, Preset::Fast, Preset::Emergency];

    /// Fills in what `plan` leaves open.
    pub fn complete(self, plan: &mut Plan) {
        plan.preset = Some(self);
        if plan.stages.is_empty() {
            plan.stages = self.stages();
        }
        let silence = match self {
            Preset::Careful => 1800,
            _ => 600,
        };
        plan.silence.get_or_insert(Span(silence));
        plan.device_timeout.get_or_insert(Span(24 * 3600));
    }

    fn stages(self) -> Vec<Stage> {
        let percent = |p: f64| Amount::Part(Share(p / 100.0));
        match self {
            Preset::Careful => {
                let gates = Gates {
                    drift: Some(0.25),
                    temperature: Some(8.0),
                    ..metrics(0.01, Some(Amount::Part(Share(0.02))))
                };
                let shadow = Shadow { time: Span(24 * 3600), inferences: 1000, ..Shadow::default() };
                vec![
                    stage("canary", Amount::Count(1), 6 * 3600, gates_of_few(&gates), Some(shadow)),
                    stage("1%", percent(1.0), 24 * 3600, gates.clone(), None),
                    stage("10%", percent(10.0), 24 * 3600, gates.clone(), None),
                    stage("50%", percent(50.0), 12 * 3600, gates.clone(), None),
                    stage("everyone", percent(100.0), 3600, gates, None),
                ]
            }
            Preset::Standard => {
                let gates = metrics(0.02, Some(Amount::Part(Share(0.05))));
                vec![
                    stage("canary", Amount::Count(1), 600, gates_of_few(&gates), Some(Shadow::default())),
                    stage("10%", percent(10.0), 3600, gates.clone(), None),
                    stage("50%", percent(50.0), 1800, gates.clone(), None),
                    stage("everyone", percent(100.0), 600, gates, None),
                ]
            }
            Preset::Fast => {
                let gates =
                    Gates { failures: Some(Amount::Part(Share(0.1))), silence: Some(Share(0.3)), ..Gates::default() };
                vec![
                    stage("canary", percent(5.0), 60, gates.clone(), None),
                    stage("everyone", percent(100.0), 60, gates, None),
                ]
            }
            Preset::Emergency => {
                let gates = Gates { failures: Some(Amount::Part(Share(0.25))), ..Gates::default() };
                vec![stage("everyone", percent(100.0), 60, gates, None)]
            }
        }
    }
}

fn stage(name: &str, size: Amount, soak: u64, gates: Gates, shadow: Option<Shadow>) -> Stage {
    let agreement = shadow.as_ref().map(|_| Share(0.85));
    let gates = Gates { agreement, ..gates };
    Stage { name: name.to_owned(), size, devices: Default::default(), soak: Span(soak), timeout: None, shadow, gates }
}

fn metrics(error_rate: f64, failures: Option<Amount>) -> Gates {
    Gates {
        failures,
        silence: Some(Share(0.2)),
        error_rate: Some(Share(error_rate)),
        p95: Some(0.5),
        memory: Some(0.5),
        on_breach: Some(OnBreach::Abort),
        ..Gates::default()
    }
}

/// A canary of one device: no failure at all, and metrics are for the stages that have enough of them.
fn gates_of_few(gates: &Gates) -> Gates {
    Gates {
        failures: Some(Amount::Count(0)),
        silence: None,
        error_rate: None,
        p95: None,
        memory: None,
        temperature: None,
        // One canary's outputs are enough to see that they are of another kind.
        drift: Some(0.25),
        confidence: Some(Share(0.25)),
        on_breach: gates.on_breach,
        ..Gates::default()
    }
}
