//! What a staged version waits for, and what it does not.

use jiff::tz::TimeZone;
use muster_proto::code::Code;
use muster_proto::desired::{Agreement, Approval, ApprovalStatement, Desired, PlanRef, ShadowTerms, Terms, Window};
use muster_proto::id::Digest;
use muster_proto::report::Failure;
use muster_proto::trust::Approvers;
use muster_proto::trust::testing::Key;

use super::bench::{Bench, SIGNED_S, TRIAL_S, passed};
use crate::core::{Event, Limits, Veto};

const ACTIVE: &str = "digits: Active, digits/2 answers, before digits/1";
const NOTHING: [&str; 0] = [];

/// `digits/2` on these terms, in generation and rollout `r`.
fn offer(bench: &Bench, generation: u64, terms: Terms) -> Desired {
    let mut desired = bench.desired(generation, &["digits/2"]);
    desired.slots[0].terms = terms;
    desired.slots[0].rollout = "r".into();
    desired
}

fn want(bench: &mut Bench, desired: &Desired) -> Vec<String> {
    let bytes = bench.publisher.sign_desired(desired);
    bench.on(Event::DesiredArrived(bytes))
}

fn on_terms(bench: &mut Bench, generation: u64, terms: Terms) -> Vec<String> {
    let desired = offer(bench, generation, terms);
    want(bench, &desired)
}

/// A device that runs `digits/1` and has `digits/2` ready on these terms, with nothing left to tell.
fn held(terms: Terms) -> Bench {
    held_where(|_| {}, terms)
}

/// As [`held`], where the owner has other limits.
fn held_where(change: impl FnOnce(&mut Limits), terms: Terms) -> Bench {
    let mut bench = Bench::with("digits/1");
    change(&mut bench.limits);
    bench.restart();
    bench.settle();
    bench.on(Event::LinkUp);
    on_terms(&mut bench, 2, terms);
    bench.settle();
    bench.acknowledge();
    bench
}

fn waits(bench: &Bench, code: &str) -> bool {
    bench.slots() == [format!("digits: Staged {code}, digits/1 answers, before nothing")]
}

fn detail(bench: &Bench) -> String {
    bench.state.describe(bench.now).slots[0].failure.clone().map(|f| f.detail).unwrap_or_default()
}

fn hold() -> Terms {
    Terms { hold: true, ..Terms::default() }
}

fn veto(reason: &str) -> Event {
    Event::VetoChanged(Some(Veto { reason: reason.into() }))
}

fn window(cron: &str, seconds: u32) -> Window {
    Window { cron: cron.into(), seconds }
}

#[test]
fn a_held_version_is_ready_and_waits_for_the_word() {
    let mut bench = Bench::with("digits/1");
    on_terms(&mut bench, 2, hold());
    let lines = bench.settle();
    let end =
        ["persist", "stage digits/2 in digits", "report digits/2 Verified", "persist", "report digits/2 Staged held"];
    assert_eq!(lines[lines.len() - 5..], end);
    bench.acknowledge();
    assert_eq!(bench.wait(3600), NOTHING, "it is said once");
    assert!(waits(&bench, "held"));
    assert!(!bench.state.is_settled());
    let lines = on_terms(&mut bench, 3, Terms::default());
    assert_eq!(lines[..4], ["keep desired.bin", "persist", "persist", "activate manifest of digits/2 in digits"]);
    bench.settle();
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/2 answers, before digits/1"]);
}

/// Waiting harms nobody, however often the power goes.
#[test]
fn a_held_version_is_loaded_again_after_a_start_and_not_blamed_for_it() {
    let mut bench = held(hold());
    for _ in 0..10 {
        let lines = bench.restart();
        assert!(lines.contains(&"load digits/1 in digits".to_owned()), "{lines:?}");
        let lines = bench.settle();
        assert!(lines.contains(&"stage digits/2 in digits".to_owned()), "{lines:?}");
        assert!(!lines.iter().any(|l| l.starts_with("activate") || l.starts_with("ask")), "{lines:?}");
        assert!(waits(&bench, "held"));
    }
    on_terms(&mut bench, 3, Terms::default());
    assert_eq!(bench.slots(), [ACTIVE]);
}

