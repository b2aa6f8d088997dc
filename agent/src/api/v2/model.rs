//! The protocol's documents about models.

use muster_proto::id::SlotName;
use muster_proto::manifest::{Dim, TensorSpec, parse_target_path};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::Api;
use super::super::caller::Caller;
use super::super::find::Found;
use crate::engine::stats::Totals;

/// The platform, by Triton's pattern of engine and format.
pub const PLATFORM: &str = "tract_onnx";

/// Names, dtypes and shapes; -1 stands for any size.
pub fn metadata((slot, loaded): &Found) -> Value {
    let specs = |specs: &[TensorSpec]| -> Vec<Value> {
        let one = |s: &TensorSpec| json!({"name": s.name, "datatype": s.dtype.oip_name(), "shape": sizes(s)});
        specs.iter().map(one).collect()
    };
    let mut metadata = json!({
        "name": slot,
        "versions": [loaded.manifest.version.to_string()],
        "platform": PLATFORM,
        "inputs": specs(loaded.model.inputs()),
        "outputs": specs(loaded.model.outputs()),
        "parameters": {"muster_model": loaded.manifest.model, "muster_digest": loaded.digest},
    });
    if loaded.script.is_some() {
        let text = "these tensors are the model's own: its scoring script is called at /score only";
        metadata["parameters"]["muster_script"] = json!(text);
    }
    metadata
}

/// Triton's model configuration, as far as it has a meaning here. Batches are part of the shapes, which
/// `max_batch_size` 0 says.
pub fn config((slot, loaded): &Found) -> Value {
    let specs = |specs: &[TensorSpec]| -> Vec<Value> {
        let one = |s: &TensorSpec| json!({"name": s.name, "data_type": data_type(s), "dims": sizes(s)});
        specs.iter().map(one).collect()
    };
    let version = loaded.manifest.version.0;
    json!({
        "name": slot,
        "platform": PLATFORM,
        "backend": crate::engine::NAME,
        "version_policy": {"specific": {"versions": [version]}},
        "max_batch_size": 0,
        "input": specs(loaded.model.inputs()),
        "output": specs(loaded.model.outputs()),
        "instance_group": [{"name": slot, "kind": "KIND_CPU", "count": 1}],
        "default_model_filename": loaded.manifest.entry,
        "parameters": {
            "muster_model": {"string_value": loaded.manifest.model},
            "muster_digest": {"string_value": loaded.digest},
        },
    })
}

fn data_type(spec: &TensorSpec) -> String {
    format!("TYPE_{}", spec.dtype.oip_name())
}

/// A declared shape; -1 stands for any size.
pub fn sizes(spec: &TensorSpec) -> Vec<i64> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => i64::try_from(*size).unwrap_or(i64::MAX),
        Dim::Symbol(_) => -1,
    };
    spec.shape.iter().map(size).collect()
}

/// Triton's statistics since each model was loaded. The time is that of the inferences; what is not
/// measured has a count of 0.
pub fn statistics(found: &[Found]) -> Value {
    let models: Vec<Value> = found.iter().map(of_one).collect();
    json!({"model_stats": models})
}

fn of_one((slot, loaded): &Found) -> Value {
    let Totals { ok, errors, rejected, latency_us, .. } = loaded.stats.totals();
    let timed = |count: u64, micros: u64| json!({"count": count, "ns": micros.saturating_mul(1000)});
    let none = || timed(0, 0);
    json!({
        "name": slot,
        "version": loaded.manifest.version.to_string(),
        "inference_count": ok,
        "execution_count": loaded.stats.executions(),
        "inference_stats": {
            "success": timed(ok, latency_us),
            "fail": timed(errors.saturating_add(rejected), 0),
            "queue": none(),
            "compute_input": none(),
            "compute_infer": timed(ok, latency_us),
            "compute_output": none(),
            "cache_hit": none(),
            "cache_miss": none(),
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [{"type": "CPU", "id": 0, "byte_size": loaded.model.memory_bytes()}],
    })
}

/// A slot in the repository's index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The slot.
    pub name: SlotName,
    /// The version; empty where nobody knows one.
    pub version: String,
    /// READY, LOADING or UNAVAILABLE.
    pub state: &'static str,
    /// Why it does not answer.
    pub reason: &'static str,
}

/// Every slot: those that answer, and unless only those are wanted, those that are still on their way.
pub fn index(api: &Api, caller: Caller, only_ready: bool) -> Vec<Entry> {
    let answering = api.answering(caller);
    let ready = |(slot, loaded): &Found| Entry {
        name: slot.clone(),
        version: loaded.manifest.version.to_string(),
        state: "READY",
        reason: "",
    };
    let mut entries: Vec<Entry> = answering.iter().map(ready).collect();
    let Some(status) = api.status.as_ref().filter(|_| !only_ready) else { return entries };
    for slot in &status.borrow().report.slots {
        if answering.iter().any(|(other, _)| *other == slot.slot) {
            continue;
        }
        let version = slot.desired.as_ref().and_then(|d| parse_target_path(&d.target)).map(|(_, v)| v.to_string());
        let (state, reason) = match (&slot.failure, &slot.desired) {
            (Some(failure), _) => ("UNAVAILABLE", failure.code.name()),
            (None, Some(_)) => ("LOADING", ""),
            (None, None) => ("UNAVAILABLE", "empty"),
        };
        let version = version.unwrap_or_default();
        entries.push(Entry { name: slot.slot.clone(), version, state, reason });
    }
    entries
}
