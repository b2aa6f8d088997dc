//! Versions that were recalled.

use muster_proto::id::Digest;

use super::bench::{Bench, LINE, device, digest, rollout};
use crate::DevicePhase::Offered;
use crate::rollout::Word;
use crate::{Effect, Event, RolloutId, RolloutStatus};

const OTHERS: &str = "target.groups = ['others']\nstages = [{ size = '100%', soak = '60s' }]";

fn denied(bench: &Bench) -> Vec<(String, u64, String)> {
    bench.fleet.denied.values().map(|d| (d.target.clone(), d.rollout.0, d.reason.clone())).collect()
}

#[test]
fn a_recalled_version_is_denied_and_other_rollouts_of_it_end() {
    let mut bench = Bench::line(1);
    bench.enrol(device("other", &["others"]));
    bench.start(1, 1, LINE);
    bench.start(2, 1, OTHERS);
    bench.begin(rollout(3, 1, &format!("schedule.start = '2030-01-01T00:00:00Z'\n{OTHERS}")));
    bench.start(4, 2, OTHERS);
    let effects = bench.roll_back(1);
    assert!(effects.contains(&Effect::SaveDenied(digest(1))));
    assert_eq!(denied(&bench), [("digits/1/manifest".into(), 1, "bad".into())]);
    let status: Vec<RolloutStatus> = [2, 3, 4].map(|number| bench.status(number)).into();
    assert_eq!(status, [RolloutStatus::Cancelled, RolloutStatus::Cancelled, RolloutStatus::Running]);
    assert_eq!(bench.fleet.rollouts[&RolloutId(2)].reason, "its version was recalled by r1");
}

#[test]
fn a_version_that_nobody_has_to_go_back_from_is_denied_as_well() {
    let mut bench = Bench::line(1);
    bench.gone("d0");
    bench.start(1, 1, LINE);
    bench.roll_back(1);
    assert_eq!((bench.status(1), denied(&bench).len()), (RolloutStatus::Recalled, 1));
}

#[test]
fn whoever_asks_for_it_by_name_gets_it_and_a_hurried_recall_of_before_does_not_end_that() {
    let mut bench = Bench::line(2);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench.obeys("d1");
    bench.gone("d1");
    bench.roll_back(1);
    bench.obeys("d0");
    bench.wait(3_601);
    assert_eq!(bench.status(1), RolloutStatus::Recalled);
    let effects = bench.start(2, 1, LINE);
    assert!(effects.contains(&Effect::SaveDenied(digest(1))));
    assert_eq!((denied(&bench), bench.phase(2, "d0")), (vec![], Offered));
    bench.told(1, Word::Recall { now: true, reason: "hurry".into() });
    assert_eq!((denied(&bench), bench.status(2)), (vec![], RolloutStatus::Running));
}

#[test]
fn a_version_that_is_deleted_needs_no_denying_any_more() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.roll_back(1);
    bench.sends(super::bench::report("d0", 0, 2, vec![]));
    bench.feed(Event::VersionDeleted(digest(1)));
    assert_eq!(denied(&bench), []);
}

/// What `effects` tell `d0` not to go back to.
fn told(effects: &[Effect]) -> Option<Vec<Digest>> {
    effects.iter().find_map(|effect| match effect {
        Effect::PublishDesired { device, desired } if device.as_str() == "d0" => Some(desired.denied.clone()),
        _ => None,
    })
}

#[test]
fn the_deny_list_goes_to_devices_in_what_is_signed_for_them() {
    for (speaks, expected) in [(2, vec![digest(2)]), (1, vec![])] {
        let mut bench = Bench::line(1);
        bench.start(1, 1, LINE);
        bench.obeys("d0");
        let effects = bench.start(2, 2, LINE);
        assert_eq!(told(&effects), Some(vec![]), "nothing was recalled");
        bench.obeys("d0");
        bench.fleet.devices.get_mut(&super::bench::id("d0")).expect("known").agent.speaks.0 = speaks;
        let effects = bench.roll_back(2);
        assert_eq!(told(&effects), Some(expected), "an agent that speaks {speaks}");
    }
}
