//! The protocol's messages about models.

use std::collections::HashMap;

use muster_proto::manifest::{Dtype, TensorSpec};

use super::super::find::Found;
use super::super::v2::model::{Entry, PLATFORM, sizes};
use super::proto::model_instance_group::Kind;
use super::proto::model_metadata_response::TensorMetadata;
use super::proto::model_version_policy::{PolicyChoice, Specific};
use super::proto::repository_index_response::ModelIndex;
use super::proto::*;
use crate::engine::stats::Totals;

/// Names, dtypes and shapes.
pub fn metadata((slot, loaded): &Found) -> ModelMetadataResponse {
    let one = |spec: &TensorSpec| TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.dtype.oip_name().into(),
        shape: sizes(spec),
    };
    ModelMetadataResponse {
        name: slot.to_string(),
        versions: vec![loaded.manifest.version.to_string()],
        platform: PLATFORM.into(),
        inputs: loaded.model.inputs().iter().map(one).collect(),
        outputs: loaded.model.outputs().iter().map(one).collect(),
    }
}

/// Triton's model configuration, as far as it has a meaning here.
pub fn config((slot, loaded): &Found) -> ModelConfig {
    let input =
        |s: &TensorSpec| ModelInput { name: s.name.clone(), data_type: datatype(s.dtype).into(), dims: sizes(s) };
    let output =
        |s: &TensorSpec| ModelOutput { name: s.name.clone(), data_type: datatype(s.dtype).into(), dims: sizes(s) };
    let parameter = |name: &str, value: String| (name.to_owned(), ModelParameter { string_value: value });
    let versions = vec![i64::try_from(loaded.manifest.version.0).unwrap_or(i64::MAX)];
    let policy = ModelVersionPolicy { policy_choice: Some(PolicyChoice::Specific(Specific { versions })) };
    ModelConfig {
        name: slot.to_string(),
        platform: PLATFORM.into(),
        backend: crate::engine::NAME.into(),
        version_policy: Some(policy),
        max_batch_size: 0,
        input: loaded.model.inputs().iter().map(input).collect(),
        output: loaded.model.outputs().iter().map(output).collect(),
        instance_group: vec![ModelInstanceGroup { name: slot.to_string(), count: 1, kind: Kind::Cpu.into() }],
        default_model_filename: loaded.manifest.entry.to_string(),
        parameters: HashMap::from([
            parameter("muster_model", loaded.manifest.model.to_string()),
            parameter("muster_digest", loaded.digest.to_string()),
        ]),
    }
}

fn datatype(dtype: Dtype) -> DataType {
    match dtype {
        Dtype::Bool => DataType::TypeBool,
        Dtype::U8 => DataType::TypeUint8,
        Dtype::U16 => DataType::TypeUint16,
        Dtype::U32 => DataType::TypeUint32,
        Dtype::U64 => DataType::TypeUint64,
        Dtype::I8 => DataType::TypeInt8,
        Dtype::I16 => DataType::TypeInt16,
        Dtype::I32 => DataType::TypeInt32,
        Dtype::I64 => DataType::TypeInt64,
        Dtype::F16 => DataType::TypeFp16,
        Dtype::F32 => DataType::TypeFp32,
        Dtype::F64 => DataType::TypeFp64,
    }
}

/// What a model did since it was loaded; what is not measured has a count of 0.
pub fn statistics((slot, loaded): &Found) -> ModelStatistics {
    let Totals { ok, errors, rejected, latency_us, .. } = loaded.stats.totals();
    let timed = |count: u64, micros: u64| Some(StatisticDuration { count, ns: micros.saturating_mul(1000) });
    let none = || timed(0, 0);
    let byte_size = loaded.model.memory_bytes();
    ModelStatistics {
        name: slot.to_string(),
        version: loaded.manifest.version.to_string(),
        last_inference: 0,
        inference_count: ok,
        execution_count: loaded.stats.executions(),
        inference_stats: Some(InferStatistics {
            success: timed(ok, latency_us),
            fail: timed(errors.saturating_add(rejected), 0),
            queue: none(),
            compute_input: none(),
            compute_infer: timed(ok, latency_us),
            compute_output: none(),
            cache_hit: none(),
            cache_miss: none(),
        }),
        memory_usage: vec![MemoryUsage { r#type: "CPU".into(), id: 0, byte_size }],
    }
}

/// A slot in the repository's index.
pub fn entry(Entry { name, version, state, reason }: Entry) -> ModelIndex {
    ModelIndex { name: name.to_string(), version, state: state.into(), reason: reason.into() }
}
