//! What a cluster does by itself, as rules over the store: Deployments and their pods ([`deployments`]), a node for each
//! pod ([`scheduler`]), disruption budgets, what is left without an owner, and namespaces that go.
//!
//! Each rule looks at everything anew and does what is missing, so that none has to know what the others did.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::store::{NAMESPACES, PODS, Refusal, Store, is_leaving, name_of, namespace_of, not_found, now, time};
use super::{Shared, deployments, scheduler};

/// Who writes what controllers write.
pub const MANAGER: &str = "kube-controller-manager";
const BUDGETS: &str = "policy/v1/poddisruptionbudgets";
/// A pod whose eviction was granted and that is still there after so long was spared by somebody else.
const EVICTION_SECONDS: i64 = 120;

/// Does whenever something changed, or a deadline comes, what is then to be done; for ever.
pub async fn run(server: Shared) {
    let mut signal = server.signal.subscribe();
    loop {
        signal.mark_unchanged();
        let (before, after, deadline) = server.look(|store| {
            let before = store.version();
            let deadline = settle(store, now());
            (before, store.version(), deadline)
        });
        if before != after {
            server.signal.send_modify(|count| *count += 1);
        }
        let pause = deadline.map(|deadline| deadline.duration_since(now()).unsigned_abs());
        tokio::select! {
            changed = signal.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// Does all that is to be done, and tells when the next deadline is.
pub fn settle(store: &mut Store, now: Timestamp) -> Option<Timestamp> {
    loop {
        let before = store.version();
        let deadline = deployments::roll_out(store, now);
        deployments::replicate(store);
        collect_garbage(store);
        budget(store, now);
        scheduler::schedule(store, now);
        empty_namespaces(store);
        if store.version() == before {
            return deadline;
        }
    }
}

/// The whole number at `field`, 0 where there is none.
pub fn number(object: &Value, field: &str) -> i64 {
    object.pointer(field).and_then(Value::as_i64).unwrap_or_default()
}

/// Whether requests may go to a pod.
pub fn is_ready(pod: &Value) -> bool {
    !is_leaving(pod) && condition(&pod["status"], "Ready").is_some_and(|ready| ready["status"] == "True")
}

/// Whether a pod counts: it has neither ended nor is it to go.
pub fn is_active(pod: &Value) -> bool {
    !is_leaving(pod) && !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
}

pub fn is_owned(object: &Value, owner: &Value) -> bool {
    let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    owners.into_iter().any(|reference| reference["uid"] == owner["metadata"]["uid"])
}

/// Whether an object has all labels of a map.
pub fn has_labels(object: &Value, wanted: &Value) -> bool {
    let mut wanted = wanted.as_object().into_iter().flatten();
    wanted.all(|(name, value)| object["metadata"]["labels"][name] == *value)
}

pub fn owner_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
    })
}

/// The condition of that type.
pub fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Sets a condition; the time of its transition is that at which its status last changed.
pub fn set_condition(status: &mut Value, mut new: Value, now: Timestamp) {
    let old = condition(status, new["type"].as_str().expect("a type"));
    let same = old.filter(|old| old["status"] == new["status"]);
    new["lastTransitionTime"] = same.map_or_else(|| json!(time(now)), |old| old["lastTransitionTime"].clone());
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let all = status["conditions"].as_array_mut().expect("a list");
    match all.iter_mut().find(|old| old["type"] == new["type"]) {
        Some(old) => *old = new,
        None => all.push(new),
    }
}

/// A warning about an object.
pub fn warn(store: &mut Store, about: &Value, component: &str, reason: &str, message: &str, now: Timestamp) {
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "name": format!("{}.{:x}", name_of(about), store.version()), "namespace": namespace_of(about) },
        "involvedObject": {
            "apiVersion": about["apiVersion"], "kind": about["kind"], "namespace": about["metadata"]["namespace"],
            "name": about["metadata"]["name"], "uid": about["metadata"]["uid"],
        },
        "type": "Warning", "reason": reason, "message": message, "source": { "component": component }, "count": 1,
        "firstTimestamp": time(now), "lastTimestamp": time(now),
    });
    store.update("v1/events", event, component, "").expect("a new event");
}

/// What it says now, written if it is not what it said.
pub fn write_status(store: &mut Store, collection: &str, old: &Value, status: Value, manager: &str) {
    if old["status"] != status {
        let mut new = old.clone();
        new["status"] = status;
        store.update(collection, new, manager, "status").expect("nobody else has the store");
    }
}

/// Objects whose owners are all gone go as well.
fn collect_garbage(store: &mut Store) {
    let all = store.everything();
    for (collection, object) in &all {
        let owners = object["metadata"]["ownerReferences"].as_array().filter(|owners| !owners.is_empty());
        let is_there =
            |owner: &Value| all.iter().any(|(_, other)| other["metadata"]["uid"] == owner["uid"] && !is_leaving(other));
        if owners.is_some_and(|owners| !owners.iter().any(is_there)) {
            store.delete(collection, namespace_of(object), name_of(object), None).expect("seen");
        }
    }
}

