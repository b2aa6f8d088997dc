//! The wire's golden bytes and properties. `UPDATE_GOLDEN=1 cargo test -p muster-proto --test wire` writes
//! the golden files anew; a change of an existing one breaks every device in the field.

use std::fmt::Debug;
use std::path::Path;

use muster_proto::code::Code;
use muster_proto::desired::{
    Agreement, Approval, Desired, DesiredState, PlanRef, Real, ShadowTerms, Signature, SignedDesired, SlotDesired,
    Terms, Window,
};
use muster_proto::id::{Digest, Generation};
use muster_proto::manifest::{Sample, SampleSet, ScriptedSample, Tensor};
use muster_proto::report::*;
use muster_proto::transfer::{Ack, Delta, Fetch, Frame, Metadata, Object};
use muster_proto::wire::{self, Error, Message};
use proptest::prelude::*;

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

fn desired() -> Desired {
    Desired {
        workspace: "default".parse().expect("valid"),
        device: "pi-4".parse().expect("valid"),
        hardware: "aarch64".into(),
        generation: Generation(7),
        issued_at: 1_800_000_000,
        expires_at: 0,
        slots: vec![SlotDesired {
            slot: "digits".parse().expect("valid"),
            target: "vision/digits/2/manifest".into(),
            digest: digest(1),
            length: 4096,
            trial_seconds: 60,
            rollout: "r1".into(),
            terms: Terms::default(),
        }],
        denied: Vec::new(),
    }
}

/// As [`desired`], in the second version.
fn desired_on_terms() -> Desired {
    let mut desired = desired();
    desired.slots[0].terms = Terms {
        hold: true,
        not_before: 1_800_000_100,
        windows: vec![Window { cron: "0 2 * * 1-5".into(), seconds: 7200 }],
        veto_seconds: 3600,
        urgent: false,
        shadow: Some(ShadowTerms {
            seconds: 600,
            inferences: 100,
            share_permille: 50,
            cpu_permille: 200,
            memory_bytes: 1 << 20,
            rule: Agreement::Tolerance { absolute: Real(0.25) },
        }),
        plan: Some(PlanRef { hash: digest(3), approvals: vec![Approval { key: digest(4), value: vec![6; 64] }] }),
    };
    desired
}

/// As [`desired`], in the third version.
fn desired_with_denied() -> Desired {
    Desired { denied: vec![digest(5), digest(6)], ..desired_on_terms() }
}

fn state(desired: &Desired) -> DesiredState {
    desired.to_state(u8::MAX).expect("this build speaks it")
}

fn model(n: u8) -> Option<ModelRef> {
    Some(ModelRef { target: format!("vision/digits/{n}/manifest"), digest: digest(n) })
}

fn report() -> Report {
    Report::V1(DeviceReport {
        workspace: "default".parse().expect("valid"),
        device: "pi-4".parse().expect("valid"),
        incarnation: u64::MAX,
        id: 1025,
        sent_at: 1_800_000_001,
        generation: Generation(7),
        agent: AgentInfo {
            version: "0.1.0".into(),
            engine: "tract 0.23.9".into(),
            arch: "aarch64".into(),
            os: "linux".into(),
            memory_bytes: 1 << 30,
            disk_bytes: 1 << 33,
            speaks: (0, 2),
        },
        slots: vec![SlotReport {
            slot: "digits".parse().expect("valid"),
            rollout: "r1".into(),
            desired: model(2),
            phase: Phase::Failed,
            active: model(1),
            previous: None,
            probe: Some(Probe { samples: 4, passed: 3, max_abs_error: 0.5, load_us: 9_000, inference_us: 90 }),
            failure: Some(Failure { code: Code::ProbeMismatch, detail: "logits[3]".into() }),
            transfer: Transfer { fetched: 9_588, saved: 87_219, resumed: 1, chunks: 3 },
        }],
        refused: Some(Failure { code: Code::Unknown(60_000), detail: String::new() }),
    })
}

