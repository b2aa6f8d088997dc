use std::collections::{BTreeMap, BTreeSet};

use muster_proto::id::DeviceId;

use super::bench::member;
use super::{Bench, device, plan};
use crate::rollout::hash::rank;
use crate::rollout::{DevicePhase, Event, Member, Rollout, RolloutId, RolloutStatus};

const THREE_STAGES: &str = "
    stages = [
        { name = 'canary', size = 2, soak = '5s' },
        { name = 'half', size = '50%', soak = '5s' },
        { name = 'everyone', size = '100%', soak = '5s' },
    ]";

fn in_line(rollout: &Rollout) -> Vec<DeviceId> {
    let mut line: Vec<_> = rollout.parts.iter().map(|(device, part)| (part.place, device.clone())).collect();
    line.sort();
    line.into_iter().map(|(_, device)| device).collect()
}

#[test]
fn sizes_of_stages_count_earlier_stages_in() {
    let mut bench = Bench::start(THREE_STAGES, 10);
    let mut seen = Vec::new();
    bench.run_until(|bench| bench.rollout.stage == 1);
    seen.push((bench.rollout.taken(0), bench.count(DevicePhase::Healthy)));
    bench.run_until(|bench| bench.rollout.stage == 2);
    seen.push((bench.rollout.taken(1), bench.count(DevicePhase::Healthy)));
    bench.run_to(RolloutStatus::Completed);
    seen.push((bench.rollout.taken(2), bench.count(DevicePhase::Healthy)));
    assert_eq!(seen, [(2, 2), (5, 5), (10, 10)]);
    let of_stages: Vec<u32> = bench.rollout.stages.iter().map(|stage| stage.counts.total()).collect();
    assert_eq!(of_stages, [2, 3, 5]);
}

#[test]
fn a_stage_waits_until_its_devices_have_soaked() {
    let mut bench = Bench::start(THREE_STAGES, 10);
    bench.run_until(|bench| bench.count(DevicePhase::Active) == 2);
    let active_since = bench.now;
    bench.run_until(|bench| bench.rollout.stage == 1);
    assert!(bench.now >= active_since + 5, "the soak time is 5 s and it took {}", bench.now - active_since);
}

#[test]
fn a_fleet_smaller_than_its_first_stage_passes_the_rest_at_once() {
    let text = THREE_STAGES.replace("soak = '5s' }", "soak = '5s', gates = { success = '90%', p95 = 0.5 } }");
    let mut bench = Bench::start(&text, 1);
    bench.run_until(|bench| bench.count(DevicePhase::Healthy) == 1);
    assert_eq!(bench.rollout.status, RolloutStatus::Completed);
}

#[test]
fn a_rollout_for_nobody_is_complete_at_once_and_serves_who_comes() {
    let mut bench = Bench::start(THREE_STAGES, 0);
    assert_eq!(bench.rollout.status, RolloutStatus::Completed);
    bench.join(member(&device(1)));
    bench.run(30);
    assert_eq!(bench.phase(1), DevicePhase::Healthy);
}

#[test]
fn the_order_is_the_same_for_the_same_salt_and_another_for_another_rollout() {
    let canaries = |id| {
        let members = (0..1000).rev().map(|n| member(&device(n))).collect();
        let bench = Bench::start_with(THREE_STAGES, id, members);
        in_line(&bench.rollout).into_iter().take(50).collect::<BTreeSet<_>>()
    };
    assert_eq!(canaries(1), canaries(1));
    // 50 of 1,000 twice have 2.5 in common on average.
    for id in 2..12 {
        assert!(canaries(1).intersection(&canaries(id)).count() <= 9, "rollout {id}");
    }
}

#[test]
fn no_site_loses_more_than_its_share_in_any_part_of_the_line() {
    for seed in 1..40_u64 {
        let sites = 1 + rank(seed, "sites") % 12;
        let mut members = Vec::new();
        let mut sizes: BTreeMap<String, f64> = BTreeMap::new();
        for site in 0..sites {
            for n in 0..1 + rank(seed, &format!("size {site}")) % 60 {
                let device = format!("d-{site}-{n}").parse().unwrap();
                members.push(Member { site: site.to_string().into(), ..member(&device) });
                *sizes.entry(site.to_string()).or_default() += 1.0;
            }
        }
        let all = members.len() as f64;
        let bench = Bench::start_with(THREE_STAGES, seed, members);
        let mut taken: BTreeMap<&str, f64> = BTreeMap::new();
        for (i, device) in in_line(&bench.rollout).iter().enumerate() {
            let site = &bench.rollout.sites[bench.part(device).site as usize].name;
            *taken.entry(site).or_default() += 1.0;
            for (site, size) in &sizes {
                let share = size * (i + 1) as f64 / all;
                let has = taken.get(site.as_str()).copied().unwrap_or(0.0);
                // One for the site's own rounding, and its share of the rounding of all others.
                let most = 1.0 + sizes.len() as f64 * size / all;
                assert!((has - share).abs() <= most + 1e-9, "seed {seed}: {site} has {has} of {share} after {}", i + 1);
            }
        }
    }
}

