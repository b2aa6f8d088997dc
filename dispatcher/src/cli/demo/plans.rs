//! The plans of the demo: those of the presets, at the pace of somebody who watches.

use std::time::Duration;

use anyhow::Result;

use super::fleet::GROUP;
use crate::app::plan::{Plan, Preset};
use crate::app::units::{Share, Span};

/// How often devices report their figures; a real fleet does it once a minute.
pub(super) const WINDOW: Duration = Duration::from_millis(500);
/// How long a device has to answer well; a real fleet takes minutes to days.
const SOAK: Span = Span(1);
/// How many inferences a shadow sees: each held-out image once.
const INFERENCES: u32 = 360;

/// Whether a version runs beside the active one before it may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shadow {
    On,
    Off,
}

/// The preset `fast`.
pub(super) fn fast() -> Result<Plan> {
    paced(Preset::Fast)
}

/// The preset `standard`.
pub(super) fn standard(shadow: Shadow) -> Result<Plan> {
    let mut plan = paced(Preset::Standard)?;
    for stage in &mut plan.stages {
        // All devices share this machine's processor and one process: their latency and memory say nothing of them.
        (stage.gates.p95, stage.gates.memory) = (None, None);
        stage.gates.min_readings = Some(2);
        if let Some(shadow) = &mut stage.shadow {
            (shadow.share, shadow.inferences, shadow.cpu) = (Share(1.0), INFERENCES, Share(1.0));
        }
        if shadow == Shadow::Off {
            (stage.shadow, stage.gates.agreement) = (None, None);
        }
    }
    Ok(plan)
}

fn paced(preset: Preset) -> Result<Plan> {
    let mut plan = Plan::default();
    plan.target.groups.insert(GROUP.parse()?);
    preset.complete(&mut plan);
    plan.stages.iter_mut().for_each(|stage| stage.soak = SOAK);
    Ok(plan)
}