#[test]
fn a_held_version_that_nobody_wants_any_more_is_forgotten() {
    for wanted in [&["digits/1"][..], &["digits/3"], &[]] {
        let mut bench = held(hold());
        let lines = bench.want(3, wanted);
        assert!(lines.contains(&"unstage digits".to_owned()), "{wanted:?}: {lines:?}");
        bench.settle();
        assert!(!bench.slots()[0].contains("digits/2"), "{:?}", bench.slots());
        assert!(bench.state.durable().slots.values().all(|r| r.held.is_none() && r.staging.is_none()));
    }
}

#[test]
fn results_that_come_twice_do_not_unstage_what_is_held() {
    let mut bench = held(hold());
    let slot = "digits".parse().expect("valid");
    let again = Event::ModelStaged { slot, digest: bench.digest("digits/2"), result: Ok(passed()) };
    assert_eq!(bench.on(again), NOTHING);
    assert!(waits(&bench, "held"));
}

/// Each line: is the clock right, and does it work without a connection?
#[test]
fn a_time_to_begin_is_waited_for() {
    for (clock, online) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut bench = Bench::with("digits/1");
        let known = SIGNED_S + bench.now.mono_ms / 1000;
        if !clock {
            bench.now.wall_s = 5;
        }
        on_terms(&mut bench, 2, Terms { not_before: known + 100, ..Terms::default() });
        bench.settle();
        if !online {
            bench.on(Event::LinkDown);
        }
        bench.wait(99);
        assert!(waits(&bench, "not_yet"), "{clock} {online}: {:?}", bench.slots());
        assert_eq!(detail(&bench), "not before 2027-01-15T08:02:40Z");
        bench.wait(1);
        assert_eq!(bench.slots(), [ACTIVE], "{clock} {online}");
    }
}

/// Invariant 11: what asks for no time needs none.
#[test]
fn a_device_that_knows_no_time_waits_only_where_time_is_asked_for() {
    let windows = vec![window("* * * * *", 60)];
    let table = [
        (Terms::default(), ""),
        (Terms { veto_seconds: 60, ..Terms::default() }, ""),
        (Terms { not_before: 1, ..Terms::default() }, "not_yet"),
        (Terms { windows: windows.clone(), ..Terms::default() }, "outside_window"),
        (Terms { windows, urgent: true, ..Terms::default() }, ""),
    ];
    for (terms, code) in table {
        let mut bench = Bench::unstarted();
        bench.now.wall_s = 1;
        bench.on(Event::Started);
        bench.on(Event::LinkUp);
        let mut desired = Desired { issued_at: 0, ..offer(&bench, 1, terms.clone()) };
        want(&mut bench, &desired);
        bench.settle();
        bench.wait(TRIAL_S - 1);
        if code.is_empty() {
            assert_eq!(bench.slots(), ["digits: Active, digits/2 answers, before nothing"], "{terms:?}");
            continue;
        }
        assert_eq!(bench.slots(), [format!("digits: Staged {code}, nothing answers, before nothing")]);
        assert!(detail(&bench).contains("what time it is, is not known here"), "{}", detail(&bench));
        // The next message tells what time it is.
        (desired.generation, desired.issued_at) = (muster_proto::id::Generation(2), SIGNED_S);
        want(&mut bench, &desired);
        assert_eq!(bench.slots(), ["digits: Active, digits/2 answers, before nothing"], "{terms:?}");
    }
}

/// A message that is signed anew tells a device without a clock what time it is, and changes nothing else.
#[test]
fn the_same_desired_state_signed_later_brings_the_time() {
    let mut bench = Bench::with("digits/1");
    bench.now.wall_s = 5;
    let terms = Terms { not_before: SIGNED_S + 10_000, ..Terms::default() };
    let mut desired = offer(&bench, 2, terms);
    want(&mut bench, &desired);
    bench.settle();
    assert!(waits(&bench, "not_yet"));
    let floor = bench.state.durable().time_floor;
    desired.issued_at = SIGNED_S + 9_990;
    want(&mut bench, &desired);
    bench.wait(9);
    assert!(waits(&bench, "not_yet"));
    bench.wait(1);
    assert_eq!(bench.slots(), [ACTIVE]);
    assert_eq!(bench.state.durable().time_floor, floor);
}

