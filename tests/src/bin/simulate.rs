//! Lets scenarios of rollouts happen on a virtual clock; see `muster_tests::simulate` and tests/README.md.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use muster_tests::simulate::baseline::{self, Engine};
use muster_tests::simulate::{Outcome, Scenario, Share, compare, seeds, simulate_with};

/// Simulates rollouts over a modelled fleet, from a seed.
#[derive(Parser)]
struct Arguments {
    /// Scenario files.
    #[arg(long, required = true, num_args = 1..)]
    scenario: Vec<PathBuf>,
    /// How many devices; as the scenario says unless given.
    #[arg(long)]
    devices: Option<u32>,
    /// What determines everything.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Runs so many seeds and prints what came of them all.
    #[arg(long)]
    seeds: Option<u64>,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// On how many threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Which agents: compact ones with the real core in the place of some, or the real core everywhere.
    #[arg(long, value_enum, default_value_t = WhichAgents::Mixed)]
    agents: WhichAgents,
    /// The share of devices with the real core, from 0 to 1; 50 devices unless given.
    #[arg(long)]
    core_share: Option<f64>,
    /// Which engine.
    #[arg(long, value_enum, default_value_t = Which::Muster)]
    engine: Which,
    /// Prints a Markdown table of scenarios and engines.
    #[arg(long)]
    compare: bool,
    /// Prints one JSON object per world at the end.
    #[arg(long)]
    json: bool,
    /// Exits with 1 as well where the scenario's expectations are not met.
    #[arg(long)]
    expect: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Muster,
    AwsIotJobs,
    Hawkbit,
    Waves,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WhichAgents {
    Compact,
    Mixed,
    Core,
}

impl Arguments {
    fn share(&self) -> Share {
        match self.agents {
            WhichAgents::Compact => Share::Devices(0),
            WhichAgents::Mixed => self.core_share.map_or(Share::default(), Share::Part),
            WhichAgents::Core => Share::Part(1.0),
        }
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut worlds = Vec::new();
    for path in &arguments.scenario {
        for (variant, scenario) in Scenario::load(path)?.worlds() {
            worlds.push((title(path, &variant), path.clone(), scenario));
        }
    }
    if arguments.compare {
        let named: Vec<_> = worlds.into_iter().map(|(title, _, scenario)| (title, scenario)).collect();
        print!("{}", compare::table(&named, arguments.devices, arguments.seed));
        return Ok(ExitCode::SUCCESS);
    }
    let mut good = true;
    for (title, path, scenario) in &worlds {
        if !arguments.json {
            println!("{title}: {}", scenario.about);
        }
        good &= match arguments.seeds {
            Some(count) => run_seeds(&arguments, path, scenario, count)?,
            None => run_one(&arguments, path, scenario)?,
        };
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn title(path: &Path, variant: &str) -> String {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    if variant.is_empty() { stem } else { format!("{stem}: {variant}") }
}

fn run_one(arguments: &Arguments, path: &Path, scenario: &Scenario) -> anyhow::Result<bool> {
    let engine = match arguments.engine {
        Which::Muster => None,
        Which::AwsIotJobs => Some(Engine::AwsIotJobs),
        Which::Hawkbit => Some(Engine::Hawkbit),
        Which::Waves => Some(Engine::Waves),
    };
    let outcome = match engine {
        None => simulate_with(scenario, arguments.devices, arguments.seed, arguments.share()),
        Some(engine) => baseline::simulate(engine, scenario, arguments.devices, arguments.seed),
    };
    let wrong = if engine.is_none() { outcome.disappoints(&scenario.expect) } else { Vec::new() };
    if arguments.json {
        println!("{}", serde_json::to_string(&outcome).context("the outcome as JSON")?);
    } else {
        print!("{}", outcome.describe());
        wrong.iter().for_each(|what| println!("NOT AS EXPECTED {what}"));
    }
    if outcome.breaches > 0 {
        eprintln!("{}", again(&outcome, path));
    }
    Ok(outcome.breaches == 0 && (wrong.is_empty() || !arguments.expect))
}

fn run_seeds(arguments: &Arguments, path: &Path, scenario: &Scenario, count: u64) -> anyhow::Result<bool> {
    let began = Instant::now();
    let worlds =
        seeds::Worlds { devices: arguments.devices, first: arguments.first_seed, count, share: arguments.share() };
    let summary = seeds::run(scenario, &worlds, arguments.threads, |outcome, wrong| {
        for breach in outcome.first_breaches.iter().take(3) {
            eprintln!("BREACH seed {} at {} s, device {:?}: {}", outcome.seed, breach.at, breach.device, breach.what);
        }
        wrong.iter().for_each(|what| eprintln!("seed {}: {what}", outcome.seed));
        if outcome.breaches > 0 {
            eprintln!("{}", again(outcome, path));
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    if arguments.json {
        println!("{}", serde_json::to_string(&summary).context("the summary as JSON")?);
    } else {
        println!("{summary:#?}\n{seconds:.1} s, {:.1} worlds a minute", summary.worlds as f64 * 60.0 / seconds);
    }
    Ok(summary.breaches == 0)
}

/// The command line that repeats it.
fn again(outcome: &Outcome, path: &Path) -> String {
    let Outcome { devices, seed, .. } = outcome;
    format!(
        "again: cargo run --release -p muster-tests --bin simulate -- --devices {devices} --seed {seed} --scenario {}",
        path.display()
    )
}
