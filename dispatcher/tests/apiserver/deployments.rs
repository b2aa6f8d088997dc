//! Deployments and ReplicaSets as the controllers of Kubernetes keep them: one set for each pod template, replaced
//! within `maxSurge` and `maxUnavailable`. Left out: `Recreate`, pauses, and sharing a change of scale among several sets.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::controllers::{
    MANAGER, condition, is_active, is_owned, is_ready, number, owner_reference, set_condition, write_status,
};
use super::store::{PODS, Store, is_leaving, name_of, namespace_of, now, time};

pub const DEPLOYMENTS: &str = "apps/v1/deployments";
pub const SETS: &str = "apps/v1/replicasets";
const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Brings each Deployment a step on; when the first of them will have taken too long.
pub fn roll_out(store: &mut Store, now: Timestamp) -> Option<Timestamp> {
    let mut first = None;
    for deployment in store.all(DEPLOYMENTS) {
        let sets: Vec<Value> = store.all(SETS).into_iter().filter(|set| is_owned(set, &deployment)).collect();
        let name = format!("{}-{}", name_of(&deployment), hash(&deployment["spec"]["template"]));
        let Some(new) = sets.iter().find(|set| name_of(set) == name) else {
            make_set(store, &deployment, &name, &sets);
            continue;
        };
        let old: Vec<&Value> = sets.iter().filter(|set| name_of(set) != name).collect();
        if number_revision(store, &deployment, new, &old) || scale(store, &deployment, new, &old) {
            continue;
        }
        forget_history(store, &deployment, &old);
        let deadline = tell(store, &deployment, new, &sets, now);
        first = [first, deadline].into_iter().flatten().min();
    }
    first
}

/// A number or a percentage of `total`.
pub fn part(value: &Value, total: i64, up: bool) -> i64 {
    let percent = value.as_str().and_then(|text| text.trim_end_matches('%').parse::<i64>().ok());
    percent
        .map_or_else(|| value.as_i64().unwrap_or_default(), |percent| (percent * total + if up { 99 } else { 0 }) / 100)
}

fn hash(template: &Value) -> String {
    let mut hasher = DefaultHasher::new();
    template.to_string().hash(&mut hasher);
    format!("{:010x}", hasher.finish() & 0xff_ffff_ffff)
}

fn make_set(store: &mut Store, deployment: &Value, name: &str, sets: &[Value]) {
    let (mut template, mut selector) = (deployment["spec"]["template"].clone(), deployment["spec"]["selector"].clone());
    let hash = name.rsplit('-').next().unwrap_or_default();
    template["metadata"]["labels"][HASH] = json!(hash);
    selector["matchLabels"][HASH] = json!(hash);
    let mut annotations = deployment["metadata"]["annotations"].clone();
    annotations[REVISION] = json!((newest(sets.iter()) + 1).to_string());
    let set = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": namespace_of(deployment), "labels": template["metadata"]["labels"],
            "ownerReferences": [owner_reference(deployment)],
            "annotations": annotations,
        },
        "spec": { "replicas": 0, "selector": selector, "template": template }, "status": { "replicas": 0 },
    });
    store.update(SETS, set, MANAGER, "").expect("a new set");
    let words = format!("Created new replica set \"{name}\"");
    let mut status = deployment["status"].clone();
    set_progress(&mut status, "True", "NewReplicaSetCreated", &words, now());
    write_status(store, DEPLOYMENTS, deployment, status, MANAGER);
}

fn revision(set: &Value) -> i64 {
    set["metadata"]["annotations"][REVISION].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn newest<'a>(sets: impl Iterator<Item = &'a Value>) -> i64 {
    sets.map(revision).max().unwrap_or_default()
}

/// The wanted set has the highest number, also when it has been there before; the Deployment has the same.
fn number_revision(store: &mut Store, deployment: &Value, new: &Value, old: &[&Value]) -> bool {
    let number = revision(new).max(newest(old.iter().copied()) + 1);
    for (collection, object) in [(SETS, new), (DEPLOYMENTS, deployment)] {
        if revision(object) != number {
            let mut object = object.clone();
            object["metadata"]["annotations"][REVISION] = json!(number.to_string());
            store.update(collection, object, MANAGER, "").expect("nobody else has the store");
            return true;
        }
    }
    false
}

