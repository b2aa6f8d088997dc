//! A bundle's model without a server, as the bound of what a server could answer: threads that call the engine in a
//! loop. tests/bench/serving runs it beside servers.
//!
//! ```text
//! cargo run --release -p muster-agent --example bare -- digits-1 --threads 2
//! ```
//!
//! The first line of its input is the model's only input in JSON arrays; the answer to it is one line, the only
//! output's numbers. Each further line is a number of seconds, and is answered by a line of JSON with what as many
//! seconds of inferences gave. It ends with its input. Nothing is verified here.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use muster_agent::engine::Model;
use muster_agent::engine::json::tensor_from_json;
use muster_proto::manifest::{BundleManifest, Tensor};
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// The bundle's folder.
    folder: PathBuf,
    /// How many threads call the engine.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let path = args.folder.join("muster-manifest.json");
    let manifest = BundleManifest::parse(&std::fs::read(&path).with_context(|| path.display().to_string())?)?;
    let model = Model::load(&args.folder.join(manifest.entry.as_str()), &manifest.engine.load)?;
    let processors = || thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or_else(processors);

    let mut lines = std::io::stdin().lock().lines();
    let input = lines.next().context("the input is missing")??;
    let inputs = tensors(&model, &serde_json::from_str(&input)?)?;
    let output = model.run(&inputs)?.into_values().next().context("the model has an output")?;
    println!("{}", json!(output.to_f64()));
    for line in lines {
        println!("{}", measure(&model, &inputs, threads, Duration::from_secs_f64(line?.trim().parse()?))?);
    }
    Ok(())
}

fn tensors(model: &Model, arrays: &Value) -> Result<BTreeMap<String, Tensor>> {
    let [spec] = model.inputs() else { anyhow::bail!("the model has {} inputs", model.inputs().len()) };
    Ok(BTreeMap::from([(spec.name.clone(), tensor_from_json(arrays, spec)?)]))
}

/// Counts inferences by their time, to one part in 32.
struct Times([u64; 64 * 32]);

impl Times {
    fn add(&mut self, time: Duration) {
        let nanos = (time.as_nanos() as u64).max(32);
        let exponent = nanos.ilog2();
        let place = exponent as usize * 32 + (nanos >> (exponent - 5)) as usize % 32;
        self.0[place] += 1;
    }

    /// The time in milliseconds under which `share` of all are.
    fn quantile(&self, share: f64) -> f64 {
        let total: u64 = self.0.iter().sum();
        let (mut seen, wanted) = (0, (total as f64 * share).ceil() as u64);
        let place = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let (exponent, part) = place.map_or((0, 0), |place| (place as i32 / 32, place % 32));
        2f64.powi(exponent) * (1.0 + (part + 1) as f64 / 32.0) / 1e6
    }
}

fn measure(model: &Model, inputs: &BTreeMap<String, Tensor>, threads: usize, duration: Duration) -> Result<Value> {
    let began = Instant::now();
    let run = || -> Result<Times> {
        let mut times = Times([0; 64 * 32]);
        while began.elapsed() < duration {
            let one = Instant::now();
            model.run(inputs)?;
            times.add(one.elapsed());
        }
        Ok(times)
    };
    let all = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
            .collect::<Result<Vec<_>>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let mut sum = Times([0; 64 * 32]);
    for times in all {
        sum.0.iter_mut().zip(times.0).for_each(|(total, count)| *total += count);
    }
    let rate = sum.0.iter().sum::<u64>() as f64 / seconds;
    Ok(
        json!({"threads": threads, "seconds": seconds, "rate": rate, "p50_ms": sum.quantile(0.5), "p99_ms": sum.quantile(0.99)}),
    )
}
