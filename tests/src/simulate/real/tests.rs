//! The real core and the compact model side by side, told the same; and intruders who really try.

use std::collections::BTreeMap;

use super::super::agent::Terms as OfferTerms;
use super::*;
use crate::simulate::scenario::DefectKind;
use crate::simulate::version::NONE;
use muster_dispatcher::domain::rollout::DevicePhase;
use muster_proto::code::Code;

const WORLD: &str = r#"
about = "devices that are told one thing after the other"
[world]
devices = 80
empty = 0.1
horizon = "2d"
[[world.hardware]]
name = "pi"
share = 0.8
memory = "1 GiB"
[[world.hardware]]
name = "old"
share = 0.2
memory = "256 MiB"
[[world.presence]]
kind = "always"
share = 1.0
[world.faults]
vetoes = 0.3
clock_1970 = 0.2
[[versions]]
bytes = "8 MiB"
[[versions]]
bytes = "8 MiB"
[[versions.defects]]
kind = "crash"
share = 0.3
after = "40s"
[[versions]]
bytes = "8 MiB"
[[versions.defects]]
kind = "probe"
share = 0.4
[[versions]]
bytes = "8 MiB"
needs = "512 MiB"
[[rollouts]]
version = 2
plan = { preset = "emergency", target = { all = true } }
"#;

/// How long everything is left alone after each word, in seconds.
const PAUSE: u32 = 7200;
/// How long a transfer takes, in seconds.
const TRANSFER: u32 = 30;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    Fetched,
    Wake,
    Crash,
}

/// What is compared.
#[derive(Debug, PartialEq)]
struct Standing {
    generation: u32,
    wanted: u8,
    active: u8,
    phase: DevicePhase,
    code: Option<Code>,
}

/// Tells each device its words, one after the other, and says how it stood before each next one.
fn drive(agents: &mut impl Agent, fleet: &Fleet, versions: &Versions, script: &[Vec<Desired>]) -> Vec<Vec<Standing>> {
    let terms =
        vec![OfferTerms { soak: vec![100, 300], shadows: vec![false; 2], veto: 3600, ..OfferTerms::default() }; 2];
    let drive_one = |device: u32| {
        let mut plans: BTreeMap<u32, Vec<Next>> = BTreeMap::new();
        let (mut standings, mut acts) = (Vec::new(), Vec::new());
        for (i, desired) in script[device as usize].iter().enumerate() {
            let (start, end) = (i as u32 * PAUSE + 10, (i as u32 + 1) * PAUSE);
            let mut env = Env { now: start, fleet, versions, terms: &terms, chance: Chance::new(1), faulty: true };
            agents.told(device, *desired, &env, &mut acts);
            loop {
                for act in acts.drain(..) {
                    let mut plan = |at: u32, next| plans.entry(at).or_default().push(next);
                    match act {
                        Act::Fetch(_) => plan(env.now + TRANSFER, Next::Fetched),
                        Act::Wake(at) => plan(at.max(env.now + 1), Next::Wake),
                        Act::GiveUp => plans.values_mut().for_each(|all| all.retain(|next| *next != Next::Fetched)),
                        Act::Switch { to, .. } => {
                            if let Some(defect) = versions.defect(fleet, to, device, DefectKind::Crash) {
                                plan(env.now + defect.after.0 as u32, Next::Crash);
                            }
                        }
                        Act::Probe(_) | Act::Report => {}
                    }
                }
                let Some((at, all)) = plans.first_key_value().map(|(at, all)| (*at, all.clone())) else { break };
                if at > end {
                    break;
                }
                plans.remove(&at);
                env.now = at;
                for next in all {
                    let view = agents.view(device);
                    let crashes = versions.defect(fleet, view.active, device, DefectKind::Crash);
                    match next {
                        Next::Fetched => agents.fetched(device, &env, &mut acts),
                        Next::Wake => agents.tick(device, &env, &mut acts),
                        Next::Crash if crashes.is_some_and(|d| env.now >= view.since + d.after.0 as u32) => {
                            agents.crashed(device, &env, &mut acts);
                        }
                        Next::Crash => {}
                    }
                }
            }
            let View { generation, wanted, active, phase, code, .. } = agents.view(device);
            standings.push(Standing { generation, wanted, active, phase, code });
            agents.heard(device, generation, &env, &mut acts);
        }
        standings
    };
    (0..fleet.len()).map(drive_one).collect()
}

