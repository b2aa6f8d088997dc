//! What desired states say for a rollout, and on which terms.

use muster_proto::code::Code;
use muster_proto::desired::{Agreement, MAX_APPROVALS, MAX_SLOTS, Terms};
use muster_proto::id::Digest;

use super::bench::{Bench, LINE, agent, device, digest, published, rollout, rollout_into};
use crate::DevicePhase::{Offered, Refused, Staged, Waiting};
use crate::rollout::{Approved, Word};
use crate::{Device, RolloutStatus};
use muster_proto::report::{AgentInfo, Phase};

const SHADOW: &str = "target.all = true
    stages = [{ size = '100%', soak = '60s', gates.agreement = '90%', shadow = { for = '1h', inferences = 50, share = '20%', cpu = '25%', rule = { overlap = '50%' } } }]";
const PRESTAGE: &str = "target.all = true\nschedule = { prestage = true, switch = 'on_word' }
    stages = [{ size = '100%', soak = '60s', gates.agreement = '90%', shadow = { for = '1h' } }]";

fn terms(bench: &Bench, name: &str) -> Terms {
    bench.desired(name).slots[0].terms.clone()
}

/// One device that proved to run version 1.
fn proven() -> Bench {
    let mut bench = Bench::line(1);
    bench.start(1, 1, LINE);
    bench.obeys("d0");
    bench
}

#[test]
fn a_plain_plan_binds_nothing_so_that_old_agents_understand_it() {
    let mut bench = Bench::empty();
    bench.enrol(Device { agent: AgentInfo::default(), ..device("d0", &["line"]) });
    bench.start(1, 1, LINE);
    assert!(terms(&bench, "d0").is_none());
    assert_eq!((bench.phases(1), bench.desired("d0").slots[0].trial_seconds), (vec![Offered], 60));
}

#[test]
fn windows_veto_and_time_of_the_switch_are_said_to_the_device() {
    let mut bench = Bench::line(1);
    let schedule = "prestage = true, switch = { at = '1970-01-01T01:00:00Z' }, veto = '2h', windows = [{ cron = '0 2 * * SAT', for = '4h' }]";
    bench.start(1, 1, &format!("schedule = {{ {schedule} }}\n{LINE}"));
    let terms = terms(&bench, "d0");
    assert_eq!((terms.hold, terms.not_before, terms.veto_seconds, terms.urgent), (true, 3600, 7200, false));
    let windows: Vec<_> = terms.windows.iter().map(|w| (w.cron.as_str(), w.seconds)).collect();
    assert_eq!(windows, [("0 2 * * SAT", 14_400)]);
}

#[test]
fn a_shadow_runs_held_where_there_is_something_to_compare_with() {
    let mut bench = proven();
    bench.start(2, 2, SHADOW);
    let terms = terms(&bench, "d0");
    let shadow = terms.shadow.expect("a shadow");
    assert!(terms.hold);
    assert_eq!((shadow.seconds, shadow.inferences, shadow.share_permille, shadow.cpu_permille), (3600, 50, 200, 250));
    assert_eq!(shadow.rule, Agreement::Overlap { permille: 500 });
}

#[test]
fn what_is_fetched_beforehand_is_held_without_a_shadow_until_its_stage() {
    let mut bench = proven();
    bench.start(2, 2, PRESTAGE);
    let fetching = terms(&bench, "d0");
    assert_eq!((fetching.hold, fetching.shadow), (true, None));
    bench.says("d0", Phase::Staged, Some(1));
    assert_eq!(bench.phases(2), [Staged]);
    let before = bench.desired("d0").generation;
    bench.told(2, Word::Release);
    assert!(terms(&bench, "d0").shadow.is_some());
    assert!(bench.desired("d0").generation > before);
    assert_eq!(bench.slot("d0"), "r2 v2", "the same offer on other terms");
    bench.told(2, Word::Skip("seen enough".into()));
    assert!(terms(&bench, "d0").is_none());
}

#[test]
fn signed_approvals_go_with_the_offer() {
    let approve = |by: &str, signed: bool| {
        let key = signed.then(|| Digest::of(by.as_bytes()).to_string());
        Word::Approve(Approved { by: by.into(), at: 10, signature: key.as_ref().map(|_| "0aff".into()), key })
    };
    let mut bench = Bench::line(1);
    let plan = format!("approval.need = 2\n{LINE}");
    bench.start(1, 1, &plan);
    bench.told(1, approve("ada", true));
    assert_eq!((bench.phases(1), bench.status(1)), (vec![Waiting], RolloutStatus::Pending), "her own rollout");
    bench.told(1, approve("bob", false));
    bench.told(1, approve("cy", true));
    assert_eq!(bench.phases(1), [Offered]);
    let said = terms(&bench, "d0").plan.expect("a plan");
    assert_eq!(said.hash, rollout(1, 1, &plan).plan_hash);
    let approvals: Vec<_> = said.approvals.iter().map(|a| (a.key, a.value.clone())).collect();
    assert_eq!(approvals, [(Digest::of(b"cy"), vec![0x0a, 0xff])]);
}

#[test]
fn no_more_approvals_go_with_an_offer_than_it_may_have() {
    let mut bench = Bench::line(1);
    bench.start(1, 1, &format!("approval.need = 18\n{LINE}"));
    for n in 0..18 {
        let key = Some(Digest::of(&[n]).to_string());
        let approved = Approved { by: format!("p{n}"), at: 10, key, signature: Some("00".into()) };
        bench.told(1, Word::Approve(approved));
    }
    assert_eq!(terms(&bench, "d0").plan.expect("a plan").approvals.len(), MAX_APPROVALS);
}

#[test]
fn an_agent_that_cannot_be_told_the_terms_is_refused_with_a_reason_and_keeps_what_it_has() {
    let mut bench = Bench::empty();
    bench.enrol(Device { agent: AgentInfo { speaks: (0, 1), ..agent() }, ..device("old", &["line"]) });
    bench.start(1, 1, LINE);
    let effects = bench.start(2, 2, &format!("schedule.veto = '1h'\n{LINE}"));
    let part = bench.part(2, "old");
    assert_eq!((part.phase, part.code), (Refused, Some(Code::Incompatible)));
    assert_eq!(part.detail.as_deref(), Some("its agent is too old for the terms of this plan: update the agent"));
    assert_eq!((published(&effects), bench.slot("old")), (vec![], "r1 v1".into()));
}

#[test]
fn a_device_without_room_for_a_slot_is_refused() {
    let mut bench = Bench::line(1);
    for n in 0..MAX_SLOTS as u64 {
        bench.begin(rollout_into(&format!("slot{n}"), n + 1, n + 1, LINE));
    }
    bench.start(100, 100, LINE);
    let part = bench.part(100, "d0");
    assert_eq!((part.phase, part.code), (Refused, Some(Code::Conflict)));
    assert_eq!(bench.desired("d0").slots.len(), MAX_SLOTS);
}

#[test]
fn the_offer_names_what_the_registry_holds() {
    let mut bench = Bench::line(1);
    bench.start(1, 3, LINE);
    let slot = &bench.desired("d0").slots[0];
    assert_eq!((slot.target.as_str(), slot.digest, slot.length), ("digits/3/manifest", digest(3), 100));
    assert_eq!(slot.rollout, "r1");
}
