use muster_proto::id::DeviceId;

use super::bench::{member, report};
use super::{Bench, Kind, device};
use crate::rollout::evidence::{Reading, ShadowReading, Usual};
use crate::rollout::{DevicePhase, Event, Member, RolloutStatus, Word};

const SHADOWED: &str = "
    silence = '60s'
    stages = [
        { name = 'canary', size = 3, soak = '5s', shadow = { for = '100s', inferences = 40 },
          gates = { agreement = '90%', on_breach = 'abort' } },
        { name = 'everyone', size = '100%', soak = '5s' },
    ]";

fn fleet(text: &str, devices: usize, comparable: usize) -> Bench {
    let one = |n| Member { comparable: n < comparable, ..member(&device(n)) };
    Bench::start_with(text, 1, (0..devices).map(one).collect())
}

/// Each device that runs a shadow says how often it agreed.
fn shadows_say(bench: &mut Bench, compared: u64, agreed: u64) {
    let held = |bench: &Bench, device: &DeviceId| bench.part(device).is_held();
    let devices: Vec<DeviceId> = bench.toys.keys().filter(|device| held(bench, device)).cloned().collect();
    for device in devices {
        let shadow = ShadowReading { compared, agreed, ..ShadowReading::default() };
        let reading = Box::new(Reading { shadow: Some(shadow), ..Reading::default() });
        bench.tell(Event::Measured { device, of_this: false, reading, usual: Usual::default() });
    }
}

fn switched(bench: &Bench) -> usize {
    bench.offers.iter().filter(|(_, _, held)| !held).count()
}

#[test]
fn a_shadow_that_disagrees_is_recalled_and_no_device_has_switched() {
    let mut bench = fleet(SHADOWED, 10, 10);
    bench.run(10);
    assert_eq!(bench.offers.len(), 3);
    shadows_say(&mut bench, 100, 40);
    bench.run(10);
    assert_eq!(bench.rollout.status, RolloutStatus::Recalled);
    assert_eq!((switched(&bench), bench.harmed(), bench.count(DevicePhase::Recalled)), (0, 0, 3));
    assert!(bench.decisions.iter().any(|what| what.contains("agreement 40%")), "{:?}", bench.decisions);
}

#[test]
fn a_shadow_that_agrees_often_enough_switches_the_same_devices_without_fetching_again() {
    let mut bench = fleet(SHADOWED, 10, 10);
    bench.run(10);
    shadows_say(&mut bench, 40, 39);
    assert_eq!(switched(&bench), 3);
    bench.run_to(RolloutStatus::Completed);
    assert!(bench.toys.values().all(|toy| toy.fetched == 1));
    assert_eq!(bench.count(DevicePhase::Healthy), 10);
}

#[test]
fn too_few_inferences_do_until_the_time_is_over_if_they_agree() {
    let mut bench = fleet(SHADOWED, 10, 10);
    bench.run(10);
    shadows_say(&mut bench, 20, 20);
    bench.run(80);
    assert_eq!(switched(&bench), 0);
    bench.run_until(|bench| switched(bench) == 3);
}

#[test]
fn a_shadow_run_with_nothing_to_go_by_pauses() {
    let mut bench = fleet(SHADOWED, 10, 10);
    bench.run_to(RolloutStatus::Paused);
    assert!(bench.rollout.reason.contains("nothing to go by"), "{}", bench.rollout.reason);
    assert_eq!(switched(&bench), 0);
    bench.say(Word::Resume);
    bench.run(50);
    assert_eq!(bench.rollout.status, RolloutStatus::Running, "it has its time once more");
    shadows_say(&mut bench, 100, 100);
    bench.run_to(RolloutStatus::Completed);
}

#[test]
fn the_time_of_a_shadow_run_begins_when_the_first_shadow_runs() {
    let mut bench = fleet(SHADOWED, 10, 10);
    bench.fetch = 500;
    bench.run(550);
    assert_eq!(bench.rollout.status, RolloutStatus::Running, "{}", bench.rollout.reason);
    assert_eq!(bench.count(DevicePhase::Staged), 3);
}

#[test]
fn where_nothing_runs_there_is_nothing_to_shadow() {
    let mut bench = fleet(SHADOWED, 10, 0);
    bench.run_to(RolloutStatus::Completed);
    assert!(bench.decisions.iter().any(|what| what.starts_with("there is nothing to shadow")));
    assert!(bench.offers.iter().all(|(_, _, held)| !held));
}

#[test]
fn devices_with_something_to_shadow_get_time_to_come_back_before_it_is_left_out() {
    let one = |n| Member { comparable: n < 5, online: n >= 5, ..member(&device(n)) };
    let mut bench = Bench::start_with(SHADOWED, 1, (0..10).map(one).collect());
    bench.run(30);
    assert_eq!(bench.offers.len(), 0, "as right after a restart of the dispatcher");
    bench.connect(&device(1), true);
    bench.run(10);
    assert_eq!(bench.offers.iter().map(|(_, d, held)| (d.clone(), *held)).collect::<Vec<_>>(), [(device(1), true)]);
    let mut bench = Bench::start_with(SHADOWED, 1, (0..10).map(one).collect());
    bench.run(70);
    assert!(switched(&bench) >= 3, "they do not hold it up for ever");
}

#[test]
fn only_devices_with_something_to_compare_with_are_shadows() {
    let mut bench = fleet(SHADOWED, 40, 3);
    bench.run(10);
    let mut shadows: Vec<DeviceId> = bench.offered();
    shadows.sort();
    assert_eq!(shadows, [device(0), device(1), device(2)]);
}

#[test]
fn a_failed_probe_counts_while_it_is_held() {
    let text = SHADOWED.replace("agreement = '90%'", "agreement = '90%', failures = 0");
    let mut bench = fleet(&text, 10, 10);
    bench.all_are(Kind::FailsProbe);
    bench.run(10);
    assert_eq!(bench.rollout.status, RolloutStatus::Recalled);
    assert_eq!((bench.harmed(), bench.offers.len()), (0, 3));
}

#[test]
fn skipping_a_shadow_run_lets_its_devices_switch() {
    let mut bench = fleet(SHADOWED, 10, 10);
    bench.run(10);
    bench.say(Word::Skip("it cannot be compared".into()));
    bench.run_to(RolloutStatus::Completed);
    assert_eq!(bench.count(DevicePhase::Healthy), 10);
}

#[test]
fn the_time_of_a_shadow_run_is_not_on_the_devices_own() {
    let mut bench = fleet(&format!("device_timeout = '60s'\n{SHADOWED}"), 10, 10);
    bench.run(95);
    assert_eq!(bench.count(DevicePhase::Staged), 3);
    // One that does not say why it waits.
    let first = bench.offered()[0].clone();
    bench.tell(report(&first, DevicePhase::Staged, None));
    bench.toys.get_mut(&first).unwrap().kind = Kind::Waits;
    shadows_say(&mut bench, 100, 100);
    bench.run(50);
    assert_eq!((bench.count(DevicePhase::Failed), bench.part(&first).phase), (0, DevicePhase::Staged));
    bench.run(60);
    assert_eq!(bench.part(&first).phase, DevicePhase::Failed, "it has its own time from the word to switch on");
}
