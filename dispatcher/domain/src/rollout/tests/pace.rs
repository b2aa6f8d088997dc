use std::collections::BTreeMap;

use muster_proto::id::DeviceId;

use super::bench::member;
use super::{Bench, Kind, device};
use crate::rollout::{DevicePhase, Member, RolloutStatus};

const EVERYONE: &str = "stages = [{ size = '100%', soak = '5s' }]";

/// Starts by minute since the beginning.
fn by_minute(bench: &Bench) -> Vec<usize> {
    let last = bench.offers.last().map_or(0, |(at, ..)| (at - 1_000) / 60);
    let starts = |minute| bench.offers.iter().filter(|(at, ..)| (at - 1_000) / 60 == minute).count();
    (0..=last).map(starts).collect()
}

#[test]
fn a_constant_rate_is_kept() {
    let mut bench = Bench::start(&format!("rate = {{ per_minute = 12 }}\n{EVERYONE}"), 50);
    bench.run_to(RolloutStatus::Completed);
    // One at the very start, and one each five seconds; ten seconds of it may come at once.
    let minutes = by_minute(&bench);
    assert!(minutes.iter().all(|starts| *starts <= 14), "{minutes:?}");
    assert_eq!(minutes.len(), 5, "{minutes:?}");
}

#[test]
fn a_rate_that_grows_with_healthy_devices_waits_for_them() {
    let rate = "rate = { per_minute = { base = 6, factor = 2, every = 5, max = 60 } }";
    let mut slow = Bench::start(&format!("{rate}\n{EVERYONE}"), 60);
    slow.all_are(Kind::Stuck);
    slow.run(300);
    assert!(by_minute(&slow).iter().all(|starts| *starts <= 7), "{:?}", by_minute(&slow));
    let mut fast = Bench::start(&format!("{rate}\n{EVERYONE}"), 60);
    fast.run_to(RolloutStatus::Completed);
    let minutes = by_minute(&fast);
    assert!(minutes[0] < 10 && minutes[1] > 12, "{minutes:?}");
}

#[test]
fn a_rate_that_grows_with_starts_does_not() {
    let rate = "rate = { per_minute = { base = 6, factor = 2, every = 5, on = 'started', max = 60 } }";
    let mut bench = Bench::start(&format!("{rate}\n{EVERYONE}"), 60);
    bench.all_are(Kind::Stuck);
    bench.run(130);
    assert_eq!(bench.offers.len(), 60);
}

#[test]
fn no_more_are_in_flight_than_allowed() {
    let mut bench = Bench::start(&format!("rate = {{ in_flight = 3 }}\n{EVERYONE}"), 20);
    while bench.rollout.status == RolloutStatus::Running {
        assert!(bench.rollout.in_flight() <= 3);
        bench.run(1);
    }
    assert_eq!(bench.count(DevicePhase::Healthy), 20);
}

#[test]
fn bytes_per_second_are_kept_by_what_devices_were_seen_to_need() {
    // 1,000 bytes are expected at first, 500 once the first devices were healthy.
    let mut bench = Bench::start(&format!("rate = {{ bytes_per_second = 100 }}\n{EVERYONE}"), 40);
    bench.run(100);
    let starts = bench.offers.len();
    assert!((17..=22).contains(&starts), "{starts}");
    bench.run_to(RolloutStatus::Completed);
    assert_eq!(bench.rollout.expected_bytes(), 500);
}

#[test]
fn a_full_site_keeps_no_other_site_waiting() {
    let members = |n: usize| {
        let site = if n < 30 { "slow" } else { "fast" };
        Member { site: site.into(), ..member(&device(n)) }
    };
    let text = format!("rate = {{ site = {{ in_flight = 1 }} }}\n{EVERYONE}");
    let mut bench = Bench::start_with(&text, 1, (0..40).map(members).collect());
    (0..30).for_each(|n| bench.is(n, Kind::Stuck));
    bench.run(200);
    let healthy = (30..40).filter(|n| bench.phase(*n) == DevicePhase::Healthy).count();
    assert_eq!((healthy, bench.offers.len()), (10, 11));
}

#[test]
fn each_site_has_its_own_rate() {
    let site = |n: usize| Member { site: format!("{}", n % 2).into(), ..member(&device(n)) };
    let text = format!("rate = {{ site = {{ per_minute = 6 }} }}\n{EVERYONE}");
    let mut bench = Bench::start_with(&text, 1, (0..40).map(site).collect());
    bench.run(60);
    let mut starts: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, device, _) in &bench.offers {
        *starts.entry(bench.part(device).site).or_default() += 1;
    }
    assert!(starts.values().all(|starts| (6..=8).contains(starts)), "{starts:?}");
}

#[test]
fn late_joiners_do_not_escape_rate_and_gates() {
    let text = "rate = { per_minute = 6 }\nstages = [{ size = '100%', soak = '5s', gates = { failures = '20%', min_sample = 5 } }]";
    let mut bench = Bench::start(text, 5);
    bench.run_to(RolloutStatus::Completed);
    let late: Vec<DeviceId> = (5..45).map(device).collect();
    late.iter().for_each(|device| bench.join(member(device)));
    let before = bench.offers.len();
    bench.run(60);
    assert!(bench.offers.len() - before <= 8, "{}", bench.offers.len() - before);
    bench.all_are(Kind::Crashes);
    bench.run(120);
    assert_eq!(bench.rollout.status, RolloutStatus::Paused, "{}", bench.rollout.reason);
}