/// One step of a rolling update: the new set grows as far as the surge allows, then the old ones shrink as far as enough
/// pods answer, those first that do not answer. Whether there was anything to do.
fn scale(store: &mut Store, deployment: &Value, new: &Value, old: &[&Value]) -> bool {
    let spec = |set: &Value| number(set, "/spec/replicas");
    let answering = |set: &Value| number(set, "/status/availableReplicas");
    let wanted = spec(deployment);
    let limits = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = part(&limits["maxSurge"], wanted, true);
    let unavailable = part(&limits["maxUnavailable"], wanted, false).max(i64::from(surge == 0));
    let total = spec(new) + old.iter().map(|set| spec(set)).sum::<i64>();
    let mut set_to = |set: &Value, replicas: i64| {
        let mut set = set.clone();
        set["spec"]["replicas"] = json!(replicas);
        store.update(SETS, set, MANAGER, "").expect("nobody else has the store");
        true
    };
    if spec(new) > wanted {
        return set_to(new, wanted);
    }
    let room = (wanted + surge - total).min(wanted - spec(new));
    if room > 0 {
        return set_to(new, spec(new) + room);
    }
    let least = wanted - unavailable;
    let surplus = total - least - (spec(new) - answering(new));
    let silent = |set: &Value| (spec(set) - answering(set)).min(surplus);
    if let Some(set) = old.iter().find(|set| silent(set) > 0) {
        return set_to(set, spec(set) - silent(set));
    }
    let spare = answering(new) + old.iter().map(|set| answering(set)).sum::<i64>() - least;
    let surplus = surplus.min(spare);
    old.iter().find(|set| spec(set).min(surplus) > 0).is_some_and(|set| set_to(set, spec(set) - spec(set).min(surplus)))
}

fn forget_history(store: &mut Store, deployment: &Value, old: &[&Value]) {
    let limit = deployment["spec"]["revisionHistoryLimit"].as_u64().unwrap_or(10);
    let mut idle: Vec<&&Value> =
        old.iter().filter(|set| number(set, "/spec/replicas") == 0 && number(set, "/status/replicas") == 0).collect();
    idle.sort_by_key(|set| std::cmp::Reverse(revision(set)));
    for set in idle.into_iter().skip(usize::try_from(limit).expect("small")) {
        store.delete(SETS, namespace_of(set), name_of(set), None).expect("seen");
    }
}

