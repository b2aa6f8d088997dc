//! Models in slots, and a caller.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use muster_proto::id::{Digest, SlotName, Version};
use muster_proto::manifest::{
    BundleManifest, Engine, Load, Measured, OutputsFrom, Requires, Sample, Samples, ScriptLimits, Tensor, Tolerance,
    Transforms,
};
use muster_proto::report::Probe;
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tower::ServiceExt;

use crate::api::{Api, End, Exposure, Finished, Limits, Observer, Work, router};
use crate::engine::script::Script;
use crate::engine::stats::SlotStats;
use crate::engine::{Executor, Loaded, Model, Slots};

pub fn digits(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/digits").join(file)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A model as it would be after its probe.
pub fn loaded(model: Model, name: &str, version: u64, transforms: Transforms) -> Arc<Loaded> {
    let manifest = BundleManifest {
        schema: muster_proto::manifest::SCHEMA,
        model: name.parse().expect("a name"),
        version: Version(version),
        description: String::new(),
        properties: BTreeMap::new(),
        created_at: 0,
        entry: "model.onnx".parse().expect("a path"),
        files: Vec::new(),
        engine: Engine { name: "tract".into(), version: crate::engine::VERSION.into(), load: Load::default() },
        inputs: model.inputs().to_vec(),
        outputs: model.outputs().to_vec(),
        transforms,
        samples: Samples {
            file: "samples.bin".parse().expect("a path"),
            count: 0,
            outputs_from: OutputsFrom::Given,
            tolerance: Tolerance::default(),
        },
        measured: Measured::default(),
        requires: Requires::default(),
        script: None,
    };
    let digest = Digest::of(format!("{name} {version}").as_bytes());
    let probe = Probe { samples: 0, passed: 0, max_abs_error: 0.0, load_us: 0, inference_us: 0 };
    let (stats, mirror, together) = (SlotStats::default(), Default::default(), Default::default());
    let (script, example, request) = (None, None, None);
    Arc::new(Loaded { model, script, manifest, digest, probe, example, request, stats, mirror, together })
}

/// A version of digits, planned for one image at a time.
pub fn digits_model(version: u64) -> Arc<Loaded> {
    let input_shapes = BTreeMap::from([("image".into(), vec![1, 1, 8, 8])]);
    let load = Load { input_shapes, ignore_output_shapes: true, ..Load::default() };
    let model = Model::load(&digits(&format!("digits-{version}.onnx")), &load).expect("digits load");
    let transforms = std::fs::read(digits("transforms.json")).expect("transforms");
    loaded(model, "vision/digits", version, serde_json::from_slice(&transforms).expect("transforms"))
}

/// A model of the fixtures without transforms.
pub fn fixture_model(name: &str) -> Arc<Loaded> {
    let model = Model::load(&fixture(&format!("{name}.onnx")), &Load::default()).expect("the fixture loads");
    loaded(model, name, 1, Transforms::default())
}

/// digits, with its sample `seven` as the example that is kept.
pub fn with_example(loaded: Arc<Loaded>) -> Arc<Loaded> {
    let (pixels, logits) = seven();
    let inputs = BTreeMap::from([("image".into(), Tensor::from_f32(vec![1, 1, 8, 8], &pixels).expect("fits"))]);
    let outputs = BTreeMap::from([("logits".into(), Tensor::from_f32(vec![1, 10], &logits).expect("fits"))]);
    let mut loaded = Arc::into_inner(loaded).expect("nobody else has it");
    loaded.example = Some(Sample { name: "seven".into(), inputs, outputs });
    Arc::new(loaded)
}

/// A model with the scoring script that is the module `wasm`.
pub fn with_script(loaded: Arc<Loaded>, wasm: &[u8], limits: ScriptLimits) -> Arc<Loaded> {
    let mut loaded = Arc::into_inner(loaded).expect("nobody else has it");
    loaded.script = Some(Script::new(wasm, limits).expect("loads"));
    loaded.request = Some(r#"{"pixels": []}"#.into());
    Arc::new(loaded)
}

pub fn slot(name: &str) -> SlotName {
    name.parse().expect("a slot")
}

/// An API over slots with these models.
pub struct Device {
    pub slots: Arc<Slots>,
    pub api: Arc<Api>,
    pub exposure: Exposure,
}

impl Device {
    pub fn new(models: impl IntoIterator<Item = (&'static str, Arc<Loaded>)>) -> Self {
        Self::with(models, 16, Limits::default(), |api| api)
    }

    pub fn with(
        models: impl IntoIterator<Item = (&'static str, Arc<Loaded>)>,
        queue: usize,
        limits: Limits,
        change: impl Fn(Api) -> Api,
    ) -> Self {
        let slots = Arc::new(Slots::default());
        for (name, model) in models {
            slots.activate(slot(name), model);
        }
        let executor = Executor::start(Arc::clone(&slots), NonZeroUsize::new(2), queue).expect("threads");
        let api = Arc::new(change(Api::new(Arc::new(executor), limits)));
        Self { slots, api, exposure: Exposure::Loopback }
    }

    /// digits 2 in the slot `digits`.
    pub fn digits() -> Self {
        Self::new([("digits", digits_model(2))])
    }

    pub async fn call(&self, request: Request<Body>) -> Answer {
        let response = router(&self.api, self.exposure).oneshot(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        let body = to_bytes(body, 1 << 30).await.expect("a body").to_vec();
        Answer { status: head.status, headers: head.headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Request::get(path).body(Body::empty()).expect("a request")).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.post_with(path, &[], body).await
    }

    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let request = headers.iter().fold(Request::post(path), |request, (name, value)| request.header(*name, *value));
        self.call(request.body(body.into()).expect("a request")).await
    }
}

/// What came back.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}: {}", self.status, self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// The body of a success.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()
    }
}

/// The pixels of the sample `seven`, and the logits that digits 2 has for it.
pub fn seven() -> (Vec<f32>, Vec<f32>) {
    seven_of(2)
}

/// The same of another version.
pub fn seven_of(version: u64) -> (Vec<f32>, Vec<f32>) {
    let text = std::fs::read(digits(&format!("sample-{version}.json"))).expect("samples");
    let json: Value = serde_json::from_slice(&text).expect("samples");
    let sample = &json["samples"][0];
    assert_eq!(sample["name"], "seven");
    let floats = |value: &Value| value.as_array().expect("data").iter().map(number).collect();
    (floats(&sample["inputs"]["image"]["data"]), floats(&sample["outputs"]["logits"]["data"]))
}

pub fn number(value: &Value) -> f32 {
    value.as_f64().expect("a number") as f32
}

/// Little-endian bytes.
pub fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The other way.
pub fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub fn assert_near(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 1e-3 + 1e-3 * want.abs(), "{got} is not {want}");
    }
}

