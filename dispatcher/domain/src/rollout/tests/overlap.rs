use super::bench::member;
use super::{Bench, device};
use crate::rollout::{DevicePhase, Event, Member, RolloutId, RolloutStatus};

const ONE_STAGE: &str = "silence = '60s'\nstages = [{ size = '100%', soak = '5s' }]";

#[test]
fn higher_priority_goes_first_and_of_equal_ones_the_newer() {
    let precedence = |priority: i32, id: u64| {
        let bench = Bench::start_with(&format!("priority = {priority}\n{ONE_STAGE}"), id, Vec::new());
        bench.rollout.precedence()
    };
    assert!(precedence(1, 1) > precedence(0, 2));
    assert!(precedence(0, 2) > precedence(0, 1));
    assert!(precedence(-1, 9) < precedence(0, 1));
}

#[test]
fn a_blocked_device_waits_without_holding_up_the_others_and_comes_when_it_is_free() {
    let blocked = |n| Member { blocked: (n == 0).then_some(RolloutId(9)), ..member(&device(n)) };
    let mut bench = Bench::start_with(ONE_STAGE, 1, (0..3).map(blocked).collect());
    bench.run_to(RolloutStatus::Completed);
    assert_eq!(bench.phase(0), DevicePhase::Waiting);
    bench.tell(Event::Blocked { device: device(0), by: None });
    bench.run(20);
    assert_eq!(bench.phase(0), DevicePhase::Healthy);
}

#[test]
fn a_superseded_device_is_no_longer_counted_and_can_come_back() {
    let mut bench = Bench::start(ONE_STAGE, 3);
    bench.run_to(RolloutStatus::Completed);
    bench.tell(Event::Superseded { device: device(1), by: RolloutId(2) });
    assert_eq!((bench.rollout.members(), bench.phase(1)), (2, DevicePhase::Superseded));
    assert_eq!(bench.part(&device(1)).detail.as_deref(), Some("r2 has the slot"));
    bench.tell(Event::Joined(member(&device(1))));
    assert_eq!((bench.rollout.members(), bench.phase(1)), (3, DevicePhase::Offered));
    bench.run(20);
    assert_eq!(bench.phase(1), DevicePhase::Healthy);
}

#[test]
fn a_superseded_device_frees_its_place_and_what_it_says_of_the_version_is_past() {
    let mut bench = Bench::start("rate = { in_flight = 1 }\nstages = [{ size = '100%', soak = '5s' }]", 2);
    let first = bench.offered()[0].clone();
    bench.tell(Event::Superseded { device: first.clone(), by: RolloutId(2) });
    assert_eq!(bench.offers.len(), 2, "the other one starts");
    bench.run(20);
    assert_eq!(bench.part(&first).phase, DevicePhase::Superseded);
}
