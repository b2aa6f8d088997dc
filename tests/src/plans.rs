//! Plans that tests use again and again.

use muster_dispatcher::app::plan::{Gates, Plan, Preset, Target};
use muster_dispatcher::app::units::Span;

/// Everyone at once, without gates; a device is healthy after `soak` seconds.
pub fn at_once(target: Target, soak: u64) -> Plan {
    let mut plan = Plan { target, ..Plan::default() };
    Preset::Emergency.complete(&mut plan);
    for stage in &mut plan.stages {
        (stage.soak, stage.gates) = (Span(soak), Gates::default());
    }
    plan
}
