//! Effects as one line each.

use muster_proto::report::{ModelRef, SlotReport};
use muster_proto::transfer::{Fetch, Object};

use super::bench::{Bench, source};
use crate::core::Effect;
use crate::core::event::Body;

pub fn line(bench: &Bench, effect: &Effect) -> String {
    match effect {
        Effect::Persist(_) => "persist".into(),
        Effect::KeepSigned(signed) => {
            let names: Vec<&str> = signed.iter().map(|(what, _)| what.name()).collect();
            format!("keep {}", names.join(" "))
        }
        Effect::KeepManifest { digest, .. } => format!("keep {}", bench.name(digest)),
        Effect::SayHello => "say hello".into(),
        Effect::Request(Fetch::ChunksV1 { object, indices, .. }) => {
            let what = match object {
                Object::Blob(digest) => bench.name(digest),
                Object::Metadata(which) => format!("{which:?}"),
            };
            match (indices.first(), indices.last()) {
                (Some(0), Some(0)) => format!("ask for {what}"),
                (Some(first), Some(last)) => format!("ask for {what}, chunks {first} to {last}"),
                _ => format!("ask for nothing of {what}"),
            }
        }
        Effect::Request(Fetch::DeltaV1 { want, held }) => {
            let held: Vec<String> = held.iter().map(|digest| bench.name(digest)).collect();
            format!("ask for a delta to {} from {}", bench.name(want), held.join(" or "))
        }
        Effect::Join(digest) => format!("join {}", bench.name(digest)),
        Effect::Leave(digest) => format!("leave {}", bench.name(digest)),
        Effect::MeasureRoom => "measure the room".into(),
        Effect::OpenBlob(blob) => format!("open {}", bench.name(&blob.digest)),
        Effect::WriteChunk { digest, offset, data } => {
            format!("write {} bytes at {offset} of {}", data.len(), bench.name(digest))
        }
        Effect::Assemble { file, source: from } => format!("assemble {}{}", bench.name(&file.digest), source(from)),
        Effect::DropBlob(digest) => format!("drop {}", bench.name(digest)),
        Effect::Stage { slot, manifest, .. } => format!("stage {} in {slot}", short(&manifest.target_path())),
        Effect::Activate { slot, digest } => format!("activate {} in {slot}", bench.name(digest)),
        Effect::Shadow { slot, digest, .. } => format!("shadow {} in {slot}", bench.name(digest)),
        Effect::EndShadow { slot } => format!("end the shadow in {slot}"),
        Effect::Unstage { slot } => format!("unstage {slot}"),
        Effect::Load { slot, manifest, .. } => format!("load {} in {slot}", short(&manifest.target_path())),
        Effect::Clear { slot } => format!("clear {slot}"),
        Effect::Collect { manifests, files } => {
            let all: Vec<String> = manifests.iter().chain(files).map(|digest| bench.name(digest)).collect();
            format!("remove {}", all.join(", "))
        }
        Effect::SendReport(report) => format!("report {}", slots(&report.slots)),
        Effect::Put { body, .. } => match &**body {
            Body::Report(report) => format!("put {}", slots(&report.slots)),
            Body::Telemetry(_) => "put telemetry".into(),
        },
        Effect::Send { kind, .. } => format!("send {kind:?}").to_lowercase(),
        Effect::Remove(ids) => format!("forget {} messages", ids.len()),
    }
}

fn slots(slots: &[SlotReport]) -> String {
    let name = |r: &Option<ModelRef>| r.as_ref().map_or("nothing".into(), |r| short(&r.target));
    let one = |s: &SlotReport| {
        let code = s.failure.as_ref().map(|f| format!(" {}", f.code)).unwrap_or_default();
        format!("{} {:?}{code}", name(&s.desired), s.phase)
    };
    if slots.is_empty() { "no slots".into() } else { slots.iter().map(one).collect::<Vec<_>>().join(", ") }
}

fn short(target: &str) -> String {
    target.replace("/manifest", "")
}