fn telemetry() -> Telemetry {
    Telemetry::V1 {
        incarnation: 1,
        id: 2,
        started_at: 3,
        length_ms: 60_000,
        slots: vec![SlotWindow {
            slot: "digits".parse().expect("valid"),
            digest: digest(2),
            ok: 10,
            errors: 1,
            rejected: 2,
            latency: vec![0; LATENCY_BOUNDS_US.len() + 1],
            queue_peak: 3,
        }],
        vitals: Vitals {
            rss_bytes: 20 << 20,
            cpu_ms: 1,
            disk_free_bytes: 2,
            memory_available_bytes: 3,
            temperature_millicelsius: Some(-1_500),
            outbox_dropped: 4,
        },
    }
}

fn telemetry_with_shadow() -> Telemetry {
    let mut window = telemetry().into_window();
    window.slots[0].outputs = OutputSketch { top1: vec![0, 300, 1], confidence: vec![0, 0, 0, 0, 0, 0, 0, 0, 1, 300] };
    window.shadows.push(ShadowWindow {
        slot: "digits".parse().expect("valid"),
        digest: digest(3),
        compared: 300,
        agreed: 298,
        failed: 1,
        skipped: 7,
        confidence_shift: vec![1; SHIFT_BINS],
        latency: vec![0; LATENCY_BOUNDS_US.len() + 1],
    });
    Telemetry::V2(window)
}

fn golden<M: Message + PartialEq + Debug>(name: &str, message: M) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let bytes = wire::encode(&message).expect("within its cap");
    let text: String = bytes.chunks(32).map(|line| hex::encode(line) + "\n").collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    let want = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, want, "{name} is encoded otherwise than before");
    assert_eq!(wire::decode::<M>(&bytes), Ok(message));
}

#[test]
fn every_message_keeps_its_bytes() {
    golden("desired", state(&desired()));
    golden("desired-v2", state(&desired_on_terms()));
    golden("desired-v3", state(&desired_with_denied()));
    let signatures = vec![Signature { key: digest(9), value: vec![5; 64] }];
    golden("signed-desired", SignedDesired::V1 { payload: vec![1, 2, 3], signatures });
    golden("report", report());
    golden("signed-report", SignedReport::V1 { payload: vec![1, 2, 3], signature: vec![4; 70] });
    golden("telemetry", telemetry());
    golden("telemetry-v2", telemetry_with_shadow());
    golden("presence-online", Presence::OnlineV1 { generation: Generation(7) });
    golden("presence-offline", Presence::OfflineV1);
    golden(
        "fetch-chunks",
        Fetch::ChunksV1 { object: Object::Blob(digest(3)), chunk_size: 4096, indices: vec![0, 300], joined: true },
    );
    golden(
        "fetch-metadata",
        Fetch::ChunksV1 {
            object: Object::Metadata(Metadata::Snapshot(5)),
            chunk_size: 65_536,
            indices: vec![0],
            joined: false,
        },
    );
    golden("fetch-delta", Fetch::DeltaV1 { want: digest(4), held: vec![digest(5)] });
    let object = Object::Metadata(Metadata::DirectorRoot(2));
    golden(
        "frame-chunk",
        Frame::ChunkV1 { object: object.clone(), chunk_size: 65_536, index: 1, total: 70_000, data: vec![8; 5] },
    );
    golden("frame-missing", Frame::MissingV1 { object, code: Code::NotFound });
    let delta =
        Delta { base: digest(5), digest: digest(6), size: 5000, chunk_size: 4096, chunks: vec![digest(7), digest(8)] };
    golden("frame-delta", Frame::DeltaV1 { want: digest(4), offer: Some(delta) });
    golden("ack", Ack::V1 { ids: vec![1, 1025] });
    let tensor = Tensor::from_f32(vec![1, 2], &[1.0, -0.5]).expect("fits");
    let sample = Sample {
        name: "seven".into(),
        inputs: [("image".to_owned(), tensor.clone())].into(),
        outputs: [("logits".to_owned(), tensor)].into(),
    };
    golden("samples", SampleSet::V1(vec![sample.clone()]));
    let (request, answer) = (Some("{}".to_owned()), Some("7".to_owned()));
    golden("samples-v2", SampleSet::V2(vec![ScriptedSample { sample, request, answer }]));
}

