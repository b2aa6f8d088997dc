//! Tables of (state, event) ⇒ effects.

mod bench;
mod text;

mod boot;
mod desired;
mod outbox;
mod refusals;
mod staging;
mod terms;
mod walk;

use bench::Bench;

use super::Event;

/// The whole way of one version, as a story: what happens, and what the core wants done.
#[test]
fn a_version_goes_from_offered_to_healthy() {
    let mut bench = Bench::offline();
    assert_eq!(bench.on(Event::LinkUp), ["say hello", "persist", "report no slots"]);
    assert_eq!(
        bench.want(1, &["digits/1"]),
        ["keep desired.bin", "persist", "ask for DirectorRoot(2)", "report digits/1 Offered"]
    );
    assert_eq!(
        bench.until("measure"),
        [
            "ask for Root(2)",
            "ask for Timestamp",
            "keep timestamp.json",
            "ask for Snapshot(2)",
            "keep snapshot.json",
            "ask for Targets(2)",
            "keep targets.json",
            "ask for manifest of digits/1",
            "report digits/1 Fetching",
            "keep manifest of digits/1",
            "measure the room",
        ]
    );
    assert_eq!(bench.room(1 << 40, 1 << 40), ["open model of digits/1"]);
    assert_eq!(
        bench.until("write 1024 bytes at 8192"),
        [
            "join model of digits/1",
            "ask for model of digits/1, chunks 0 to 1",
            "write 1024 bytes at 0 of model of digits/1",
            "ask for model of digits/1, chunks 2 to 3",
            "write 1024 bytes at 1024 of model of digits/1",
            "ask for model of digits/1, chunks 4 to 5",
            "write 1024 bytes at 2048 of model of digits/1",
            "ask for model of digits/1, chunks 6 to 7",
            "write 1024 bytes at 3072 of model of digits/1",
            "write 1024 bytes at 4096 of model of digits/1",
            "ask for model of digits/1, chunks 8 to 8",
            "write 1024 bytes at 5120 of model of digits/1",
            "write 1024 bytes at 6144 of model of digits/1",
            "write 1024 bytes at 7168 of model of digits/1",
            "write 1024 bytes at 8192 of model of digits/1",
            "leave model of digits/1",
            "assemble model of digits/1",
        ]
    );
    assert_eq!(
        bench.settle(),
        [
            "open samples",
            "join samples",
            "ask for samples",
            "write 7 bytes at 0 of samples",
            "leave samples",
            "assemble samples",
            "persist",
            "stage digits/1 in digits",
            "report digits/1 Verified",
            "persist",
            "activate manifest of digits/1 in digits",
            "report digits/1 Active",
        ]
    );
    assert_eq!(bench.slots(), ["digits: Active, digits/1 answers, before nothing"]);
    assert_eq!(bench.wait(59), [] as [&str; 0]);
    assert_eq!(bench.wait(1), ["persist", "put digits/1 Healthy", "send outcome"]);
    assert_eq!(bench.acknowledge(), ["forget 1 messages"]);
    assert_eq!(bench.wait(3600), [] as [&str; 0]);
    assert_eq!(bench.slots(), ["digits: Healthy, digits/1 answers, before nothing"]);
}

/// Two slots take turns at the one place where work is done.
#[test]
fn one_slot_waits_while_another_is_worked_on() {
    let mut bench = Bench::new();
    bench.want(1, &["digits/1", "faces/1"]);
    let all = bench.settle();
    let at = |line: &str| all.iter().position(|l| l == line).unwrap_or_else(|| panic!("{line:?} in {all:#?}"));
    assert!(at("activate manifest of digits/1 in digits") < at("ask for manifest of faces/1"));
    // The samples are the same file, which is not fetched twice.
    assert_eq!(all.iter().filter(|l| *l == "open samples").count(), 1);
    assert!(at("stage faces/1 in faces") > at("assemble model of faces/1"));
    bench.confirm();
    assert_eq!(
        bench.slots(),
        ["digits: Healthy, digits/1 answers, before nothing", "faces: Healthy, faces/1 answers, before nothing"]
    );
}

/// Whatever comes in whatever state, there is an answer; here for a core that has nothing.
#[test]
fn events_that_nothing_waits_for_change_nothing() {
    use muster_proto::id::Digest;
    use muster_proto::report::Failure;
    let digest = Digest::of(b"?");
    let failure = Failure { code: muster_proto::code::Code::StoreFailed, detail: String::new() };
    let load = super::event::LoadFailure { failure: failure.clone(), damaged: vec![] };
    let slot = || "digits".parse().expect("valid");
    let mut bench = Bench::with("digits/1");
    let events = [
        Event::Ticked,
        Event::Acknowledged(vec![99, 100]),
        Event::RoomMeasured { disk_free: 0, memory_available: 0 },
        Event::BlobOpened { digest, have: Ok(vec![true]) },
        Event::BlobOpened { digest, have: Err(failure.clone()) },
        Event::WriteFailed { digest, failure: failure.clone() },
        Event::FileAssembled { file: digest, result: Ok(()) },
        Event::FileAssembled { file: digest, result: Err(failure) },
        Event::ModelStaged { slot: slot(), digest, result: Err(load.clone()) },
        Event::ModelLoaded { slot: slot(), digest, result: Err(load) },
    ];
    let before = bench.slots();
    for event in events {
        let lines = bench.on(event.clone());
        assert!(lines.is_empty() || lines == ["unstage digits"], "{event:?}: {lines:?}");
        assert_eq!(bench.slots(), before, "{event:?}");
    }
}
