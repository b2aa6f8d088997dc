//! The Deployment of one revision.

use serde_json::{Value, json};

use super::{Plan, pod, replicas};
use crate::cluster::names::{REVISION, selector, short};
use crate::domain::service::{Replicas, Revision};

/// A rollout that has not moved for so long has failed; Azure ML gives up after five minutes without room.
const DEADLINE_SECONDS: u32 = 300;

/// The Deployment of the revision at `index`.
pub fn deployment(plan: &Plan, index: usize, revision: &Revision) -> Value {
    let service = plan.service;
    let mut matches = json!(selector(service));
    matches[REVISION] = json!(short(revision));
    let mut spec = json!({
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": DEADLINE_SECONDS,
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
        "selector": { "matchLabels": matches },
        "template": pod::template(plan, revision),
    });
    let (min, max) = replicas::of(service, index);
    // Where an autoscaler decides, the number is its field, not ours.
    if matches!(service.settings.replicas, Replicas::Fixed(_)) || min == max {
        spec["replicas"] = json!(min);
    }
    json!({ "spec": spec })
}
