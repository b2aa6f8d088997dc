//! Events and effects in a few words, for traces.

use muster_agent::core::event::Body;
use muster_agent::core::{Effect, Event};
use muster_proto::transfer::{Fetch, Frame, Object};

/// An event.
pub(super) fn event(event: &Event) -> String {
    match event {
        Event::DesiredArrived(bytes) => format!("DesiredArrived({} bytes)", bytes.len()),
        Event::FrameArrived(frame) => format!("FrameArrived({})", self::frame(frame)),
        Event::BlobOpened { digest, have } => {
            let have = have.as_ref().map(|have| have.iter().filter(|h| **h).count());
            format!("BlobOpened({}, {have:?})", digest.short())
        }
        Event::FileAssembled { file, result } => format!("FileAssembled({}, {result:?})", file.short()),
        Event::ModelStaged { slot, digest, result } => {
            format!("ModelStaged({slot}, {}, {:?})", digest.short(), result.as_ref().map(|p| p.passed))
        }
        Event::ModelLoaded { slot, digest, result } => {
            format!("ModelLoaded({slot}, {}, {:?})", digest.short(), result.as_ref().map(|p| p.passed))
        }
        Event::WindowClosed { .. } => "WindowClosed".into(),
        other => format!("{other:?}"),
    }
}

/// An effect.
pub(super) fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Persist(durable) => {
            let slots: Vec<String> = durable
                .slots
                .iter()
                .map(|(slot, record)| {
                    let version = |r: &Option<muster_proto::report::ModelRef>| {
                        r.as_ref().map_or("-".to_owned(), |r| r.target.replace("/manifest", ""))
                    };
                    let trial = record.trial.as_ref().map(|t| t.unclean_ends);
                    let staging = record.staging.as_ref().map(|s| (s.digest.short(), s.unclean_ends));
                    let outcome =
                        record.outcome.as_ref().map(|o| (o.phase, o.want.target.clone(), o.want.rollout.clone()));
                    format!(
                        "{slot}: active {} previous {} trial {trial:?} staging {staging:?} outcome {outcome:?}",
                        version(&record.active),
                        version(&record.previous)
                    )
                })
                .collect();
            format!("Persist(generation {}, clean {}, {})", durable.generation, durable.clean_stop, slots.join("; "))
        }
        Effect::KeepSigned(signed) => {
            let names: Vec<&str> = signed.iter().map(|(what, _)| what.name()).collect();
            format!("KeepSigned({})", names.join(", "))
        }
        Effect::KeepManifest { digest, .. } => format!("KeepManifest({})", digest.short()),
        Effect::Request(fetch) => format!("Request({})", self::fetch(fetch)),
        Effect::OpenBlob(blob) => format!("OpenBlob({})", blob.digest.short()),
        Effect::WriteChunk { digest, offset, data } => {
            format!("WriteChunk({}, {offset}, {} bytes)", digest.short(), data.len())
        }
        Effect::Assemble { file, source } => format!("Assemble({}, {source:?})", file.digest.short()),
        Effect::Stage { slot, manifest, .. } => format!("Stage({slot}, {})", manifest.target_path()),
        Effect::Load { slot, manifest, .. } => format!("Load({slot}, {})", manifest.target_path()),
        Effect::SendReport(report) => format!("SendReport({}, {})", report.id, slots(&report.slots)),
        Effect::Put { id, kind, body } => match &**body {
            Body::Report(report) => format!("Put({id}, {kind:?}, {})", slots(&report.slots)),
            Body::Telemetry(_) => format!("Put({id}, {kind:?})"),
        },
        other => format!("{other:?}"),
    }
}

fn slots(slots: &[muster_proto::report::SlotReport]) -> String {
    let one = |slot: &muster_proto::report::SlotReport| {
        let desired = slot.desired.as_ref().map_or("-", |d| d.target.as_str());
        let active = slot.active.as_ref().map_or("-", |d| d.target.as_str());
        let code = slot.failure.as_ref().map(|f| f.code.name());
        format!("{}: {} {desired} {:?} {code:?}, {active} answers", slot.slot, slot.rollout, slot.phase)
    };
    slots.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// A request.
pub(super) fn fetch(fetch: &Fetch) -> String {
    match fetch {
        Fetch::ChunksV1 { object, indices, .. } => format!("chunks {indices:?} of {}", self::object(object)),
        Fetch::DeltaV1 { want, held } => format!("delta to {} from {} files", want.short(), held.len()),
    }
}

fn frame(frame: &Frame) -> String {
    match frame {
        Frame::ChunkV1 { object, index, total, .. } => {
            format!("chunk {index} of {}, {total} bytes", self::object(object))
        }
        Frame::MissingV1 { object, .. } => format!("no {}", self::object(object)),
        Frame::DeltaV1 { want, offer } => format!("delta to {}: {:?}", want.short(), offer.as_ref().map(|d| d.size)),
    }
}

fn object(object: &Object) -> String {
    match object {
        Object::Blob(digest) => digest.short(),
        Object::Metadata(which) => format!("{which:?}"),
    }
}
