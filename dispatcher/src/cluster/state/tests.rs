//! A table of what clusters say and what it means.

use serde_json::json;

use super::*;
use crate::cluster::plan::tests::{canary, service};

fn deployment(letter: char, status: Value) -> Value {
    let name = format!("digits-{}", letter.to_string().repeat(10));
    json!({
        "metadata": {
            "name": name, "uid": format!("d-{letter}"), "generation": 2,
            "annotations": { "deployment.kubernetes.io/revision": "2" },
        },
        "spec": { "replicas": 2 }, "status": status,
    })
}

fn set(letter: char, roll: &str, hash: &str) -> Value {
    json!({ "metadata": {
        "name": hash, "labels": { "pod-template-hash": hash },
        "annotations": { "deployment.kubernetes.io/revision": roll },
        "ownerReferences": [{ "uid": format!("d-{letter}") }],
    } })
}

fn pod(letter: char, hash: &str, status: Value) -> Value {
    json!({
        "metadata": {
            "name": "p", "uid": "p-1",
            "labels": { "pod-template-hash": hash, "muster.dev/revision": letter.to_string().repeat(10) },
        },
        "status": status,
    })
}

fn ready() -> Value {
    json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] })
}

fn container(state: Value) -> Value {
    let mut container = json!({ "image": "x:1", "restartCount": 0 });
    for (key, value) in state.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({ "phase": "Pending", "conditions": [{ "type": "Ready", "status": "False" }], "containerStatuses": [container] })
}

fn seen(status: Value, pods: Vec<Value>) -> Observed {
    Observed {
        deployments: vec![deployment('a', status)],
        replica_sets: vec![set('a', "1", "old"), set('a', "2", "new")],
        pods,
        events: Vec::new(),
    }
}

fn rolling(condition: Value) -> Value {
    json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "conditions": [condition] })
}

fn progressing(reason: &str) -> Value {
    let status = if reason == "ProgressDeadlineExceeded" { "False" } else { "True" };
    json!({ "type": "Progressing", "status": status, "reason": reason, "message": "it took its time" })
}