/// Everything was signed at 8:00 UTC on 15 January 2027. Each line: zone, window, after how many seconds it opens.
#[test]
fn windows_are_in_the_time_of_the_device() {
    let table = [
        ("UTC", "30 8 * * *", 1800, "2027-01-15T08:30:00+00:00[UTC]"),
        ("Europe/Berlin", "30 9 * * *", 1800, "2027-01-15T09:30:00+01:00[Europe/Berlin]"),
        ("America/New_York", "30 3 * * 5", 1800, "2027-01-15T03:30:00-05:00[America/New_York]"),
        ("Asia/Kolkata", "0 14 * * *", 1800, "2027-01-15T14:00:00+05:30[Asia/Kolkata]"),
    ];
    for (name, cron, seconds, opens) in table {
        for (clock, online) in [(true, true), (true, false), (false, false)] {
            let zone = TimeZone::get(name).expect("known here");
            let mut bench = Bench::unstarted();
            bench.limits.zone = zone;
            bench.restart();
            bench.on(Event::LinkUp);
            bench.want(1, &["digits/1"]);
            bench.settle();
            bench.confirm();
            if !clock {
                bench.now.wall_s = 5;
            }
            on_terms(&mut bench, 2, Terms { windows: vec![window(cron, 600)], ..Terms::default() });
            bench.settle();
            if !online {
                bench.on(Event::LinkDown);
            }
            bench.wait(seconds - TRIAL_S - 1);
            assert!(waits(&bench, "outside_window"), "{name}: {:?}", bench.slots());
            assert_eq!(detail(&bench), format!("the next window opens at {opens}"));
            bench.wait(1);
            assert_eq!(bench.slots(), [ACTIVE], "{name} {clock} {online}");
        }
    }
}

#[test]
fn a_veto_delays_the_switch_up_to_its_deadline() {
    let mut bench = Bench::with("digits/1");
    bench.on(veto("harvest"));
    on_terms(&mut bench, 2, Terms { veto_seconds: 300, ..Terms::default() });
    bench.settle();
    bench.acknowledge();
    assert!(waits(&bench, "vetoed"));
    assert_eq!(detail(&bench), "harvest; it is switched at 2027-01-15T08:06:00Z all the same");
    bench.on(veto("still harvest"));
    bench.acknowledge();
    assert_eq!(detail(&bench), "still harvest; it is switched at 2027-01-15T08:06:00Z all the same");
    assert_eq!(bench.wait(299), NOTHING);
    assert!(waits(&bench, "vetoed"));
    bench.wait(1);
    assert_eq!(bench.slots(), [ACTIVE]);
}

#[test]
fn a_veto_that_is_lifted_or_does_not_count_delays_nothing() {
    let mut bench = Bench::with("digits/1");
    bench.on(veto(""));
    on_terms(&mut bench, 2, Terms { veto_seconds: 300, ..Terms::default() });
    bench.settle();
    assert!(detail(&bench).starts_with("no reason was given; "), "{}", detail(&bench));
    bench.on(Event::VetoChanged(None));
    assert_eq!(bench.slots(), [ACTIVE]);

    let urgent = Terms { veto_seconds: 300, windows: vec![window("0 0 1 1 *", 1)], urgent: true, ..Terms::default() };
    for terms in [Terms::default(), urgent] {
        let mut bench = Bench::with("digits/1");
        bench.on(veto("no"));
        on_terms(&mut bench, 2, terms.clone());
        bench.settle();
        assert_eq!(bench.slots(), [ACTIVE], "{terms:?}");
    }
}

/// Starts without a clock would lengthen a veto without end, were the waiting not written down.
#[test]
fn a_veto_ends_in_time_across_starts_without_a_clock() {
    let mut bench = Bench::with("digits/1");
    bench.now.wall_s = 5;
    bench.on(veto("no"));
    on_terms(&mut bench, 2, Terms { veto_seconds: 7200, ..Terms::default() });
    bench.settle();
    bench.wait(3700);
    bench.now.wall_s = 5;
    bench.restart();
    bench.on(veto("no"));
    bench.settle();
    bench.wait(3599);
    assert!(waits(&bench, "vetoed"), "{:?}", bench.slots());
    bench.wait(1);
    assert_eq!(bench.slots(), [ACTIVE]);
}