/// A namespace that is to go loses what is in it, and goes when nothing is left.
fn empty_namespaces(store: &mut Store) {
    for namespace in store.all(NAMESPACES).iter().filter(|namespace| is_leaving(namespace)) {
        for (collection, object) in store.everything() {
            if namespace_of(&object) == name_of(namespace) {
                store.delete(&collection, namespace_of(&object), name_of(&object), None).expect("seen");
            }
        }
        if !store.everything().iter().any(|(_, object)| namespace_of(object) == name_of(namespace)) {
            store.finish(NAMESPACES, namespace);
        }
    }
}

/// Tells of each budget how many pods may go.
fn budget(store: &mut Store, now: Timestamp) {
    for budget in store.all(BUDGETS) {
        let namespace = namespace_of(&budget);
        let within = |pod: &&Value| {
            namespace_of(pod) == namespace && has_labels(pod, &budget["spec"]["selector"]["matchLabels"])
        };
        let pods = store.all(PODS);
        let pods: Vec<&Value> = pods.iter().filter(within).filter(|pod| is_active(pod)).collect();
        let evicted = |pod: &Value| {
            let since = budget["status"]["disruptedPods"][name_of(pod)].as_str().and_then(|at| at.parse().ok());
            since.is_some_and(|at: Timestamp| now < at + SignedDuration::from_secs(EVICTION_SECONDS))
        };
        let expected: i64 = expected(store, &pods);
        let desired = match &budget["spec"]["maxUnavailable"] {
            Value::Null => deployments::part(&budget["spec"]["minAvailable"], expected, true),
            most => (expected - deployments::part(most, expected, true)).max(0),
        };
        let healthy = pods.iter().filter(|pod| is_ready(pod) && !evicted(pod)).count();
        let healthy = i64::try_from(healthy).expect("few");
        let allowed = (healthy - desired).max(0);
        let mut status = budget["status"].clone();
        let (word, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        set_condition(
            &mut status,
            json!({ "type": "DisruptionAllowed", "status": word, "reason": reason, "message": "" }),
            now,
        );
        status["expectedPods"] = json!(expected);
        status["currentHealthy"] = json!(healthy);
        status["desiredHealthy"] = json!(desired);
        status["disruptionsAllowed"] = json!(allowed);
        status["observedGeneration"] = budget["metadata"]["generation"].clone();
        if let Some(evictions) = status.get_mut("disruptedPods").and_then(Value::as_object_mut) {
            evictions.retain(|name, _| pods.iter().any(|pod| name_of(pod) == name && evicted(pod)));
        }
        write_status(store, BUDGETS, &budget, status, MANAGER);
    }
}

/// How many pods those who made `pods` are to have.
fn expected(store: &Store, pods: &[&Value]) -> i64 {
    let sets = store.all(deployments::SETS);
    let owns = |deployment: &Value| {
        sets.iter().any(|set| is_owned(set, deployment) && pods.iter().any(|pod| is_owned(pod, set)))
    };
    let owners = store.all(deployments::DEPLOYMENTS).into_iter().filter(owns);
    owners.map(|deployment| number(&deployment, "/spec/replicas")).sum()
}

/// Lets a pod go if its budget allows it.
pub fn evict(store: &mut Store, namespace: &str, name: &str) -> Result<Value, Refusal> {
    let pod = store.get(PODS, namespace, name).cloned().ok_or_else(|| not_found(PODS, name))?;
    let budgets = store.all(BUDGETS).into_iter().filter(|budget| {
        namespace_of(budget) == namespace && has_labels(&pod, &budget["spec"]["selector"]["matchLabels"])
    });
    // What does not answer is not disrupted, as `unhealthyPodEvictionPolicy: AlwaysAllow` says.
    for mut budget in budgets.filter(|_| is_ready(&pod)).collect::<Vec<_>>() {
        let allowed = number(&budget, "/status/disruptionsAllowed");
        if allowed == 0 {
            let words = "Cannot evict pod as it would violate the pod's disruption budget.";
            let (needed, healthy) = (&budget["status"]["desiredHealthy"], &budget["status"]["currentHealthy"]);
            let cause = format!(
                "The disruption budget {} needs {needed} healthy pods and has {healthy} currently",
                name_of(&budget)
            );
            return Err(Refusal(429, "TooManyRequests", words.into(), vec![(cause, String::new())]));
        }
        budget["status"]["disruptionsAllowed"] = json!(allowed - 1);
        budget["status"]["disruptedPods"][name] = json!(time(now()));
        store.update(BUDGETS, budget, "kube-apiserver", "status")?;
    }
    store.delete(PODS, namespace, name, None)?;
    Ok(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 }))
}
