//! Serves an ONNX model over the local API without an agent, to point a client at:
//!
//! ```text
//! cargo run --release -p muster-agent --example score_server -- tests/models/digits/digits-2.onnx \
//!     --transforms tests/models/digits/transforms.json --name vision/digits --version 2
//! ```
//!
//! Nothing is verified or probed here: that is registration's and the agent's part.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use muster_agent::api::{Api, Exposure, Limits, Server, router};
use muster_agent::engine::import::{self, Batching};
use muster_agent::engine::stats::SlotStats;
use muster_agent::engine::{Executor, Loaded, NAME, Slots, VERSION};
use muster_proto::id::{Digest, ModelName, Version};
use muster_proto::manifest::{
    BundleManifest, Engine, Measured, OutputsFrom, Requires, SCHEMA, Samples, Tolerance, Transforms,
};
use muster_proto::report::Probe;

#[derive(Parser)]
struct Args {
    /// The ONNX file, or a folder that holds one.
    file: PathBuf,
    /// A file with the manifest's transforms.
    #[arg(long)]
    transforms: Option<PathBuf>,
    /// The model's name; its last segment is the slot.
    #[arg(long, default_value = "model")]
    name: ModelName,
    /// The version that it pretends to be.
    #[arg(long, default_value = "1")]
    version: Version,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8421")]
    listen: SocketAddr,
    /// How many requests may wait.
    #[arg(long, default_value_t = 64)]
    queue: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let args = Args::parse();
    let slots = Arc::new(Slots::default());
    slots.activate(args.name.default_slot(), Arc::new(load(&args)?));
    let executor = Arc::new(Executor::start(slots, None, args.queue)?);
    let api = Arc::new(Api::new(executor, Limits::default()));
    let exposure = if args.listen.ip().is_loopback() { Exposure::Loopback } else { Exposure::Network };
    let mut server = Server::default();
    server.listen(args.listen, router(&api, exposure)).await?;
    if let Some(address) = server.address() {
        println!("http://{address}/score/{}", args.name.default_slot());
    }
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}

fn load(args: &Args) -> Result<Loaded> {
    let shapes = BTreeMap::new();
    let request =
        import::Request { path: &args.file, input_shapes: &shapes, samples: &[], batching: Batching::default() };
    let imported = import::inspect(&request)?;
    let transforms = match &args.transforms {
        Some(path) => serde_json::from_slice(&std::fs::read(path).with_context(|| path.display().to_string())?)?,
        None => Transforms::default(),
    };
    let bytes = std::fs::read(&imported.entry).with_context(|| imported.entry.display().to_string())?;
    let probe = Probe { samples: 0, passed: 0, max_abs_error: 0.0, load_us: 0, inference_us: 0 };
    let samples = Samples {
        file: "samples.bin".parse()?,
        count: 0,
        outputs_from: OutputsFrom::Engine,
        tolerance: Tolerance::default(),
    };
    let manifest = BundleManifest {
        schema: SCHEMA,
        model: args.name.clone(),
        version: args.version,
        description: String::new(),
        properties: BTreeMap::new(),
        created_at: 0,
        entry: "model.onnx".parse()?,
        files: Vec::new(),
        engine: Engine { name: NAME.into(), version: VERSION.into(), load: imported.load },
        inputs: imported.model.inputs().to_vec(),
        outputs: imported.model.outputs().to_vec(),
        transforms,
        samples,
        measured: Measured::default(),
        requires: Requires::default(),
        script: None,
    };
    Ok(Loaded {
        model: imported.model,
        manifest,
        digest: Digest::of(&bytes),
        probe,
        script: None,
        example: None,
        request: None,
        stats: SlotStats::default(),
        mirror: Default::default(),
        together: Default::default(),
    })
}
