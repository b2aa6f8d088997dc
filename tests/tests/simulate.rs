//! Every scenario of `tests/scenarios/` with a small fleet, held against what it expects. The same at scale and over many
//! seeds: `cargo run --release -p muster-tests --bin simulate -- --help`.

use std::path::{Path, PathBuf};

use muster_tests::simulate::{Scenario, Share, simulate, simulate_with};

/// The seed of all of them; a scenario's expectations hold for any.
const SEED: u64 = 7;
/// The most devices of one world.
const DEVICES: u32 = 2_000;

/// The devices of a world in which each runs the real core.
const CORES: u32 = 200;

fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(&folder).expect("the folder of scenarios").flatten();
    let mut all: Vec<PathBuf> =
        entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
    all.sort();
    all
}

#[test]
fn every_scenario_ends_as_it_says() {
    let all = scenarios();
    assert!(all.len() >= 12, "{} scenarios", all.len());
    let mut wrong = Vec::new();
    for path in all {
        let scenario = Scenario::load(&path).expect("a scenario");
        for (variant, scenario) in scenario.worlds() {
            let outcome = simulate(&scenario, Some(scenario.world.devices.min(DEVICES)), SEED);
            let short = outcome.disappoints(&scenario.expect);
            if outcome.breaches > 0 || !short.is_empty() {
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                wrong.push(format!("{name} {variant}: {short:?}\n{}", outcome.describe()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The real core on every device of small fleets: what the invariants say of devices, and what a dispatcher that was taken
/// over tries at them, is looked at inside of each.
#[test]
fn the_real_core_everywhere_breaks_no_invariant() {
    for name in
        ["mixed", "flaky_network", "dispatcher_crashes", "windows_1970", "prestaged", "two_rollouts", "disks_full"]
    {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/{name}.toml"));
        let scenario = Scenario::load(&path).expect("a scenario");
        for seed in 1..=4 {
            let outcome = simulate_with(&scenario, Some(CORES), seed, Share::Part(1.0));
            assert_eq!((outcome.cores, outcome.breaches), (CORES as usize, 0), "{name}: {}", outcome.describe());
        }
    }
}