/// Plan, hold, time, window, veto: what comes first is named first.
#[test]
fn reasons_are_named_in_their_order() {
    let key = Key::from_seed(50);
    let approvers = Approvers::new([key.public()], 1).expect("a key");
    let mut bench = Bench::with("digits/1");
    let known = SIGNED_S + bench.now.mono_ms / 1000;
    let all = Terms {
        hold: true,
        not_before: known + 10_000,
        windows: vec![window("0 0 1 1 *", 1)],
        veto_seconds: 10_000,
        plan: Some(plan(&bench, &[&key])),
        ..Terms::default()
    };
    bench.limits.approvers = approvers;
    bench.restart();
    bench.settle();
    bench.on(Event::LinkUp);
    bench.on(veto("no"));
    on_terms(&mut bench, 2, all.clone());
    bench.settle();
    assert!(waits(&bench, "held"), "{:?}", bench.slots());
    let mut terms = all;
    type Change = fn(&mut Terms);
    let steps: [(&str, Change); 6] = [
        ("plan_unapproved", |t| t.plan.iter_mut().for_each(|p| p.approvals.clear())),
        ("held", |_| {}),
        ("not_yet", |t| t.hold = false),
        ("outside_window", |t| t.not_before = 0),
        ("vetoed", |t| t.windows.clear()),
        ("", |t| t.veto_seconds = 0),
    ];
    let approved = terms.plan.clone();
    for (generation, (code, change)) in (3..).zip(steps) {
        if code == "held" {
            terms.plan.clone_from(&approved);
        }
        change(&mut terms);
        let lines = on_terms(&mut bench, generation, terms.clone());
        assert!(!lines.iter().any(|l| l.starts_with("stage") || l.starts_with("unstage")), "{code}: {lines:?}");
        assert!(code.is_empty() || waits(&bench, code), "{code}: {:?}", bench.slots());
    }
    assert_eq!(bench.slots(), [ACTIVE]);
}

fn plan(bench: &Bench, keys: &[&Key]) -> PlanRef {
    let hash = Digest::of(b"plan");
    let statement = ApprovalStatement {
        workspace: "default".parse().expect("valid"),
        plan: hash,
        target: "digits/2/manifest".into(),
        digest: bench.digest("digits/2"),
    };
    PlanRef { hash, approvals: keys.iter().map(|key| key.approve(&statement)).collect() }
}

#[test]
fn an_offer_without_the_approvals_that_the_owner_asks_for_is_refused() {
    let keys: Vec<Key> = (50..54).map(Key::from_seed).collect();
    let bench = Bench::with("digits/1");
    let by = |numbers: &[usize]| plan(&bench, &numbers.iter().map(|n| &keys[*n]).collect::<Vec<_>>());
    let mut forged = by(&[0, 1]);
    forged.approvals[1].value[7] ^= 1;
    let mut borrowed = by(&[0, 0]);
    borrowed.approvals[1] = Approval { key: keys[1].id(), ..borrowed.approvals[1].clone() };
    let table = [
        ("two of three", Some(by(&[0, 2])), true),
        ("more than enough", Some(by(&[3, 0, 1, 2])), true),
        ("one", Some(by(&[0])), false),
        ("no plan", None, false),
        ("the same key twice", Some(by(&[0, 0])), false),
        ("somebody else", Some(by(&[0, 3])), false),
        ("a forged one", Some(forged), false),
        ("another one's name", Some(borrowed), false),
        ("of another plan", Some(PlanRef { hash: Digest::of(b"other"), ..by(&[0, 1]) }), false),
    ];
    for (what, plan, approved) in table {
        let owners = keys[..3].iter().map(Key::public);
        let change = |limits: &mut Limits| limits.approvers = Approvers::new(owners, 2).expect("keys");
        let mut bench = held_where(change, Terms { plan, ..Terms::default() });
        if approved {
            assert_eq!(bench.slots(), [ACTIVE], "{what}");
            continue;
        }
        assert_eq!(bench.slots(), ["digits: Failed plan_unapproved, digits/1 answers, before nothing"], "{what}");
        assert!(!bench.manifests.contains_key(&bench.digest("digits/2")), "{what}: nothing of it was fetched");
        bench.restart();
        bench.settle();
        assert_eq!(bench.slots(), ["digits: Failed plan_unapproved, digits/1 answers, before nothing"], "{what}");
        // The same offer with the approvals is another one.
        bench.on(Event::LinkUp);
        on_terms(&mut bench, 3, Terms { plan: Some(by(&[1, 2])), ..Terms::default() });
        bench.settle();
        assert_eq!(bench.slots(), [ACTIVE], "{what}");
    }
}