/// Older agents go on, and are not told what they would not keep.
#[test]
fn a_desired_state_is_said_in_the_oldest_version_that_can_say_it() {
    for speaks in [0, 1, u8::MAX] {
        assert!(matches!(desired().to_state(speaks), Some(DesiredState::V1(_))), "{speaks}");
    }
    assert_eq!(desired_on_terms().to_state(0), None);
    for speaks in [1, u8::MAX] {
        assert!(matches!(desired_on_terms().to_state(speaks), Some(DesiredState::V2(_))), "{speaks}");
    }
    assert_eq!(desired_with_denied().to_state(1), None);
    assert_eq!(desired_with_denied().to_state(2), Some(DesiredState::V3(desired_with_denied())));
    for desired in [desired(), desired_on_terms(), desired_with_denied()] {
        assert_eq!(state(&desired).into_desired(), desired);
    }
}

#[test]
fn telemetry_of_the_first_version_has_neither_sketches_nor_shadows() {
    let window = telemetry().into_window();
    assert_eq!((window.id, window.length_ms, window.slots.len()), (2, 60_000, 1));
    assert_eq!((&window.slots[0].outputs, window.shadows.len()), (&OutputSketch::default(), 0));
    assert_eq!(telemetry().id(), telemetry_with_shadow().id());
}

/// Decodes `bytes` as every kind of message.
fn decode_as_everything(bytes: &[u8]) {
    let _ = wire::decode::<SignedDesired>(bytes);
    let _ = wire::decode::<DesiredState>(bytes);
    let _ = wire::decode::<SignedReport>(bytes);
    let _ = wire::decode::<Report>(bytes);
    let _ = wire::decode::<Telemetry>(bytes);
    let _ = wire::decode::<Presence>(bytes);
    let _ = wire::decode::<Fetch>(bytes);
    let _ = wire::decode::<Frame>(bytes);
    let _ = wire::decode::<Ack>(bytes);
    let _ = wire::decode::<SampleSet>(bytes);
}

#[test]
fn messages_of_the_future_and_oversized_ones_have_their_own_errors() {
    let future = [Frame::VARIANTS, 0, 0];
    assert_eq!(wire::decode::<Frame>(&future).map_err(|e| e.code()), Err(Code::MessageFromTheFuture));
    let huge = vec![0u8; Fetch::MAX_BYTES + 1];
    assert_eq!(wire::decode::<Fetch>(&huge).map_err(|e| e.code()), Err(Code::TooLarge));
    let mut trailing = wire::encode(&Ack::V1 { ids: vec![1] }).expect("encodes");
    trailing.push(0);
    assert!(matches!(wire::decode::<Ack>(&trailing), Err(Error::Invalid { .. })));
    let chunk = Frame::ChunkV1 {
        object: Object::Blob(digest(1)),
        chunk_size: 1,
        index: 0,
        total: 1,
        data: vec![0; wire::MAX_MESSAGE],
    };
    assert_eq!(wire::encode(&chunk).map_err(|e| e.code()), Err(Code::TooLarge));
}

#[test]
fn a_length_that_lies_allocates_nothing_to_speak_of() {
    // Variant 0, then a payload that claims 2⁶⁰ bytes.
    let lie = [0u8, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
    assert!(wire::decode::<SignedReport>(&lie).is_err());
    assert!(wire::decode::<SignedDesired>(&lie).is_err());
    assert!(wire::decode::<Ack>(&lie).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        decode_as_everything(&bytes);
    }

    #[test]
    fn no_mutation_of_a_message_panics(position in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        for mut bytes in [
            wire::encode(&state(&desired())).expect("encodes"),
            wire::encode(&state(&desired_on_terms())).expect("encodes"),
            wire::encode(&report()).expect("encodes"),
            wire::encode(&telemetry()).expect("encodes"),
            wire::encode(&telemetry_with_shadow()).expect("encodes"),
        ] {
            let at = position.index(bytes.len());
            bytes[at] = value;
            decode_as_everything(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            decode_as_everything(&bytes);
        }
    }

    #[test]
    fn chunks_round_trip(index in any::<u32>(), total in any::<u64>(), data in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let frame = Frame::ChunkV1 { object: Object::Blob(digest(1)), chunk_size: 1024, index, total, data };
        let bytes = wire::encode(&frame).expect("encodes");
        prop_assert_eq!(wire::decode::<Frame>(&bytes), Ok(frame));
    }
}
