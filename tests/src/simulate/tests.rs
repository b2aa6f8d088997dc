//! The parts by themselves: the world, the other engines against examples of their documentation, and that a seed tells
//! everything.

use muster_dispatcher::domain::rollout::plan::Window;
use muster_dispatcher::domain::rollout::units::Span;
use muster_dispatcher::domain::rollout::{DevicePhase, RolloutStatus};
use muster_proto::code::Code;

use super::agent::{Act, Agent, Env, Terms};
use super::baseline::aws_iot_jobs::{self, AbortCriteria, ExponentialRate, FailureType, Jobs};
use super::baseline::hawkbit::{self, Groups};
use super::baseline::{self, Engine, Policy, State, Step, Tally};
use super::chance::{Chance, For};
use super::compact::Compact;
use super::desired::Desired;
use super::fleet::Fleet;
use super::presence::{Presence, SLOT};
use super::version::Versions;
use super::windows::Openings;
use super::{EPOCH, Scenario, fleet, simulate};

const SMALL: &str = r#"
about = "a small world"
[world]
devices = 200
horizon = "2d"
[[world.hardware]]
name = "pi"
share = 0.5
memory = "1 GiB"
[[world.hardware]]
name = "big"
share = 0.5
memory = "8 GiB"
[[world.presence]]
kind = "always"
share = 0.5
[[world.presence]]
kind = "cycle"
share = 0.3
period = "2h"
online = "1h"
[[world.presence]]
kind = "away"
share = 0.1
from = "10m"
to = "5h"
[[world.presence]]
kind = "joins"
share = 0.1
from = "30m"
to = "3h"
[world.network]
loss = 0.05
doubled = 0.05
[[versions]]
bytes = "8 MiB"
[[versions]]
bytes = "8 MiB"
delta = 0.1
[[versions.defects]]
kind = "crash"
hardware = "pi"
share = 0.2
after = "1m"
[[versions]]
bytes = "8 MiB"
[[versions.defects]]
kind = "probe"
[[rollouts]]
version = 2
plan = { preset = "emergency", target = { all = true } }
"#;

fn small() -> Scenario {
    Scenario::parse(SMALL).expect("a scenario")
}

#[test]
fn the_same_seed_tells_the_same() {
    let json = |seed| {
        let mut outcome = simulate(&small(), None, seed);
        (outcome.seconds, outcome.cpu_seconds) = (0.0, 0.0);
        (outcome.bytes_per_device, outcome.hourly_bytes_per_device) = (0, 0);
        serde_json::to_string(&outcome).expect("JSON")
    };
    assert_eq!(json(3), json(3));
    assert_ne!(json(3), json(4));
}

#[test]
fn unknown_keys_are_errors() {
    let error = Scenario::parse(&SMALL.replace("loss = 0.05", "losses = 0.05")).expect_err("refused");
    assert!(format!("{error:#}").contains("losses"), "{error:#}");
    assert!(Scenario::parse(&SMALL.replace("share = 0.3", "share = 0.4")).is_err());
    assert!(Scenario::parse(&SMALL.replace("version = 2", "version = 9")).is_err());
    assert!(Scenario::parse(&SMALL.replace("hardware = \"pi\"", "hardware = \"pie\"")).is_err());
}

#[test]
fn presence_changes_are_what_presence_says() {
    let scenario = small();
    let fleet = Fleet::new(&scenario.world, 300, Chance::new(1));
    let presence = Presence::new(&fleet, Chance::new(1));
    let online = |now| (0..fleet.len()).map(|d| presence.is_online(&fleet, d, now)).collect::<Vec<_>>();
    let mut now = online(0);
    for t in (SLOT..86_400 / 2).step_by(SLOT as usize) {
        presence.changes(t, |device, comes| {
            assert_ne!(now[device as usize], comes, "device {device} at {t}");
            now[device as usize] = comes;
        });
        assert_eq!(now, online(t), "at {t}");
    }
}

#[test]
fn draws_are_even_and_their_own() {
    let chance = Chance::new(9);
    let mean: f64 = (0..10_000).map(|d| chance.unit(For::Loss, d, 0)).sum::<f64>() / 10_000.0;
    assert!((mean - 0.5).abs() < 0.01, "{mean}");
    let normal: f64 = (0..10_000).map(|d| chance.normal(For::Noise, d, 0).powi(2)).sum::<f64>() / 10_000.0;
    assert!((normal - 1.0).abs() < 0.05, "{normal}");
    assert_ne!(chance.draw(For::Loss, 1, 0), chance.draw(For::Delay, 1, 0));
}

