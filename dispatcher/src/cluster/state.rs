//! How a service is, read from what a cluster says of its Deployments, ReplicaSets, Pods and events: pure.
//!
//! States are Azure ML's. A state is derived anew from each look, so that nothing has to be remembered, and what has
//! recovered is no longer called failed.

mod pods;
mod revision;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::names::{REVISION, of_revision, short};
use super::object::{items, number, text};
use crate::domain::service::{Service, State};

/// What was seen of a service: objects as the API server gave them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Its Deployments.
    pub deployments: Vec<Value>,
    /// Their ReplicaSets.
    pub replica_sets: Vec<Value>,
    /// Their pods.
    pub pods: Vec<Value>,
    /// Warnings about any of these.
    pub events: Vec<Value>,
}

/// How a service is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The worst state of the revisions that are to get requests.
    pub state: State,
    /// Why, in words.
    pub reason: String,
    /// Pods that answer, of whatever revision.
    pub answering: u32,
    /// Each wanted revision.
    pub revisions: Vec<RevisionStatus>,
}

/// How one revision is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RevisionStatus {
    /// The start of its digest.
    pub revision: String,
    /// Its state.
    pub state: State,
    /// Why, in words.
    pub reason: String,
    /// Replicas that it is to have.
    pub wanted: u32,
    /// Replicas that answer.
    pub ready: u32,
}

/// The state of `service` in what was observed.
pub fn derive(service: &Service, observed: &Observed) -> Status {
    let revisions: Vec<RevisionStatus> = service
        .revisions
        .iter()
        .map(|wanted| revision::derive(&of_revision(service, wanted), short(wanted), observed))
        .collect();
    let answering = observed.pods.iter().filter(|pod| pods::is_ready(pod)).count();
    let answering = u32::try_from(answering).unwrap_or(u32::MAX);
    let asked = |status: &&RevisionStatus| {
        service.revisions.iter().any(|revision| revision.traffic > 0 && short(revision) == status.revision)
    };
    // The first of equals, which is the stable one.
    let worst =
        revisions.iter().filter(asked).reduce(|worst, next| if next.state > worst.state { next } else { worst });
    let (state, mut reason) = worst.map_or_else(
        || (State::Transitioning, "no revision is to get requests".to_owned()),
        |status| (status.state, status.reason.clone()),
    );
    let old = observed.pods.iter().filter(|pod| pods::is_ready(pod) && !is_wanted(pod, &revisions)).count();
    if state != State::Healthy && old > 0 {
        reason.push_str(&format!("; {old} of the version before still answer"));
    }
    Status { state, reason, answering, revisions }
}

fn is_wanted(pod: &Value, revisions: &[RevisionStatus]) -> bool {
    revisions.iter().any(|status| status.revision == label(pod, REVISION))
}

/// The value of a label, empty where there is none.
fn label<'a>(object: &'a Value, name: &str) -> &'a str {
    object.pointer("/metadata/labels").and_then(|labels| labels.get(name)).and_then(Value::as_str).unwrap_or_default()
}

/// The condition of that type.
fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    items(object, "/status/conditions").iter().find(|condition| text(condition, "/type") == kind)
}

/// A count of a status, which is left out where it is 0.
fn count(object: &Value, pointer: &str) -> u32 {
    u32::try_from(number(object, pointer)).unwrap_or_default()
}
