//! What waits for the dispatcher's word.

use muster_proto::report::Vitals;

use super::bench::Bench;
use crate::core::Event;

fn window() -> Event {
    Event::WindowClosed { started_at: 0, length_ms: 60_000, slots: vec![], shadows: vec![], vitals: Vitals::default() }
}

/// Invariant 9.
#[test]
fn an_outcome_goes_before_telemetry_and_is_repeated_until_acknowledged() {
    let mut bench = Bench::with("digits/1");
    bench.on(Event::LinkDown);
    bench.on(window());
    bench.want(2, &["digits/1"]);
    let lines = bench.on(Event::LinkUp);
    assert_eq!(lines[lines.len() - 2..], ["send outcome", "send telemetry"]);
    assert_eq!(bench.wait(30), ["send outcome", "send telemetry"]);
    bench.acknowledge();
    assert_eq!(bench.wait(60), [] as [&str; 0]);
}

/// Invariant 10.
#[test]
fn a_message_for_which_there_is_no_room_is_counted_and_not_waited_for() {
    let mut bench = Bench::with("digits/1");
    let before = bench.state.outbox_size().0;
    assert_eq!(bench.on(window()), ["put telemetry", "send telemetry"]);
    let (id, _) = *bench.outbox.last().expect("it was put");
    for _ in 0..2 {
        assert_eq!(bench.on(Event::PutFailed { id }), [] as [&str; 0]);
        assert_eq!(bench.state.outbox_size().0, before);
        assert_eq!(bench.state.durable().outbox_dropped, 1);
    }
}

#[test]
fn a_report_of_progress_is_repeated_rarely_until_it_is_acknowledged() {
    let mut bench = Bench::new();
    let reports = |lines: Vec<String>| lines.iter().filter(|line| line.starts_with("report")).count();
    assert_eq!(reports(bench.wait(299)), 0);
    assert_eq!(reports(bench.wait(1)), 1);
    assert_eq!(reports(bench.wait(300)), 1);
    bench.acknowledge();
    assert_eq!(reports(bench.wait(3600)), 0);
}
