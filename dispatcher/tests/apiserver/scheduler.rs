//! Gives each pod a node: one that takes pods and has as much left as the pod asks for. Left out: preemption, affinity,
//! taints and spreading.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::controllers::{condition, is_active, set_condition, warn, write_status};
use super::store::{PODS, Store, name_of};

pub const NODES: &str = "v1/nodes";
const MANAGER: &str = "kube-scheduler";

/// Gives each pod without a node one, or says why there is none.
pub fn schedule(store: &mut Store, now: Timestamp) {
    for mut pod in store.all(PODS).into_iter().filter(|pod| is_active(pod) && pod["spec"]["nodeName"].is_null()) {
        let old = pod.clone();
        let placed = place(store, &pod);
        let mut scheduled = json!({ "type": "PodScheduled", "status": "True" });
        if let Err(why) = &placed {
            scheduled = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why });
        }
        set_condition(&mut pod["status"], scheduled, now);
        match placed {
            Ok(node) => {
                pod["spec"]["nodeName"] = json!(node);
                store.update(PODS, pod, MANAGER, "binding").expect("nobody else has the store");
            }
            Err(why) => {
                let is_new = condition(&old["status"], "PodScheduled").is_none_or(|before| before["message"] != *why);
                write_status(store, PODS, &old, pod["status"].clone(), MANAGER);
                if is_new {
                    warn(store, &old, "default-scheduler", "FailedScheduling", &why, now);
                }
            }
        }
    }
}

fn place(store: &Store, pod: &Value) -> Result<String, String> {
    let nodes = store.all(NODES);
    let (pods, mut reasons) = (store.all(PODS), Vec::new());
    for node in &nodes {
        if node["spec"]["unschedulable"] == true {
            reasons.push("1 node(s) were unschedulable".to_owned());
            continue;
        }
        // A pod that is leaving takes its room until it is gone.
        let ended = |pod: &&Value| matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        let there: Vec<&Value> =
            pods.iter().filter(|pod| pod["spec"]["nodeName"] == name_of(node) && !ended(pod)).collect();
        let lacking = ["cpu", "memory"].into_iter().find(|resource| {
            let taken: f64 = there.iter().map(|pod| requested(pod, resource)).sum();
            taken + requested(pod, resource) > quantity(&node["status"]["allocatable"][resource])
        });
        match lacking {
            None => return Ok(name_of(node).to_owned()),
            Some(resource) => reasons.push(format!("1 Insufficient {resource}")),
        }
    }
    Err(format!("0/{} nodes are available: {}.", nodes.len(), reasons.join(", ")))
}

fn requested(pod: &Value, resource: &str) -> f64 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.map(|container| quantity(&container["resources"]["requests"][resource])).sum()
}

/// A quantity as a number: `100m`, `2`, `82Mi`.
fn quantity(value: &Value) -> f64 {
    let text = value.as_str().unwrap_or_default();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "m" => 0.001,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        _ => 1.0,
    };
    digits.parse::<f64>().unwrap_or_default() * unit
}