#[test]
fn what_a_cluster_says_becomes_a_state_and_a_reason() {
    let done = json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 });
    let coming = || rolling(progressing("ReplicaSetUpdated"));
    let waiting =
        |reason: &str| container(json!({ "state": { "waiting": { "reason": reason, "message": "because" } } }));
    let crashed = |reason: &str, code: i64| {
        container(json!({
            "restartCount": 4, "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "reason": reason, "exitCode": code, "message": "no\nmodel" } },
        }))
    };
    let unschedulable = json!({ "phase": "Pending", "conditions": [
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu" },
    ] });
    let failure = |message: &str| {
        rolling(json!({ "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message }))
    };
    let leaving = |letter, hash, status| {
        let mut pod = pod(letter, hash, status);
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod
    };
    let restarted = json!({
        "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
        "containerStatuses": [{ "restartCount": 1, "lastState": { "terminated": { "reason": "OOMKilled" } } }],
    });
    let between = json!({
        "phase": "Running", "conditions": [{ "type": "Ready", "status": "False" }],
        "containerStatuses": [{ "restartCount": 2, "state": { "running": {} }, "lastState": { "terminated": { "reason": "OOMKilled" } } }],
    });
    let cases = [
        ("nothing yet", Observed::default(), State::Transitioning, "not there yet"),
        ("unseen change", seen(json!({ "observedGeneration": 1 }), vec![]), State::Transitioning, "not looked"),
        ("all there", seen(done.clone(), vec![pod('a', "new", ready())]), State::Healthy, "2 of 2 replicas answer"),
        (
            "restarted",
            seen(done, vec![pod('a', "new", restarted)]),
            State::Healthy,
            "1 restarts, the last for want of memory",
        ),
        (
            "creating",
            seen(coming(), vec![pod('a', "new", waiting("ContainerCreating"))]),
            State::Transitioning,
            "being made",
        ),
        (
            "pull",
            seen(coming(), vec![pod('a', "new", waiting("ErrImagePull"))]),
            State::Failed,
            "\"x:1\" cannot be pulled: because",
        ),
        (
            "pull again",
            seen(coming(), vec![pod('a', "new", waiting("ImagePullBackOff"))]),
            State::Failed,
            "cannot be pulled",
        ),
        (
            "bad name",
            seen(coming(), vec![pod('a', "new", waiting("InvalidImageName"))]),
            State::Failed,
            "name \"x:1\" is invalid",
        ),
        (
            "never pull",
            seen(coming(), vec![pod('a', "new", waiting("ErrImageNeverPull"))]),
            State::Failed,
            "not on the node",
        ),
        (
            "no secret",
            seen(coming(), vec![pod('a', "new", waiting("CreateContainerConfigError"))]),
            State::Failed,
            "cannot be started: because",
        ),
        (
            "crash",
            seen(coming(), vec![pod('a', "new", crashed("Error", 78))]),
            State::Failed,
            "code 78 (4 restarts): no model",
        ),
        ("memory", seen(coming(), vec![pod('a', "new", crashed("OOMKilled", 137))]), State::Failed, "raise the memory"),
        ("between", seen(coming(), vec![pod('a', "new", between)]), State::Failed, "raise the memory"),
        ("no room", seen(coming(), vec![pod('a', "new", unschedulable)]), State::Unschedulable, "Insufficient cpu"),
        (
            "quota",
            seen(failure("pods \"x\" is forbidden: exceeded quota: q"), vec![]),
            State::Unschedulable,
            "a quota leaves no room",
        ),
        ("security", seen(failure("violates PodSecurity"), vec![]), State::Failed, "refuses its pods: violates"),
        (
            "late",
            seen(rolling(progressing("ProgressDeadlineExceeded")), vec![]),
            State::Failed,
            "did not come up in time",
        ),
        (
            "went down",
            seen(rolling(progressing("NewReplicaSetAvailable")), vec![]),
            State::Unhealthy,
            "none of 2 replicas answers",
        ),
        (
            "old pods are history",
            seen(coming(), vec![pod('a', "old", crashed("Error", 1)), leaving('a', "new", crashed("Error", 1))]),
            State::Transitioning,
            "0 of 2",
        ),
        (
            "the version before answers",
            seen(coming(), vec![pod('c', "else", ready()), pod('a', "new", waiting("ErrImagePull"))]),
            State::Failed,
            "1 of the version before still answer",
        ),
    ];
    for (name, observed, state, words) in cases {
        let status = derive(&service("digits"), &observed);
        assert_eq!(status.state, state, "{name}: {}", status.reason);
        assert!(status.reason.contains(words), "{name}: {:?} has no {words:?}", status.reason);
    }
}

#[test]
fn the_newest_warning_tells_more_than_the_pod() {
    let mut observed = seen(
        rolling(progressing("ReplicaSetUpdated")),
        vec![pod('a', "new", container(json!({ "state": { "running": {} } })))],
    );
    let event = |at: &str, message: &str| json!({ "involvedObject": { "uid": "p-1" }, "reason": "Unhealthy", "lastTimestamp": at, "message": message });
    observed.events = vec![event("2026-01-02T00:00:00Z", "status code: 503"), event("2026-01-01T00:00:00Z", "refused")];
    let status = derive(&service("digits"), &observed);
    assert_eq!(
        (status.state, status.reason.as_str()),
        (State::Transitioning, "0 of 2 replicas answer: status code: 503")
    );
}

#[test]
fn a_canary_without_requests_does_not_make_a_service_fail() {
    let mut observed =
        seen(json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 }), vec![]);
    observed.deployments.push(deployment('b', rolling(progressing("ProgressDeadlineExceeded"))));
    let state = |percent| derive(&canary(service("digits"), percent), &observed).state;
    assert_eq!(state(0), State::Healthy);
    assert_eq!(state(10), State::Failed);
}
