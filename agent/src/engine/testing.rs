//! Models and data for the tests of this module.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use muster_proto::id::{Digest, Version};
use muster_proto::manifest::{
    Blob, BundleManifest, Codec, Engine, File, Load, Measured, OutputsFrom, Requires, SCHEMA, Sample, SampleSet,
    Samples, Tensor, Tolerance, Transforms,
};
use muster_proto::wire;

use super::import::{Batching, Request, inspect};
use super::json::{GivenSample, parse_samples};
use super::{Loaded, Model, NAME, VERSION, loaded};

pub(crate) fn digits(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/digits").join(file)
}

pub(crate) fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file)
}

/// The recipe that gives one input a shape; the declared output shapes would contradict it.
pub(crate) fn shaped(name: &str, shape: &[u64]) -> Load {
    let input_shapes = BTreeMap::from([(name.into(), shape.to_vec())]);
    Load { input_shapes, ignore_output_shapes: true, ..Load::default() }
}

/// A digits model as registration loads it: planned for one image.
pub(crate) fn digits_model(version: u32) -> Model {
    Model::load(&digits(&format!("digits-{version}.onnx")), &shaped("image", &[1, 1, 8, 8])).expect("digits load")
}

/// All held-out images as one batch, and their labels.
pub(crate) fn held_out() -> (Tensor, Vec<u8>) {
    let pixels = std::fs::read(digits("heldout-images.bin")).expect("images");
    let labels = std::fs::read(digits("heldout-labels.bin")).expect("labels");
    let values: Vec<f32> = pixels.iter().map(|p| f32::from(*p) / 255.0).collect();
    (Tensor::from_f32(vec![labels.len() as u64, 1, 8, 8], &values).expect("fits"), labels)
}

pub(crate) fn f32s(shape: &[u64], values: &[f32]) -> Tensor {
    Tensor::from_f32(shape.to_vec(), values).expect("fits")
}

pub(crate) fn named<const N: usize>(tensors: [(&str, Tensor); N]) -> BTreeMap<String, Tensor> {
    tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
}

/// `y = x · w` with x of shape [N, 64], in the folder of its own: N is open, and items do not touch one another.
pub(crate) fn wide_model() -> (tempfile::TempDir, PathBuf) {
    use tract_onnx::pb::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
        ValueInfoProto,
        tensor_shape_proto::{Dimension, dimension::Value as Size},
        type_proto,
    };
    let dim = |value| Dimension { value: Some(value), ..Dimension::default() };
    let dims = || vec![dim(Size::DimParam("N".into())), dim(Size::DimValue(64))];
    let value = |name: &str| {
        let tensor = type_proto::Tensor { elem_type: 1, shape: Some(TensorShapeProto { dim: dims() }) };
        let r#type = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
        ValueInfoProto { name: name.into(), r#type: Some(r#type), ..ValueInfoProto::default() }
    };
    let weights = (0..64 * 64).map(|index| ((index * 37 % 101) as f32 - 50.0) / 100.0);
    let weights = TensorProto {
        dims: vec![64, 64],
        data_type: 1,
        name: "w".into(),
        raw_data: weights.flat_map(f32::to_le_bytes).collect(),
        ..TensorProto::default()
    };
    let node = NodeProto {
        input: vec!["x".into(), "w".into()],
        output: vec!["y".into()],
        op_type: "MatMul".into(),
        name: "mul".into(),
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: vec![node],
        name: "wide".into(),
        initializer: vec![weights],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 13 }];
    let model = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() };
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("wide.onnx");
    std::fs::write(&path, prost::Message::encode_to_vec(&model)).expect("writes");
    (folder, path)
}

/// An item of [`wide_model`], each `seed` another one.
pub(crate) fn wide_item(seed: u32) -> BTreeMap<String, Tensor> {
    let values: Vec<f32> = (0..64).map(|index| ((index * 13 + seed * 7) % 29) as f32 / 29.0).collect();
    named([("x", f32s(&[1, 64], &values))])
}