#[test]
fn other_terms_change_a_running_update_in_place() {
    for stage in
        ["ask for manifest of digits/2", "measure", "open model", "ask for model of digits/2", "assemble", "stage"]
    {
        let mut bench = Bench::with("digits/1");
        on_terms(&mut bench, 2, Terms::default());
        bench.until(stage);
        assert_eq!(on_terms(&mut bench, 3, hold())[..2], ["keep desired.bin", "persist"], "in stage {stage:?}");
        bench.on(Event::LinkUp);
        bench.acknowledge();
        match stage {
            "measure" => drop(bench.room(1 << 40, 1 << 40)),
            "open model" => {
                let digest = Digest::of(&super::bench::content("digits/2"));
                bench.on(Event::BlobOpened { digest, have: Ok(vec![false; 9]) });
            }
            "assemble" => {
                let file = Digest::of(&super::bench::content("digits/2"));
                bench.on(Event::FileAssembled { file, result: Ok(()) });
            }
            "stage" => {
                let slot = "digits".parse().expect("valid");
                let digest = bench.digest("digits/2");
                bench.on(Event::ModelStaged { slot, digest, result: Ok(passed()) });
            }
            _ => drop(bench.wait(11)),
        }
        bench.settle();
        assert!(waits(&bench, "held"), "in stage {stage:?}: {:?}", bench.slots());
        let same = bench.state.durable().slots.values().all(|r| r.outcome.as_ref().is_some_and(|o| o.want.terms.hold));
        assert!(same, "the record has the new terms");
        on_terms(&mut bench, 4, Terms::default());
        assert_eq!(bench.slots(), [ACTIVE], "in stage {stage:?}");
    }
}

#[test]
fn a_window_that_is_no_cron_expression_refuses_its_slot_alone() {
    let mut bench = Bench::with("digits/1");
    let mut desired = bench.desired(2, &["digits/2", "faces/1"]);
    desired.slots[0].rollout = "r".into();
    desired.slots[0].terms.windows = vec![window("every night", 60)];
    want(&mut bench, &desired);
    bench.settle();
    let slots = bench.slots();
    assert_eq!(slots[0], "digits: Failed metadata_invalid, digits/1 answers, before nothing");
    assert!(slots[1].starts_with("faces: Active"), "{slots:?}");
    assert_eq!(detail(&bench), "window \"every night\" is not a cron expression: 2 fields instead of five");
    on_terms(&mut bench, 3, Terms::default());
    bench.settle();
    assert_eq!(bench.slots()[0], ACTIVE, "mended terms are another offer");

    let mut bench = held(hold());
    on_terms(&mut bench, 3, Terms { windows: vec![window("* * * * * UTC", 60)], ..Terms::default() });
    assert!(waits(&bench, "metadata_invalid"), "what is ready waits for sound terms: {:?}", bench.slots());
    on_terms(&mut bench, 4, Terms::default());
    assert_eq!(bench.slots(), [ACTIVE]);
}

/// A recall needs nothing but the word, and that may have come with the last of the connection.
#[test]
fn the_version_before_comes_back_without_a_connection() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.settle();
    bench.confirm();
    let recall = bench.publisher.sign_desired(&bench.desired(3, &["digits/1"]));
    bench.on(Event::LinkDown);
    let mut lines = bench.on(Event::DesiredArrived(recall));
    lines.extend(bench.settle());
    lines.extend(bench.confirm());
    assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before digits/2"]);
    assert!(!lines.iter().any(|l| l.starts_with("ask")), "{lines:?}");
}

