//! What the pods of a revision say.

use serde_json::Value;

use super::{Observed, condition, label};
use crate::cluster::object::{items, number, text};
use crate::domain::service::State;

/// The label by which a Deployment tells its ReplicaSets and their pods apart.
const HASH: &str = "pod-template-hash";
/// The annotation with the number of a roll-out, on a Deployment and its ReplicaSets.
const ROLL: &str = "/metadata/annotations/deployment.kubernetes.io~1revision";
/// Longest text of another program that goes into a reason.
const MAX_TEXT: usize = 300;

/// Whether requests go to the pod.
pub fn is_ready(pod: &Value) -> bool {
    !is_leaving(pod) && condition(pod, "Ready").is_some_and(|ready| text(ready, "/status") == "True")
}

fn is_leaving(pod: &Value) -> bool {
    pod.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
}

/// The pods of the newest template of `deployment` that are not on their way out: what an older one does is history.
pub fn newest<'a>(deployment: &Value, observed: &'a Observed) -> Vec<&'a Value> {
    let uid = text(deployment, "/metadata/uid");
    let owned =
        |object: &Value| items(object, "/metadata/ownerReferences").iter().any(|owner| text(owner, "/uid") == uid);
    let roll = text(deployment, ROLL);
    let set = observed.replica_sets.iter().find(|set| owned(set) && text(set, ROLL) == roll);
    let hash = set.map(|set| label(set, HASH)).unwrap_or_default();
    let pods = observed.pods.iter().filter(|pod| !hash.is_empty() && label(pod, HASH) == hash);
    pods.filter(|pod| !is_leaving(pod)).collect()
}

/// The worst of what keeps a pod from answering.
pub fn trouble(pods: &[&Value], observed: &Observed) -> Option<(State, String)> {
    let all = pods.iter().filter(|pod| !is_ready(pod)).filter_map(|pod| of_pod(pod, observed));
    all.reduce(|worst, next| if next.0 > worst.0 { next } else { worst })
}

fn of_pod(pod: &Value, observed: &Observed) -> Option<(State, String)> {
    if let Some(scheduled) = condition(pod, "PodScheduled")
        && text(scheduled, "/status") == "False"
        && text(scheduled, "/reason") == "Unschedulable"
    {
        return Some((State::Unschedulable, format!("no node has room: {}", short(text(scheduled, "/message")))));
    }
    if text(pod, "/status/phase") == "Failed" {
        // Evicted and preempted pods stay behind beside those that replace them.
        return None;
    }
    containers(pod).find_map(|container| of_container(pod, container, observed))
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    items(pod, "/status/initContainerStatuses").iter().chain(items(pod, "/status/containerStatuses"))
}

fn of_container(pod: &Value, container: &Value, observed: &Observed) -> Option<(State, String)> {
    let waiting = text(container, "/state/waiting/reason");
    let message = short(text(container, "/state/waiting/message"));
    let image = text(container, "/image");
    let reason = match waiting {
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => {
            let why = event(pod, "Failed", observed).filter(|why| why.contains("pull")).unwrap_or(message);
            format!("the image {image:?} cannot be pulled: {why}")
        }
        "InvalidImageName" => format!("the image's name {image:?} is invalid: {message}"),
        "ErrImageNeverPull" => format!("the image {image:?} is not on the node and is never to be pulled"),
        "ImageInspectError" => format!("the image {image:?} cannot be read: {message}"),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            format!("the container cannot be started: {message}")
        }
        "CrashLoopBackOff" => ended(container, "/lastState/terminated")?,
        // Between two crashes it looks as if it ran.
        _ if number(container, "/restartCount") > 0 && is_oom(container) => ended(container, "/lastState/terminated")?,
        _ => ended(container, "/state/terminated")?,
    };
    Some((State::Failed, reason))
}

fn is_oom(container: &Value) -> bool {
    text(container, "/lastState/terminated/reason") == "OOMKilled"
}

/// How a container ended, in words.
fn ended(container: &Value, pointer: &str) -> Option<String> {
    let state = container.pointer(pointer)?;
    let restarts = number(container, "/restartCount");
    if text(state, "/reason") == "OOMKilled" {
        return Some(format!(
            "it needed more memory than its limit and was ended ({restarts} restarts); raise the memory"
        ));
    }
    let code = number(state, "/exitCode");
    let message = short(text(state, "/message"));
    let said = if message.is_empty() { String::new() } else { format!(": {message}") };
    Some(format!("the container ended with code {code} ({restarts} restarts){said}"))
}

/// What pods that are not ready are doing, from the pod itself or the newest warning about it.
pub fn doing(pods: &[&Value], observed: &Observed) -> Option<String> {
    let pod = pods.iter().find(|pod| !is_ready(pod))?;
    if let Some(why) = event(pod, "Unhealthy", observed) {
        return Some(why);
    }
    let waiting =
        containers(pod).map(|container| text(container, "/state/waiting/reason")).find(|reason| !reason.is_empty());
    Some(match (waiting, text(pod, "/status/phase")) {
        (Some("ContainerCreating"), _) => {
            let why = ["FailedCreatePodSandBox", "FailedMount", "FailedAttachVolume"];
            let why = why.iter().find_map(|reason| event(pod, reason, observed));
            why.map_or_else(
                || "the container is being made".into(),
                |why| format!("the container is being made: {why}"),
            )
        }
        (Some(other), _) => other.to_owned(),
        (None, "Running") => "the model is loading".into(),
        (None, _) => "a pod waits for its node".into(),
    })
}

/// What happened to pods that answer again.
pub fn past(pods: &[&Value]) -> Option<String> {
    let restarts: i64 =
        pods.iter().flat_map(|pod| containers(pod)).map(|container| number(container, "/restartCount")).sum();
    let oom = pods.iter().flat_map(|pod| containers(pod)).any(is_oom);
    match (restarts, oom) {
        (0, _) => None,
        (n, true) => Some(format!("{n} restarts, the last for want of memory")),
        (n, false) => Some(format!("{n} restarts")),
    }
}

/// The newest warning of that reason about a pod.
fn event(pod: &Value, reason: &str, observed: &Observed) -> Option<String> {
    let uid = text(pod, "/metadata/uid");
    let about = |event: &&Value| text(event, "/involvedObject/uid") == uid && text(event, "/reason") == reason;
    // RFC 3339 in UTC sorts as text.
    let newest = observed.events.iter().filter(about).max_by_key(|event| (time(event), number(event, "/count")))?;
    Some(short(text(newest, "/message")))
}

fn time(event: &Value) -> &str {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/firstTimestamp"]
        .iter()
        .map(|pointer| text(event, pointer))
        .find(|time| !time.is_empty())
        .unwrap_or_default()
}

/// One line of at most [`MAX_TEXT`] characters; of a log, the end tells why.
fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let chars = line.chars().count();
    if chars <= MAX_TEXT { line } else { format!("…{}", line.chars().skip(chars - MAX_TEXT).collect::<String>()) }
}
