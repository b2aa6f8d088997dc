//! What an inference costs through the agent's local HTTP API, against the bare engine in the same
//! process: `cargo bench --workspace --bench inference`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use muster_agent::engine::Model;
use muster_proto::manifest::Tensor;
use muster_tests::inprocess::Hub;
use muster_tests::processes::digits;

/// How long each way is measured.
const MEASURE: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    // `cargo test` runs benches as well; there is nothing to test here.
    if std::env::args().any(|a| a == "--test") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(bench())
}

async fn bench() -> Result<()> {
    let hub = Hub::start().await?;
    let agent = hub.agent("bench").await?;
    hub.register_digits(2).await?;
    hub.roll_out("digits", &[&agent]).await?;
    let address = agent.http.context("the agent listens")?;
    let pixels: Vec<f32> = (0..64).map(|i| i as f32 / 64.0).collect();

    let loaded = agent.slots.get(&"digits".parse()?).context("digits answers")?;
    let model = Model::load(&digits("digits-2.onnx"), &loaded.manifest.engine.load)?;
    let inputs = BTreeMap::from([("image".to_owned(), Tensor::from_f32(vec![1, 1, 8, 8], &pixels)?)]);
    let bare = measure(|| model.run(&inputs).map(drop).map_err(Into::into))?;

    let json = serde_json::json!({
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": pixels}]
    })
    .to_string();
    let header = serde_json::json!({
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "parameters": {"binary_data_size": 256}}],
        "parameters": {"binary_data_output": true}
    })
    .to_string();
    let mut binary = header.clone().into_bytes();
    binary.extend(pixels.iter().flat_map(|p| p.to_le_bytes()));
    let url = format!("http://{address}/v2/models/digits/infer");
    let client = ureq::Agent::new_with_defaults();
    let (by_json, by_binary) = tokio::task::spawn_blocking(move || -> Result<_> {
        let post = |body: &[u8], header_length: Option<usize>| -> Result<()> {
            let mut request = client.post(&url).header("content-type", "application/json");
            if let Some(length) = header_length {
                request = request.header("inference-header-content-length", length.to_string());
            }
            request.send(body)?.body_mut().read_to_vec()?;
            Ok(())
        };
        let by_json = measure(|| post(json.as_bytes(), None))?;
        let by_binary = measure(|| post(&binary, Some(header.len())))?;
        Ok((by_json, by_binary))
    })
    .await??;

    println!("| way | median per inference | against the bare engine |");
    println!("|---|---|---|");
    for (way, took) in [("bare engine", bare), ("HTTP, JSON", by_json), ("HTTP, binary tensors", by_binary)] {
        let times = took.as_secs_f64() / bare.as_secs_f64();
        let added = took.saturating_sub(bare);
        println!("| {way} | {took:.1?} | {times:.2} × (+{added:.1?}) |");
    }
    drop(agent);
    hub.stop().await;
    Ok(())
}

/// The median time of one call.
fn measure(mut call: impl FnMut() -> Result<()>) -> Result<Duration> {
    for _ in 0..50 {
        call()?;
    }
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < MEASURE {
        let one = Instant::now();
        call()?;
        times.push(one.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}