/// Words for one device: offers of any version, held ones, repeated ones, words from the past, and recalls to what it had.
fn words(chance: Chance, fleet: &Fleet, device: u32) -> Vec<Desired> {
    let first = if fleet.is_empty_at_start(device) { NONE } else { 1 };
    let (mut told, mut base, mut generation) = (first, first, 0);
    let mut held = false;
    let mut one = |i: u64| {
        let pick = |salt: u64, below| chance.below(For::Join, device, i << 8 | salt, below);
        let (rollout, stage) = (1 + pick(1, 2) as u8, pick(2, 2) as u8);
        generation += 1;
        let mut desired =
            Desired { generation, version: told, rollout, stage, held: false, urgent: false, recall: false };
        match pick(3, 8) {
            // The hold is lifted, or the same offer is made once more.
            0..3 if held => {}
            0 => (desired.generation, generation) = (generation - 1, generation - 1),
            1 | 2 => (desired.version, desired.recall) = (base, true),
            3 => (desired.version, desired.held) = (2 + pick(4, 3) as u8, true),
            _ => desired.version = 2 + pick(4, 3) as u8,
        }
        if desired.recall || desired.version == told {
            desired.urgent = desired.recall && pick(5, 2) == 0;
        } else {
            base = first;
        }
        (told, held) = (desired.version, desired.held);
        desired
    };
    (0..12).map(&mut one).collect()
}

#[test]
fn the_compact_model_ends_where_the_real_core_ends() {
    let scenario = Scenario::parse(WORLD).expect("a scenario");
    for seed in 0..12 {
        let chance = Chance::new(seed);
        let fleet = Fleet::new(&scenario.world, scenario.world.devices, chance);
        let versions = Versions::new(&scenario.versions, &fleet, chance);
        let script: Vec<Vec<Desired>> = (0..fleet.len()).map(|device| words(chance, &fleet, device)).collect();
        let mut real = Agents::new(&fleet, &scenario, Share::Part(1.0), chance);
        let mut compact = Compact::new(&fleet);
        let (one, other) =
            (drive(&mut real, &fleet, &versions, &script), drive(&mut compact, &fleet, &versions, &script));
        assert_eq!(real.breaches(), [], "seed {seed}");
        for (device, (real, compact)) in one.iter().zip(&other).enumerate() {
            for (i, (real, compact)) in real.iter().zip(compact).enumerate() {
                assert_eq!(real, compact, "seed {seed}, device {device}, word {i} of {:#?}", &script[device][..=i]);
            }
        }
    }
}

#[test]
fn invariant_4_no_attempt_succeeds_at_any_device() {
    let scenario = Scenario::parse(WORLD).expect("a scenario");
    let chance = Chance::new(3);
    let fleet = Fleet::new(&scenario.world, 20, chance);
    let versions = Versions::new(&scenario.versions, &fleet, chance);
    let bundles = Bundles::new(&scenario.versions);
    let env = Env { now: 50, fleet: &fleet, versions: &versions, terms: &[], chance, faulty: false };
    for number in 0..fleet.len() {
        let mut device = Device::new(number, &bundles, &env);
        assert_eq!(takeover::attempt(&device, &bundles, &env), Ok(()));
        let told =
            Desired { generation: 1, version: 3, rollout: 1, stage: 0, held: false, urgent: false, recall: false };
        device.told(told, &bundles, &env, &mut Vec::new());
        assert_eq!(takeover::attempt(&device, &bundles, &env), Ok(()));
        device.fetched(&bundles, &env, &mut Vec::new());
        assert_eq!(takeover::attempt(&device, &bundles, &env), Ok(()));
    }
}
