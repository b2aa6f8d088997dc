//! Work grows with what happens and not with the fleet: counted here in operations that a quadratic step would multiply.

use std::time::Instant;

use muster_proto::id::Generation;

use super::bench::{LINE, device, id, report, rollout, slot_reports};
use crate::fleet::step;
use crate::rollout::Word;
use crate::{DevicePhase, Event, Fleet, RolloutId};
use muster_proto::report::Phase;

fn fleet(devices: usize) -> Fleet {
    let mut fleet = Fleet::new("default".parse().unwrap(), 0);
    for n in 0..devices {
        let name = format!("d{n:06}");
        step(&mut fleet, Event::Enrolled(Box::new(device(&name, &["line"]))), 1);
        step(&mut fleet, Event::Online { device: id(&name), generation: Generation(0) }, 1);
    }
    fleet
}

#[test]
#[ignore = "a measurement"]
fn steps() {
    for devices in [2_000, 4_000, 8_000, 16_000] {
        let mut fleet = fleet(devices);
        let mut line = format!("{devices}:");
        let mut run = |event: Event, now| {
            let began = Instant::now();
            step(&mut fleet, event, now);
            line += &format!(" {:.1}", began.elapsed().as_secs_f64() * 1e3);
        };
        for number in 1..=3 {
            let started = rollout(number, number, &format!("priority = {}\n{LINE}", number % 2));
            run(Event::RolloutStarted(Box::new(started)), 10);
        }
        for (number, word) in [(1, Word::Pause("look".into())), (1, Word::Resume), (3, Word::Cancel("done".into()))] {
            run(Event::RolloutTold(RolloutId(number), word), 11);
        }
        run(Event::Tick, 12);
        run(Event::RolloutTold(RolloutId(1), Word::Recall { now: false, reason: "bad".into() }), 13);
        println!("{line}");
    }
}

/// The seconds that the events take of an operator who starts three rollouts over one another and rolls one back.
fn seconds(devices: usize) -> f64 {
    let mut fleet = fleet(devices);
    let began = Instant::now();
    for number in 1..=3 {
        let started = rollout(number, number, &format!("priority = {}\n{LINE}", number % 2));
        step(&mut fleet, Event::RolloutStarted(Box::new(started)), 10);
    }
    for (number, word) in [(1, Word::Pause("look".into())), (1, Word::Resume), (3, Word::Cancel("done".into()))] {
        step(&mut fleet, Event::RolloutTold(RolloutId(number), word), 11);
    }
    step(&mut fleet, Event::Tick, 12);
    step(&mut fleet, Event::RolloutTold(RolloutId(1), Word::Recall { now: false, reason: "bad".into() }), 13);
    began.elapsed().as_secs_f64()
}

/// A quadratic step takes a hundred times as long for ten times as many devices.
#[test]
fn a_rollout_over_ten_times_as_many_devices_takes_about_ten_times_as_long() {
    let few = (0..3).map(|_| seconds(400)).fold(f64::MAX, f64::min);
    let many = (0..3).map(|_| seconds(4_000)).fold(f64::MAX, f64::min);
    assert!(many < few * 40.0, "{few} s for 400, {many} s for 4,000");
}

/// `cargo test --release … -- --ignored --nocapture` prints what a large fleet takes.
#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_devices() {
    let count = 100_000;
    let mut fleet = fleet(count);
    let timed = |what: &str, fleet: &mut Fleet, event: Event, now| {
        let began = Instant::now();
        let effects = step(fleet, event, now);
        println!("{what}: {:.1} ms, {} effects", began.elapsed().as_secs_f64() * 1e3, effects.len());
        effects
    };
    let start = |number: u64| Event::RolloutStarted(Box::new(rollout(number, number, LINE)));
    timed("start", &mut fleet, start(1), 10);
    for now in 11..30 {
        step(&mut fleet, Event::Tick, now);
    }
    timed("a second over it", &mut fleet, start(2), 30);
    timed("tick", &mut fleet, Event::Tick, 31);
    let began = Instant::now();
    for n in 0..count {
        let name = format!("d{n:06}");
        let desired = fleet.devices[&id(&name)].desired(&fleet.workspace, Vec::new(), 31).unwrap();
        let said = report(&name, 1, desired.generation.0, slot_reports(&desired, Phase::Healthy, Some(2)));
        step(&mut fleet, Event::ReportArrived(Box::new(said)), 32);
    }
    println!("a report: {:.1} µs", began.elapsed().as_secs_f64() * 1e6 / count as f64);
    let healthy = fleet.rollouts[&RolloutId(2)].counts.of(DevicePhase::Healthy);
    println!("{healthy} healthy");
    let word = |word| Event::RolloutTold(RolloutId(2), word);
    timed("pause", &mut fleet, word(Word::Pause("look".into())), 33);
    timed("resume", &mut fleet, word(Word::Resume), 34);
    timed("roll back", &mut fleet, word(Word::Recall { now: false, reason: "bad".into() }), 35);
    let began = Instant::now();
    fleet.wake(36);
    println!("wake: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
}
