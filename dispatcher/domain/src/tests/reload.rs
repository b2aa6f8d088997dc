//! A dispatcher that starts from what was stored goes on as the one before would have.

use muster_proto::id::Generation;
use muster_proto::report::Phase;

use super::bench::{Bench, LINE, device, id, plan, rollout};
use super::check;
use crate::fleet::step;
use crate::rollout::Word;
use crate::{Effect, Event, Fleet, RolloutId};

/// A fleet in the middle of many things.
fn busy() -> Bench {
    let mut bench = Bench::line(6);
    bench.start(1, 1, LINE);
    (0..6).for_each(|n| bench.obeys(&format!("d{n}")));
    bench.start(2, 2, "target.devices = ['d0', 'd1']\nstages = [{ size = '100%', soak = '60s' }]");
    bench.obeys("d0");
    bench.roll_back(2);
    bench.start(3, 3, &format!("priority = 2\nrate.in_flight = 2\nretry.attempts = 2\n{LINE}"));
    bench.start(4, 4, LINE);
    bench.gone("d5");
    bench.start(5, 5, "target.all = true\nschedule.start = '1970-01-01T00:20:00Z'\nstages = [{ size = '50%', soak = '60s' }, { size = '100%', soak = '60s' }]");
    for n in 0..5 {
        bench.says(&format!("d{n}"), Phase::Fetching, Some(1));
    }
    bench.now += 5;
    bench
}

/// As [`Fleet::load`] and then everybody who was connected says hello to both.
fn restarted(bench: &mut Bench) -> (Fleet, Fleet) {
    let (mut old, mut new) = (bench.fleet.clone(), bench.store.load(bench.now));
    let connected: Vec<_> = old.devices.values().filter(|d| d.online).map(|d| (d.id.clone(), d.accepted)).collect();
    for (device, generation) in connected {
        for fleet in [&mut old, &mut new] {
            step(fleet, Event::Online { device: device.clone(), generation }, bench.now);
        }
    }
    (old, new)
}

fn script() -> Vec<(u64, Event)> {
    let told = |number, word| Event::RolloutTold(RolloutId(number), word);
    let hello = |name: &str| Event::Online { device: id(name), generation: Generation(0) };
    vec![
        (1, told(3, Word::Pause("look".into()))),
        (1, hello("d5")),
        (1, Event::Enrolled(Box::new(device("late", &["line"])))),
        (1, hello("late")),
        (60, Event::Tick),
        (1, told(3, Word::Resume)),
        (1, Event::Removed(id("d3"))),
        (1, told(4, Word::Recall { now: false, reason: "bad".into() })),
        (1, Event::RolloutStarted(Box::new(rollout(6, 2, LINE)))),
        (900, Event::Tick),
        (1_200, Event::Tick),
        (7_200, Event::Tick),
    ]
}

/// What was done, without what only says when a device was heard.
fn done(effects: Vec<Effect>) -> Vec<Effect> {
    effects.into_iter().filter(|effect| !matches!(effect, Effect::Notify(_))).collect()
}

#[test]
fn what_was_stored_goes_on_as_what_was_known() {
    let mut bench = busy();
    let (mut old, mut new) = restarted(&mut bench);
    let mut now = bench.now;
    for (after, event) in script() {
        now += after;
        let (one, other) = (step(&mut old, event.clone(), now), step(&mut new, event.clone(), now));
        assert_eq!(done(one), done(other), "{event:?}");
        check::consistent(&new);
    }
    let phases = |fleet: &Fleet| -> Vec<_> {
        fleet.rollouts.values().flat_map(|r| r.parts.values().map(|p| (p.phase, p.stage, p.blocked))).collect()
    };
    assert_eq!(phases(&old), phases(&new));
}

#[test]
fn who_keeps_whom_is_known_again_after_loading() {
    let bench = busy();
    let loaded = bench.store.load(bench.now);
    check::consistent(&loaded);
    let blocked = |fleet: &Fleet| fleet.rollouts[&RolloutId(4)].parts.values().filter(|p| p.blocked.is_some()).count();
    assert!(blocked(&loaded) > 0);
    assert_eq!(blocked(&loaded), blocked(&bench.fleet));
    assert!(loaded.devices.values().all(|device| !device.online));
}

#[test]
fn connections_that_are_known_are_kept_when_the_records_are_read_again() {
    let bench = busy();
    let mut durable = bench.store.load(bench.now);
    durable.keep_connections(&bench.fleet, bench.now);
    for device in durable.devices.values() {
        assert_eq!(device.online, device.id != id("d5"), "{}", device.id);
        assert_eq!(device.last_seen, bench.fleet.devices[&device.id].last_seen);
    }
    let online = |fleet: &Fleet, number| -> Vec<bool> {
        fleet.rollouts[&RolloutId(number)].parts.values().map(|part| part.online).collect()
    };
    for number in 1..=5 {
        assert_eq!(online(&durable, number), online(&bench.fleet, number), "r{number}");
    }
    // Nothing has to be said again for the rollouts to go on.
    let mut known = bench.fleet.clone();
    let (one, other) = (step(&mut known, Event::Tick, bench.now + 1), step(&mut durable, Event::Tick, bench.now + 1));
    let sent = |effects: Vec<Effect>| effects.iter().filter(|e| matches!(e, Effect::SaveProgress { .. })).count();
    assert_eq!(sent(one), sent(other));
}

/// Invariant 13: right after a start everybody is as well as heard.
#[test]
fn a_restarted_dispatcher_does_not_take_its_own_absence_for_silence() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, &format!("silence = '60s'\n{LINE}"));
    let day = 86_400 / 2;
    let mut fleet = bench.store.load(day);
    let phase = |fleet: &Fleet| fleet.rollouts[&RolloutId(1)].parts[&id("d0")].phase;
    step(&mut fleet, Event::Tick, day + 60);
    assert_eq!(phase(&fleet), crate::DevicePhase::Offered);
    step(&mut fleet, Event::Tick, day + 62);
    assert_eq!(phase(&fleet), crate::DevicePhase::Silent);
}

#[test]
fn records_of_before_are_read() {
    let bench = busy();
    let device = serde_json::to_value(&bench.fleet.devices[&id("d0")]).unwrap();
    let mut old = device.clone();
    for slot in old["slots"].as_object_mut().unwrap().values_mut() {
        for field in ["terms", "attempt", "since"] {
            slot.as_object_mut().unwrap().remove(field);
        }
    }
    for field in ["proven", "usual"] {
        old.as_object_mut().unwrap().remove(field);
    }
    let read: crate::Device = serde_json::from_value(old).unwrap();
    assert_eq!((read.slots.len(), read.proven.len()), (1, 0));
    assert_eq!(plan(LINE).stages.len(), 1);
}
