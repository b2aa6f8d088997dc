use muster_proto::code::Code;
use muster_proto::id::DeviceId;
use muster_proto::report::Transfer;

use super::bench::{member, order};
use super::{Bench, Kind, device, plan, recount};
use crate::rollout::evidence::{Reading, ShadowReading, Usual};
use crate::rollout::hash::rank;
use crate::rollout::{Approved, DevicePhase, Effect, Event, Member, Rollout, RolloutId, RolloutStatus, Word, step};

const DEVICES: u64 = 14;

const PLANS: [&str; 5] = [
    "silence = '20s'
     device_timeout = '60s'
     retry = { attempts = 2, wait = '5s' }
     rate = { in_flight = 3, per_minute = 40, site = { in_flight = 2 } }
     stages = [
        { size = 3, soak = '5s', gates = { failures = 1, silence = '50%', min_sample = 3 } },
        { size = '50%', soak = '5s', gates = { success = '60%', failures = '40%', min_sample = 3, on_breach = 'abort' } },
        { size = '100%', soak = '5s' },
     ]",
    "silence = '20s'
     schedule = { prestage = true, switch = 'on_word' }
     rate = { bytes_per_second = 300, site = { per_minute = 20 } }
     stages = [
        { size = 2, soak = '5s', devices = ['gw-00003', 'gw-00009'], gates = { failures = 2 } },
        { size = '100%', soak = '5s', devices = ['gw-00001'], gates = { failures = 2 } },
     ]",
    "silence = '20s'
     retry = { attempts = 1, wait = '5s' }
     stages = [
        { size = 4, soak = '5s', timeout = '30s', shadow = { for = '15s', inferences = 10 },
          gates = { agreement = '80%', p95 = 0.5, min_readings = 4 } },
        { size = '100%', soak = '5s', gates = { memory = 0.5, drift = 0.25, min_readings = 4, on_breach = 'abort' } },
     ]",
    "approval = { need = 2 }
     silence = '20s'
     rate = { per_minute = { base = 30, factor = 2, every = 2, max = 600 } }
     schedule = { prestage = true }
     stages = [
        { size = 2, soak = '5s', shadow = { for = '15s', inferences = 10 }, gates = { agreement = '80%' } },
        { size = '100%', soak = '5s', devices = ['gw-00004'] },
     ]",
    "silence = '20s'
     stages = [{ size = '100%', soak = '5s', gates = { failures = '50%' } }]",
];