#[test]
fn windows_open_as_cron_says() {
    let window = |cron: &str, length| Window { cron: cron.to_owned(), length: Span(length) };
    // The epoch is midnight on Monday, 2 March 2026.
    let open = |cron: &str, length, at: u64| {
        Openings::new(&[window(cron, length)], EPOCH, EPOCH + 40 * 86_400).is_open(EPOCH + at)
    };
    let hour = 3600;
    for (cron, at, want) in [
        ("0 2 * * *", 2 * hour, true),
        ("0 2 * * *", 2 * hour - 1, false),
        ("0 2 * * *", 3 * hour, false),
        ("*/30 * * * *", 40 * 60, true),
        ("0 2 * * TUE", 2 * hour, false),
        ("0 2 * * TUE-FRI", 26 * hour, true),
        ("0 2 * * 7", 6 * 24 * hour + 2 * hour, true),
        ("0 2 3 MAR *", 26 * hour, true),
        ("0 2 1 4 *", 30 * 24 * hour + 2 * hour, true),
        ("0 2 3 * FRI", 26 * hour, true),
    ] {
        assert_eq!(open(cron, hour, at), want, "{cron} at {at}");
    }
    let openings = Openings::new(&[window("0 2 * * *", hour)], EPOCH, EPOCH + 5 * 86_400);
    assert_eq!(openings.next(EPOCH + 3 * hour), Some(EPOCH + 26 * hour));
}

/// One device with a version that is good and one that its probe refuses.
struct Bench {
    fleet: Fleet,
    versions: Versions,
    terms: Vec<Terms>,
    agents: Compact,
    now: u32,
    acts: Vec<Act>,
}

impl Bench {
    fn new() -> Self {
        let scenario = small();
        let fleet = Fleet::new(&scenario.world, 1, Chance::new(1));
        let versions = Versions::new(&scenario.versions, &fleet, Chance::new(1));
        let terms = vec![Terms { soak: vec![100], ..Terms::default() }];
        Self { agents: Compact::new(&fleet), fleet, versions, terms, now: 10, acts: Vec::new() }
    }

    fn with(&mut self, happen: impl FnOnce(&mut Compact, &Env, &mut Vec<Act>)) -> Vec<Act> {
        let (fleet, versions, terms) = (&self.fleet, &self.versions, &self.terms);
        let env = Env { now: self.now, fleet, versions, terms, chance: Chance::new(1), faulty: true };
        happen(&mut self.agents, &env, &mut self.acts);
        std::mem::take(&mut self.acts)
    }

    fn tell(&mut self, generation: u32, version: u8, held: bool, recall: bool) -> Vec<Act> {
        let desired = Desired { generation, version, rollout: 1, stage: 0, held, urgent: false, recall };
        self.with(|agents, env, acts| agents.told(0, desired, env, acts))
    }
}

#[test]
fn a_device_fetches_soaks_and_proves() {
    let mut bench = Bench::new();
    assert!(matches!(bench.tell(1, 2, false, false)[..], [Act::Report, Act::Fetch(_)]));
    let acts = bench.with(|a, env, acts| a.fetched(0, env, acts));
    assert_eq!(acts, [Act::Probe(2), Act::Switch { from: 1, to: 2 }, Act::Report, Act::Wake(110)]);
    bench.now = 50;
    assert_eq!(bench.with(|a, env, acts| a.tick(0, env, acts)), [Act::Wake(110)]);
    bench.now = 110;
    assert_eq!(bench.with(|a, env, acts| a.tick(0, env, acts)), [Act::Report]);
    assert_eq!((bench.agents.view(0).phase, bench.agents.view(0).trial), (DevicePhase::Healthy, false));
}

#[test]
fn a_recall_needs_no_download_and_an_old_word_changes_nothing() {
    let mut bench = Bench::new();
    bench.tell(1, 2, false, false);
    bench.with(|a, env, acts| a.fetched(0, env, acts));
    bench.tell(2, 1, false, true);
    bench.now = 20;
    let acts = bench.with(|a, env, acts| a.tick(0, env, acts));
    assert_eq!(acts, [Act::Probe(1), Act::Switch { from: 2, to: 1 }, Act::Report]);
    let before = bench.agents.view(0);
    assert_eq!((before.active, before.phase, before.fetched), (1, DevicePhase::Healthy, 0));
    assert!(bench.tell(1, 2, false, false).is_empty());
    assert_eq!(bench.agents.view(0), before);
}

#[test]
fn what_the_probe_refuses_never_answers_and_is_not_tried_twice() {
    let mut bench = Bench::new();
    bench.tell(1, 3, false, false);
    let acts = bench.with(|a, env, acts| a.fetched(0, env, acts));
    assert_eq!(acts, [Act::Probe(3), Act::Report]);
    let view = bench.agents.view(0);
    assert_eq!((view.active, view.phase, view.code), (1, DevicePhase::Failed, Some(Code::ProbeMismatch)));
    assert_eq!(bench.tell(1, 3, false, false), [Act::Report]);
}

#[test]
fn crashes_in_the_trial_lead_back_and_a_power_cut_begins_the_soak_anew() {
    let mut bench = Bench::new();
    bench.tell(1, 2, false, false);
    bench.with(|a, env, acts| a.fetched(0, env, acts));
    bench.now = 60;
    let again = [Act::Switch { from: 2, to: 2 }, Act::Wake(160)];
    assert_eq!(bench.with(|a, env, acts| a.power_cut(0, 30, env, acts)), again);
    // The third end of the process in one trial is one too many.
    assert_eq!(bench.with(|a, env, acts| a.crashed(0, env, acts)), again);
    let acts = bench.with(|a, env, acts| a.crashed(0, env, acts));
    assert_eq!(acts, [Act::Switch { from: 2, to: 1 }, Act::Report]);
    assert_eq!(bench.agents.view(0).code, Some(Code::TrialCrashed));
}