/// Writes the status; when it will have taken too long.
fn tell(store: &mut Store, deployment: &Value, new: &Value, sets: &[Value], now: Timestamp) -> Option<Timestamp> {
    let sum = |field: &str| sets.iter().map(|set| number(set, &format!("/status/{field}"))).sum::<i64>();
    let old = &deployment["status"];
    let (wanted, updated) = (number(deployment, "/spec/replicas"), number(new, "/status/replicas"));
    let (total, ready, available) = (sum("replicas"), sum("readyReplicas"), sum("availableReplicas"));
    let mut status = json!({
        "observedGeneration": deployment["metadata"]["generation"], "conditions": old["conditions"],
        "replicas": total, "updatedReplicas": updated, "readyReplicas": ready, "availableReplicas": available,
        "unavailableReplicas": (total - available).max(0),
    });
    // What is 0 is left out.
    status.as_object_mut().expect("a map").retain(|_, value| *value != 0);
    let unavailable = part(&deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], wanted, false);
    let (word, reason, message) = if available >= wanted - unavailable {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    let before = condition(old, "Available").filter(|before| before["status"] == word).cloned();
    let mut condition_of = json!({ "type": "Available", "status": word, "reason": reason, "message": message });
    condition_of["lastUpdateTime"] = before.map_or_else(|| json!(time(now)), |before| before["lastUpdateTime"].clone());
    set_condition(&mut status, condition_of, now);

    let progress = condition(old, "Progressing").cloned().unwrap_or_default();
    let patience = deployment["spec"]["progressDeadlineSeconds"].as_i64().unwrap_or(600);
    let since: Option<Timestamp> = progress["lastUpdateTime"].as_str().and_then(|at| at.parse().ok());
    let deadline = since.map(|since| since + SignedDuration::from_secs(patience));
    let was_complete = progress["reason"] == "NewReplicaSetAvailable";
    let name = name_of(new);
    let moved = updated > number(old, "/updatedReplicas")
        || total - updated < number(old, "/replicas") - number(old, "/updatedReplicas")
        || ready > number(old, "/readyReplicas")
        || available > number(old, "/availableReplicas");
    let complete = updated == wanted && total == wanted && available == wanted;
    if was_complete && total == updated {
        // What becomes of pods later is not the update's matter.
    } else if complete {
        let words = format!("ReplicaSet \"{name}\" has successfully progressed.");
        set_progress(&mut status, "True", "NewReplicaSetAvailable", &words, now);
    } else if moved {
        let words = format!("ReplicaSet \"{name}\" is progressing.");
        set_progress(&mut status, "True", "ReplicaSetUpdated", &words, now);
    } else if !was_complete && deadline.is_some_and(|deadline| deadline <= now) && progress["status"] == "True" {
        let words = format!("ReplicaSet \"{name}\" has timed out progressing.");
        set_progress(&mut status, "False", "ProgressDeadlineExceeded", &words, now);
    }
    write_status(store, DEPLOYMENTS, deployment, status, MANAGER);
    deadline.filter(|deadline| !complete && *deadline > now)
}

fn set_progress(status: &mut Value, word: &str, reason: &str, message: &str, now: Timestamp) {
    let new = json!({ "type": "Progressing", "status": word, "reason": reason, "message": message, "lastUpdateTime": time(now) });
    set_condition(status, new, now);
}

/// Makes and ends the pods of each set, and counts them.
pub fn replicate(store: &mut Store) {
    for set in store.all(SETS).iter().filter(|set| !is_leaving(set)) {
        let mut pods: Vec<Value> =
            store.all(PODS).into_iter().filter(|pod| is_owned(pod, set) && is_active(pod)).collect();
        let wanted = usize::try_from(number(set, "/spec/replicas")).unwrap_or_default();
        // Those go first of which the least is lost: without a node, not running, not answering, young.
        pods.sort_by_key(|pod| {
            let has_node = !pod["spec"]["nodeName"].is_null();
            let born = pod["metadata"]["creationTimestamp"].as_str().map(str::to_owned);
            std::cmp::Reverse((has_node, pod["status"]["phase"] == "Running", is_ready(pod), std::cmp::Reverse(born)))
        });
        for pod in pods.iter().skip(wanted) {
            store.delete(PODS, namespace_of(pod), name_of(pod), None).expect("seen");
        }
        for _ in pods.len()..wanted {
            make_pod(store, set);
        }
        let pods = store.all(PODS);
        let pods: Vec<&Value> = pods.iter().filter(|pod| is_owned(pod, set) && is_active(pod)).collect();
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        let mut status = json!({
            "observedGeneration": set["metadata"]["generation"], "replicas": pods.len(), "fullyLabeledReplicas": pods.len(),
            "readyReplicas": ready, "availableReplicas": ready,
        });
        status.as_object_mut().expect("a map").retain(|name, value| *value != 0 || name == "replicas");
        write_status(store, SETS, set, status, MANAGER);
    }
}

fn make_pod(store: &mut Store, set: &Value) {
    let template = &set["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"],
        "status": { "phase": "Pending", "qosClass": "Burstable" },
    });
    pod["metadata"]["name"] = json!(format!("{}-{:05x}", name_of(set), store.version()));
    pod["metadata"]["generateName"] = json!(format!("{}-", name_of(set)));
    pod["metadata"]["namespace"] = set["metadata"]["namespace"].clone();
    pod["metadata"]["ownerReferences"] = json!([owner_reference(set)]);
    store.update(PODS, pod, MANAGER, "").expect("a new pod");
}