/// A walk that leads nowhere keeps nothing waiting that is known to be signed.
#[test]
fn the_version_before_comes_back_where_metadata_cannot_be_had() {
    let mut bench = Bench::with("digits/1");
    bench.want(2, &["digits/2"]);
    bench.settle();
    bench.confirm();
    bench.publisher.keys.insert("timestamp", Key::from_seed(99));
    bench.publisher.publish();
    let mut lines = bench.want(3, &["digits/1"]);
    lines.extend(bench.settle());
    bench.confirm();
    assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before digits/2"]);
    let content = |l: &&String| l.starts_with("ask for m") || l.starts_with("ask for s");
    assert_eq!(lines.iter().find(content), None);
}

fn shadow_terms() -> ShadowTerms {
    ShadowTerms {
        seconds: 600,
        inferences: 100,
        share_permille: 100,
        cpu_permille: 100,
        memory_bytes: 0,
        rule: Agreement::Top1,
    }
}

fn in_shadow() -> Terms {
    Terms { shadow: Some(shadow_terms()), ..hold() }
}

fn ended(bench: &mut Bench, refused: Option<Failure>) -> Vec<String> {
    let digest = bench.digest("digits/2");
    bench.on(Event::ShadowEnded { slot: "digits".parse().expect("valid"), digest, refused })
}

#[test]
fn a_held_version_runs_in_the_shadow_until_that_has_ended() {
    let mut bench = Bench::with("digits/1");
    on_terms(&mut bench, 2, in_shadow());
    let lines = bench.settle();
    let at = lines.iter().position(|l| l == "shadow manifest of digits/2 in digits").expect("a shadow");
    assert_eq!(lines[at - 1], "persist", "it may kill the process");
    bench.acknowledge();
    assert_eq!(bench.wait(60), NOTHING);
    let mut more = in_shadow();
    more.shadow = Some(ShadowTerms { share_permille: 200, ..shadow_terms() });
    assert!(on_terms(&mut bench, 3, more).contains(&"shadow manifest of digits/2 in digits".to_owned()));
    ended(&mut bench, None);
    assert!(waits(&bench, "held"));
    bench.restart();
    assert!(!bench.settle().iter().any(|l| l.starts_with("shadow")), "once is enough");
    on_terms(&mut bench, 4, Terms::default());
    assert_eq!(bench.slots(), [ACTIVE]);
}

#[test]
fn terms_without_a_shadow_end_it() {
    let mut bench = held(in_shadow());
    assert!(on_terms(&mut bench, 3, hold()).contains(&"end the shadow in digits".to_owned()));
    assert!(bench.state.durable().slots.values().all(|r| r.staging.is_none()));
    assert!(on_terms(&mut bench, 4, in_shadow()).contains(&"shadow manifest of digits/2 in digits".to_owned()));
}

#[test]
fn a_shadow_that_has_no_room_is_named_where_the_gate_waits_for_it() {
    let mut bench = held(in_shadow());
    let refused = Failure { code: Code::ShadowOverBudget, detail: "no memory".into() };
    let lines = ended(&mut bench, Some(refused));
    assert_eq!(lines, ["persist", "report digits/2 Staged shadow_over_budget"]);
    bench.acknowledge();
    assert_eq!(bench.wait(600), NOTHING, "it is not tried again on the same terms");
    on_terms(&mut bench, 3, Terms::default());
    assert_eq!(bench.slots(), [ACTIVE]);
}

/// Invariant 7: a shadow that kills the process is put aside, and what answers goes on answering.
#[test]
fn a_version_that_kills_the_process_in_the_shadow_is_put_aside() {
    let mut bench = held(in_shadow());
    for _ in 0..3 {
        assert!(waits(&bench, "held"), "{:?}", bench.slots());
        bench.restart();
        bench.settle();
    }
    assert_eq!(bench.slots(), ["digits: Failed trial_crashed, digits/1 answers, before nothing"]);
}