/// Random numbers from a seed, by xorshift.
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(rank(seed, "chance") | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize].clone()
    }

    fn member(&mut self, number: u64) -> Member {
        Member {
            device: device(number as usize),
            site: self.of(&["north", "south", ""]).into(),
            comparable: self.below(2) == 0,
            online: self.below(4) > 0,
            blocked: (self.below(8) == 0).then_some(RolloutId(99)),
        }
    }

    fn event(&mut self, now: u64) -> Event {
        let number = self.below(DEVICES + 2);
        let device: DeviceId = device(number as usize);
        match self.below(40) {
            0 => Event::Joined(self.member(number)),
            1 => Event::Left(device),
            2 if self.below(3) == 0 => Event::Removed(device),
            2 | 3 => Event::Blocked { device, by: (self.below(2) == 0).then_some(RolloutId(99)) },
            4 => Event::Superseded { device, by: RolloutId(99) },
            5..=7 => Event::Online(device),
            8 | 9 => Event::Offline(device),
            10 => Event::Heard(device),
            11..=13 => Event::WentBack(device),
            14..=17 => {
                let figure = |chance: &mut Self| 900.0 + chance.below(400) as f64;
                let shadow = ShadowReading { compared: 10, agreed: 6 + self.below(5), ..ShadowReading::default() };
                let reading = Reading {
                    ok: self.below(60),
                    errors: self.below(3),
                    p95_us: Some(figure(self)),
                    rss_bytes: figure(self),
                    celsius: None,
                    outputs: vec![self.below(9) as u32, 5],
                    confidence: vec![self.below(9) as u32, 5],
                    shadow: (self.below(2) == 0).then_some(shadow),
                };
                let usual = Usual { windows: self.below(3) as u32, p95_us: 1e3, rss_bytes: 1e3, ..Usual::default() };
                Event::Measured { device, of_this: self.below(2) == 0, reading: Box::new(reading), usual }
            }
            18 | 19 => Event::Told(self.word(now)),
            20..=23 => Event::Ticked,
            _ => {
                let phase = self.of(&DevicePhase::ALL);
                let codes =
                    [None, Some(Code::DiskFull), Some(Code::ProbeMismatch), Some(Code::Held), Some(Code::NotYet)];
                let transfer = Transfer { fetched: self.below(3) * 100, ..Transfer::default() };
                Event::Reported { device, phase, code: self.of(&codes), detail: "so".into(), transfer }
            }
        }
    }

    fn word(&mut self, now: u64) -> Word {
        let approved = Approved { by: format!("p{}", self.below(3)), at: now, key: None, signature: None };
        match self.below(20) {
            0 | 1 => Word::Pause("a look".into()),
            2..=8 => Word::Resume,
            9 => Word::Recall { now: self.below(2) == 0, reason: "bad".into() },
            10 if self.below(3) == 0 => Word::Cancel("enough".into()),
            10..=14 => Word::Approve(approved),
            15 => Word::Skip("known".into()),
            16 | 17 => {
                Word::Retry(if self.below(2) == 0 { Vec::new() } else { vec![device(self.below(DEVICES) as usize)] })
            }
            _ => Word::Release,
        }
    }
}

/// Plays many random histories, and lets `look` see each event before it happens.
fn play(seeds: u64, look: impl Fn(&mut Rollout, &Event, u64, u64)) {
    for seed in 0..seeds {
        let mut chance = Chance::new(seed);
        let text = chance.of(&PLANS);
        let mut now = 1_000;
        let mut rollout = Rollout::new(RolloutId(1), order(plan(text)), now);
        let members = (0..DEVICES).map(|n| chance.member(n)).collect();
        step(&mut rollout, Event::Started(members), now);
        for _ in 0..250 {
            now += [0, 0, 0, 1, 1, 2, 7][chance.below(7) as usize];
            let event = chance.event(now);
            look(&mut rollout, &event, now, seed);
            step(&mut rollout, event, now);
        }
    }
}

fn told(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Offer(_))).count()
}

#[test]
fn whatever_happens_what_is_kept_equals_a_recount() {
    play(200, |rollout, _, now, _| recount::check(rollout, now));
}

#[test]
fn invariant_6_the_same_event_twice_leaves_the_same_state() {
    play(120, |rollout, event, now, seed| {
        // Two windows are two windows, and whoever says twice to go on to the next stage goes on twice.
        if matches!(event, Event::Measured { .. } | Event::Told(Word::Skip(_))) {
            return;
        }
        let mut once = rollout.clone();
        // What time alone brings comes first, such as an offer that the event then answers.
        step(&mut once, Event::Ticked, now);
        step(&mut once, event.clone(), now);
        let mut twice = once.clone();
        let effects = step(&mut twice, event.clone(), now);
        assert!(twice == once, "seed {seed}: {event:?} twice: {effects:?}");
        assert_eq!(told(&effects), 0, "seed {seed}: {event:?} twice");
    });
}

