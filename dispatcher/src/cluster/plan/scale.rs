//! What changes and protects the number of pods.

use serde_json::{Value, json};

use super::replicas;
use crate::cluster::names::{of_revision, selector};
use crate::domain::service::{Load, Replicas, Revision, Service};

/// The metric of the scoring server that tells how many requests wait in a pod.
const QUEUE_METRIC: &str = "muster_service_queue_depth";

/// The autoscaler of the revision at `index`; none where its number is fixed.
pub fn scaler(service: &Service, index: usize, revision: &Revision) -> Option<Value> {
    let Replicas::Auto { target, .. } = service.settings.replicas else { return None };
    let (min, max) = replicas::of(service, index);
    if min == max {
        return None;
    }
    let metric = match target {
        Load::Cpu(percent) => json!({
            "type": "Resource",
            "resource": { "name": "cpu", "target": { "type": "Utilization", "averageUtilization": percent } },
        }),
        Load::Queue(requests) => json!({
            "type": "Pods",
            "pods": {
                "metric": { "name": QUEUE_METRIC },
                "target": { "type": "AverageValue", "averageValue": requests.to_string() },
            },
        }),
    };
    Some(json!({ "spec": {
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": of_revision(service, revision) },
        "minReplicas": min,
        "maxReplicas": max,
        "metrics": [metric],
        // Up at once, down after a minute, as Azure ML's front end does.
        "behavior": {
            "scaleUp": { "stabilizationWindowSeconds": 0, "policies": [{ "type": "Percent", "value": 100, "periodSeconds": 15 }] },
            "scaleDown": { "stabilizationWindowSeconds": 60, "policies": [{ "type": "Percent", "value": 50, "periodSeconds": 60 }] },
        },
    } }))
}

/// The disruption budget: one pod may go at a time, and one that is not ready holds no drain up. A budget of "at least
/// one" would make a node with the only replica impossible to drain.
pub fn budget(service: &Service) -> Value {
    json!({ "spec": {
        "maxUnavailable": 1,
        "selector": { "matchLabels": selector(service) },
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    } })
}