#[test]
fn named_canaries_come_first_in_their_stage_and_not_before_it() {
    let text = "
        stages = [
            { size = 2, soak = '5s', devices = ['gw-00007', 'gw-00003'] },
            { size = 4, soak = '5s', devices = ['gw-00005', 'gw-00001'] },
            { size = '100%', soak = '5s' },
        ]";
    for id in 1..20 {
        let members = (0..10).map(|n| member(&device(n))).collect();
        let mut bench = Bench::start_with(text, id, members);
        bench.run_to(RolloutStatus::Completed);
        let offered = bench.offered();
        assert_eq!(BTreeSet::from_iter(&offered[..2]), BTreeSet::from([&device(3), &device(7)]), "rollout {id}");
        assert_eq!(BTreeSet::from_iter(&offered[2..4]), BTreeSet::from([&device(1), &device(5)]), "rollout {id}");
    }
}

#[test]
fn late_joiners_come_last() {
    let mut bench = Bench::start(THREE_STAGES, 20);
    for n in 20..40 {
        bench.join(member(&device(n)));
    }
    bench.run_to(RolloutStatus::Completed);
    let first: BTreeSet<DeviceId> = bench.offered().into_iter().take(20).collect();
    assert_eq!(first, (0..20).map(device).collect());
}

#[test]
fn a_snapshot_takes_no_late_joiners() {
    let mut plan = plan(THREE_STAGES);
    plan.target.snapshot = true;
    let mut bench = Bench::start_plan(plan, 1, vec![member(&device(1))]);
    bench.tell(Event::Joined(member(&device(2))));
    assert_eq!(bench.rollout.parts.keys().collect::<Vec<_>>(), [&device(1)]);
    bench.tell(Event::Superseded { device: device(1), by: RolloutId(2) });
    bench.tell(Event::Joined(member(&device(1))));
    assert_ne!(bench.phase(1), DevicePhase::Superseded, "it was there at the start");
}

#[test]
fn a_device_that_no_longer_matches_is_left_out_unless_it_has_begun() {
    let mut bench = Bench::start(THREE_STAGES, 10);
    let begun = bench.offered();
    for n in 0..10 {
        bench.tell(Event::Left(device(n)));
    }
    assert_eq!((bench.count(DevicePhase::Offered), bench.count(DevicePhase::Excluded)), (2, 8));
    bench.run_to(RolloutStatus::Completed);
    assert_eq!(bench.offered(), begun);
}

#[test]
fn a_removed_device_is_not_waited_for() {
    let mut bench = Bench::start(THREE_STAGES, 10);
    let canaries = bench.offered();
    for device in &canaries {
        bench.toys.remove(device);
        bench.tell(Event::Removed(device.clone()));
    }
    bench.run_to(RolloutStatus::Completed);
    assert_eq!(bench.count(DevicePhase::Healthy), 8);
}

#[test]
fn whoever_is_away_does_not_hold_up_a_stage_and_is_served_later() {
    let mut members: Vec<Member> = (0..10).map(|n| member(&device(n))).collect();
    members[4].online = false;
    let mut bench = Bench::start_with(&format!("silence = '60s'\n{THREE_STAGES}"), 1, members);
    bench.run_to(RolloutStatus::Completed);
    assert_eq!((bench.phase(4), bench.count(DevicePhase::Healthy)), (DevicePhase::Waiting, 9));
    bench.connect(&device(4), true);
    bench.run(20);
    assert_eq!(bench.phase(4), DevicePhase::Healthy);
}

#[test]
fn a_broken_connection_of_everybody_does_not_end_a_stage() {
    let stages = "stages = [{ size = '90%', soak = '5s' }, { size = '100%', soak = '5s' }]";
    let mut bench = Bench::start(&format!("silence = '60s'\nrate = {{ per_minute = 3 }}\n{stages}"), 10);
    bench.run_until(|bench| bench.count(DevicePhase::Healthy) == 7 && bench.rollout.in_flight() == 0);
    let devices: Vec<DeviceId> = bench.toys.keys().cloned().collect();
    devices.iter().for_each(|device| bench.connect(device, false));
    bench.run(30);
    assert_eq!(bench.rollout.stage, 0);
    devices.iter().for_each(|device| bench.connect(device, true));
    bench.run_until(|bench| bench.rollout.stage == 1);
    assert_eq!(bench.rollout.taken(0), 9);
}