/// [`wide_model`] with two golden samples.
pub(crate) fn wide_bundle() -> Bundle {
    let (_folder, path) = wide_model();
    let model = Model::load(&path, &shaped("x", &[1, 64])).expect("loads");
    let sample = |seed: u32| {
        let inputs = wide_item(seed);
        Sample { name: seed.to_string(), outputs: model.run(&inputs).expect("runs"), inputs }
    };
    Bundle::new(&path, vec![sample(1), sample(2)], 1)
}

/// A bundle's files in a folder of its own, and its manifest.
pub(crate) struct Bundle {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) manifest: BundleManifest,
}

impl Bundle {
    /// The digits model of `version` with its golden samples.
    pub(crate) fn digits(version: u32) -> Self {
        let text = std::fs::read(digits(&format!("sample-{version}.json"))).expect("samples");
        let given = parse_samples(&text).expect("samples");
        let sample = |given: GivenSample| Sample {
            name: given.name,
            inputs: given.inputs,
            outputs: given.outputs.expect("the digits samples have outputs"),
        };
        Self::new(&digits(&format!("digits-{version}.onnx")), given.into_iter().map(sample).collect(), version)
    }

    /// The model at `onnx` with `samples`.
    pub(crate) fn new(onnx: &Path, samples: Vec<Sample>, version: u32) -> Self {
        let given =
            |s: &Sample| GivenSample { name: s.name.clone(), inputs: s.inputs.clone(), ..GivenSample::default() };
        let given: Vec<GivenSample> = samples.iter().map(given).collect();
        let (shapes, batching) = (BTreeMap::new(), Batching::default());
        let request = Request { path: onnx, input_shapes: &shapes, samples: &given, batching };
        let imported = inspect(&request).expect("imports");
        let model = std::fs::read(onnx).expect("model");
        let count = samples.len() as u32;
        let encoded = wire::encode(&SampleSet::V1(samples)).expect("encodes");
        let folder = tempfile::tempdir().expect("temp dir");
        let file = |path: &str, bytes: &[u8]| {
            std::fs::write(folder.path().join(path), bytes).expect("writes");
            let blob = Blob::describe(Codec::Stored, bytes, 65_536);
            File { path: path.parse().expect("path"), size: bytes.len() as u64, digest: Digest::of(bytes), blob }
        };
        let manifest = BundleManifest {
            schema: SCHEMA,
            model: "digits".parse().expect("name"),
            version: Version(u64::from(version)),
            description: String::new(),
            properties: BTreeMap::new(),
            created_at: 0,
            entry: "model.onnx".parse().expect("path"),
            files: vec![file("model.onnx", &model), file("samples.bin", &encoded)],
            engine: Engine { name: NAME.into(), version: VERSION.into(), load: imported.load },
            inputs: imported.model.inputs().to_vec(),
            outputs: imported.model.outputs().to_vec(),
            transforms: Transforms::default(),
            samples: Samples {
                file: "samples.bin".parse().expect("path"),
                count,
                outputs_from: OutputsFrom::Given,
                tolerance: Tolerance::default(),
            },
            measured: Measured::default(),
            requires: Requires::default(),
            script: None,
        };
        Self { folder, manifest }
    }

    pub(crate) fn load(&self) -> Result<Loaded, loaded::Error> {
        let digest = Digest::of(&self.manifest.to_bytes().expect("consistent"));
        Loaded::load(self.folder.path(), &self.manifest, digest)
    }
}

/// WebAssembly modules as text.
pub(crate) mod wasm {
    /// Returns what it was given.
    pub(crate) const ECHO: &str =
        "(i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1)))";

    /// A module with `alloc` as the body of that function, and `extra`.
    pub(crate) fn with_alloc(alloc: &str, extra: &str) -> Vec<u8> {
        let text = format!(
            "(module (memory (export \"memory\") 2)
               (func (export \"alloc\") (param i32) (result i32) {alloc})
               {extra})"
        );
        wat::parse_str(text).expect("is a module")
    }

    /// Both hooks with `body`.
    pub(crate) fn hooks(body: &str) -> String {
        hook("preprocess", body) + &hook("postprocess", body)
    }

    /// The hook called `name`.
    pub(crate) fn hook(name: &str, body: &str) -> String {
        format!("(func (export \"{name}\") (param i32 i32) (result i64) {body})")
    }
}