#[test]
fn a_rollout_that_was_stored_and_loaded_has_the_same_future() {
    for seed in 0..20 {
        let mut chance = Chance::new(seed + 10_000);
        let text = chance.of(&PLANS);
        let mut now = 1_000;
        let mut one = Rollout::new(RolloutId(1), order(plan(text)), now);
        step(&mut one, Event::Started((0..DEVICES).map(|n| chance.member(n)).collect()), now);
        for i in 0..200 {
            if i % 50 == 49 {
                let mut other: Rollout = serde_json::from_str(&serde_json::to_string(&one).unwrap()).unwrap();
                for (device, part) in &one.parts {
                    let mut read = serde_json::from_str(&serde_json::to_string(part).unwrap()).unwrap();
                    // The fleet tells both again.
                    let part_of_other: &mut crate::rollout::Part = &mut read;
                    (part_of_other.online, part_of_other.blocked) = (part.online, part.blocked);
                    other.parts.insert(device.clone(), read);
                }
                other.rebuild(now);
                one.rebuild(now);
                recount::check(&other, now);
                assert_eq!(summary(&one), summary(&other), "seed {seed}");
                let mut copy = Chance(chance.0);
                let mut later = now;
                let mut twin = one.clone();
                for _ in 0..150 {
                    later += copy.below(3);
                    let event = copy.event(later);
                    let effects = step(&mut twin, event.clone(), later);
                    assert_eq!(step(&mut other, event, later), effects, "seed {seed}");
                }
                assert_eq!(summary(&twin), summary(&other), "seed {seed}");
            }
            now += chance.below(3);
            let event = chance.event(now);
            step(&mut one, event, now);
        }
    }
}

fn summary(rollout: &Rollout) -> String {
    let parts = rollout.parts.values().map(|part| (part.phase, part.stage, part.held, part.not_before));
    format!("{:?} {} {} {:?}", rollout.status, rollout.stage, rollout.reason, parts.collect::<Vec<_>>())
}

#[test]
fn invariant_8_no_more_are_harmed_than_the_budget_and_who_is_in_flight() {
    for seed in 0..40 {
        let mut chance = Chance::new(seed);
        let (budget, in_flight) = (chance.below(4) as u32, 1 + chance.below(6) as u32);
        let action = chance.of(&["pause", "abort"]);
        let gates = format!("gates = {{ failures = {budget}, on_breach = '{action}' }}");
        let text = format!(
            "silence = '20s'
             rate = {{ in_flight = {in_flight} }}
             stages = [{{ size = '50%', soak = '4s', {gates} }}, {{ size = '100%', soak = '4s', {gates} }}]"
        );
        let mut bench = Bench::start_with(&text, seed, (0..40).map(|n| member(&device(n))).collect());
        for n in 0..40 {
            let kind =
                chance.of(&[Kind::Crashes, Kind::Crashes, Kind::Good, Kind::Refuses, Kind::Stuck, Kind::DiskFull(1)]);
            bench.is(n, kind);
        }
        // By stage: each has a budget of its own.
        let (mut at_breach, mut before) = (None, bench.rollout.in_flight());
        for _ in 0..600 {
            bench.run(1);
            if chance.below(20) == 0 {
                let n = device(chance.below(40) as usize);
                let online = bench.toys[&n].online;
                bench.connect(&n, !online);
            }
            if bench.rollout.status != RolloutStatus::Running {
                at_breach.get_or_insert(before);
            } else {
                before = before.max(bench.rollout.in_flight());
            }
        }
        let harmed = bench.toys.values().filter(|toy| toy.kind == Kind::Crashes && toy.had_it).count() as u32;
        let stages = bench.rollout.stage as u32 + 1;
        let most = stages * budget + 1 + at_breach.unwrap_or(before);
        assert!(harmed <= most, "seed {seed}: {harmed} were harmed, at most {most}");
    }
}

#[test]
fn at_most_so_many_decisions_and_characters_are_kept() {
    let mut bench = Bench::start(PLANS[4], 3);
    for _ in 0..300 {
        bench.say(Word::Pause("a look".into()));
        bench.say(Word::Resume);
    }
    assert_eq!(bench.rollout.decisions.len(), 200);
    let detail = "é".repeat(100_000);
    let (phase, code, transfer) = (DevicePhase::Failed, None, Transfer::default());
    bench.tell(Event::Reported { device: device(1), phase, code, detail, transfer });
    assert_eq!(bench.part(&device(1)).detail.as_deref().map(|text| text.chars().count()), Some(500));
}
