//! The state of one revision.

use serde_json::Value;

use super::{Observed, RevisionStatus, condition, count, pods};
use crate::cluster::object::{number, text};
use crate::domain::service::State;

/// The state of the revision whose Deployment is called `name`.
pub fn derive(name: &str, revision: &str, observed: &Observed) -> RevisionStatus {
    let status = |state, reason: String, wanted, ready| RevisionStatus {
        revision: revision.to_owned(),
        state,
        reason,
        wanted,
        ready,
    };
    let Some(deployment) = observed.deployments.iter().find(|deployment| text(deployment, "/metadata/name") == name)
    else {
        return status(State::Transitioning, "its Deployment is not there yet".into(), 0, 0);
    };
    // The server fills in 1 where the field is left out.
    let wanted = deployment.pointer("/spec/replicas").map_or(1, |_| count(deployment, "/spec/replicas"));
    let ready = count(deployment, "/status/availableReplicas");
    if number(deployment, "/status/observedGeneration") < number(deployment, "/metadata/generation") {
        return status(State::Transitioning, "the cluster has not looked at the change yet".into(), wanted, ready);
    }
    let newest = pods::newest(deployment, observed);
    let updated = count(deployment, "/status/updatedReplicas");
    let total = count(deployment, "/status/replicas");
    let complete = updated >= wanted && ready >= wanted && total <= updated;
    if wanted == 0 {
        return status(State::Healthy, "no replica is wanted".into(), 0, ready);
    }
    if complete && ready > 0 {
        let mut reason = format!("{ready} of {wanted} replicas answer");
        if let Some(note) = pods::past(&newest) {
            reason.push_str(&format!(" ({note})"));
        }
        return status(State::Healthy, reason, wanted, ready);
    }
    if let Some((state, reason)) = pods::trouble(&newest, observed).or_else(|| refused(deployment)) {
        return status(state, reason, wanted, ready);
    }
    let (state, reason) = waiting(deployment, &newest, observed, wanted, ready);
    status(state, reason, wanted, ready)
}

/// What kept the Deployment from making pods at all, or for too long.
fn refused(deployment: &Value) -> Option<(State, String)> {
    let failure = condition(deployment, "ReplicaFailure").filter(|condition| text(condition, "/status") == "True");
    if let Some(failure) = failure {
        let message = text(failure, "/message");
        return Some(if message.contains("exceeded quota") {
            (State::Unschedulable, format!("a quota leaves no room: {message}"))
        } else {
            (State::Failed, format!("the cluster refuses its pods: {message}"))
        });
    }
    let progress = condition(deployment, "Progressing")?;
    let late = text(progress, "/status") == "False" && text(progress, "/reason") == "ProgressDeadlineExceeded";
    late.then(|| (State::Failed, format!("it did not come up in time: {}", text(progress, "/message"))))
}

/// Nothing is wrong that is known; something is still missing.
fn waiting(deployment: &Value, newest: &[&Value], observed: &Observed, wanted: u32, ready: u32) -> (State, String) {
    let was_complete =
        condition(deployment, "Progressing").is_some_and(|it| text(it, "/reason") == "NewReplicaSetAvailable");
    let doing = pods::doing(newest, observed).unwrap_or_else(|| "pods are on their way".into());
    if was_complete && ready == 0 {
        return (State::Unhealthy, format!("it was deployed and none of {wanted} replicas answers: {doing}"));
    }
    (State::Transitioning, format!("{ready} of {wanted} replicas answer: {doing}"))
}