/// JSON, and blobs behind it.
pub fn binary(json: &Value, blobs: &[u8]) -> (String, Vec<u8>) {
    let json = serde_json::to_vec(json).expect("json");
    (json.len().to_string(), [json, blobs.to_vec()].concat())
}

/// What an observer was told.
#[derive(Debug)]
pub struct Seen {
    pub path: String,
    pub route: String,
    pub traceparent: Option<String>,
    pub end: Option<End>,
    pub by: Option<(String, u64)>,
    pub works: Vec<Work>,
}

/// An observer, and what it is told.
pub fn observer() -> (Arc<dyn Observer>, Receiver<Seen>) {
    let (sender, receiver) = channel(16);
    (Arc::new(Watcher(sender)), receiver)
}

#[derive(Debug)]
struct Watcher(Sender<Seen>);

impl Observer for Watcher {
    fn finished(&self, request: &Finished) {
        let head = request.head;
        let seen = Seen {
            path: head.path.clone(),
            route: head.route.clone(),
            traceparent: head.traceparent.clone(),
            end: request.end,
            by: request.by.map(|(slot, loaded)| (slot.to_string(), loaded.manifest.version.0)),
            works: request.parts.iter().map(|part| part.work).collect(),
        };
        self.0.try_send(seen).expect("the test looks");
    }

    fn dropped(&self) -> u64 {
        7
    }
}