#[test]
fn a_held_version_waits_for_the_word() {
    let mut bench = Bench::new();
    bench.tell(1, 2, true, false);
    assert_eq!(bench.with(|a, env, acts| a.fetched(0, env, acts)), [Act::Probe(2), Act::Report]);
    assert_eq!(bench.agents.view(0).code, Some(Code::Held));
    let acts = bench.tell(2, 2, false, false);
    assert!(acts.contains(&Act::Switch { from: 1, to: 2 }), "{acts:?}");
}

fn job(abort: Vec<AbortCriteria>) -> Jobs {
    // The example of "How job configurations work": 50 a minute, factor 2, notified and succeeded things each 1,000.
    let exponential_rate = Some(ExponentialRate {
        base_rate_per_minute: 50.0,
        increment_factor: 2.0,
        number_of_notified_things: Some(1000),
        number_of_succeeded_things: Some(1000),
    });
    Jobs::new(&aws_iot_jobs::Settings { exponential_rate, abort, ..Default::default() })
}

#[test]
fn aws_rates_grow_as_in_its_example() {
    let mut by_notified = job(Vec::new());
    for (notified, rate) in [(0, 50.0), (999, 50.0), (1000, 100.0), (2000, 200.0), (2999, 200.0), (3000, 400.0)] {
        assert_eq!(by_notified.rate(notified, 0), rate, "{notified} notified");
    }
    let mut by_succeeded = job(Vec::new());
    assert_eq!((by_succeeded.rate(900, 1000), by_succeeded.rate(900, 2000)), (100.0, 200.0));
    // Never above the service's limit of 1,000 a minute.
    assert_eq!(job(Vec::new()).rate(100_000, 0), 1000.0);
}

#[test]
fn an_aws_job_is_cancelled_at_its_threshold() {
    let criterion =
        |failure_type| AbortCriteria { failure_type, min_number_of_executed_things: 100, threshold_percentage: 20.0 };
    let tally = |notified, failed, succeeded| Tally { total: 1000, notified, failed, succeeded, ..Tally::default() };
    let failed = job(vec![criterion(FailureType::Failed)]);
    assert!(failed.aborts(&tally(100, 20, 80)).is_some());
    assert!(failed.aborts(&tally(99, 90, 0)).is_none(), "too few");
    assert!(failed.aborts(&tally(200, 19, 81)).is_none(), "19 %");
    assert!(job(vec![criterion(FailureType::TimedOut)]).aborts(&tally(100, 50, 50)).is_none());
    assert!(matches!(job(vec![criterion(FailureType::All)]).step(0, &tally(100, 50, 50)), Step::Cancel(_)));
}

#[test]
fn hawkbit_thresholds_are_those_of_its_tests() {
    let groups = |success, error| Groups::new(&hawkbit::Settings { groups: vec![50.0, 50.0], success, error }, 10);
    // ThresholdRolloutGroupErrorConditionTest and …SuccessConditionTest, with groups of five.
    assert!(groups(50.0, 10.0).fails(2, 5), "40 % is above 10 %");
    assert!(!groups(50.0, 50.0).fails(1, 5), "20 % is below 50 %");
    assert!(groups(80.0, 50.0).succeeds(4, 5), "80 % reach 80 %");
    assert!(!groups(80.0, 50.0).succeeds(3, 5), "60 % do not");
    let mut rollout = groups(80.0, 10.0);
    let mut tally = Tally { total: 10, by_place: vec![State::Idle; 10], ..Tally::default() };
    assert_eq!(rollout.step(0, &tally), Step::Notify(5));
    tally.notified = 5;
    tally.by_place[..4].fill(State::Succeeded);
    assert_eq!(rollout.step(0, &tally), Step::Notify(5), "the next group");
    tally.by_place[4] = State::Failed;
    assert!(matches!(rollout.step(0, &tally), Step::Pause(_)));
}

#[test]
fn engines_to_compare_with_take_success_for_what_devices_say() {
    let mut scenario = small();
    for (engine, _) in Engine::ALL {
        // Dies within the minute: seen, and still it was there.
        let outcome = baseline::simulate(engine, &scenario, None, 5);
        assert!(outcome.harmed > 0, "{engine:?}: {outcome:?}");
    }
    // Every probe would refuse it; none of them has one.
    scenario.rollouts[0].version = 3;
    let outcome = baseline::simulate(Engine::Hawkbit, &scenario, None, 5);
    assert_eq!(outcome.status, [RolloutStatus::Completed]);
    assert_eq!((outcome.harmed, outcome.healthy), (200, 200));
    assert_eq!(simulate(&scenario, None, 5).harmed, 0);
}

#[test]
fn names_and_numbers_are_each_others() {
    for device in [0, 1, 999_999, 9_999_999] {
        assert_eq!(fleet::number(&fleet::name(device)), device);
    }
}
