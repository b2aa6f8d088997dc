//! Invariant 4: a dispatcher that has been taken over holds every online key (director, timestamp, snapshot) and serves what
//! it likes, and still cannot make a device run what no publisher signed. And of 14: what is addressed to another device or
//! another workspace changes nothing.
//!
//! Every attempt is made at a copy of the device: a process that starts with what is on its disk.

use std::collections::BTreeMap;

use muster_agent::core::Event;
use muster_proto::desired::{SlotDesired, Terms};
use muster_proto::id::Digest;
use muster_proto::trust::testing::Publisher;

use super::bundles::{Bundles, manifest, slot};
use super::device::Device;
use super::source::Source;
use crate::simulate::agent::Env;
use crate::simulate::version::FIRST;
use crate::simulate::{EPOCH, fleet};

/// How long the intruder keeps trying, in looks at the clock of ten minutes.
const LOOKS: u32 = 6;

/// What an intruder tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// A target that nobody ever signed.
    UnknownTarget,
    /// A signed target's path with another manifest behind it.
    OtherDigest,
    /// As before, and metadata made anew with the online keys, in which the targets name it.
    OwnTargets,
    /// Everything is in order but the bytes.
    OtherBytes,
    /// A desired state that is good for another device.
    OtherDevice,
    /// One that is good for the same name in another workspace.
    OtherWorkspace,
}

impl Attempt {
    /// All of them.
    pub const ALL: [Attempt; 6] = [
        Attempt::UnknownTarget,
        Attempt::OtherDigest,
        Attempt::OwnTargets,
        Attempt::OtherBytes,
        Attempt::OtherDevice,
        Attempt::OtherWorkspace,
    ];
}

/// Lets an intruder try everything at a copy of `device`.
pub fn attempt(device: &Device, bundles: &Bundles, env: &Env) -> Result<(), String> {
    Attempt::ALL.into_iter().try_for_each(|attempt| one(attempt, device, bundles, env))
}

fn one(attempt: Attempt, device: &Device, bundles: &Bundles, env: &Env) -> Result<(), String> {
    let wanted = bundles.all.last().unwrap_or(&bundles.all[usize::from(FIRST) - 1]);
    let in_its_place = matches!(attempt, Attempt::OtherDigest | Attempt::OwnTargets);
    let evil = manifest(if in_its_place { wanted.manifest.version.0 } else { 666 }, &[66; 2000], 0);
    let bytes = evil.to_bytes().map_err(|e| format!("the intruder's manifest: {e}"))?;
    let digest = Digest::of(&bytes);
    let mut swapped: BTreeMap<Digest, Vec<u8>> = BTreeMap::from([(digest, bytes.clone())]);
    swapped.insert(Digest::of(&[66; 2000]), vec![66; 2000]);
    let mut want = SlotDesired {
        slot: slot(),
        target: evil.target_path(),
        digest,
        length: bytes.len() as u64,
        trial_seconds: 60,
        rollout: "r666".to_owned(),
        terms: Terms::default(),
    };
    // The evil manifest's own path is that of the version whose place it takes.
    if matches!(attempt, Attempt::OtherBytes | Attempt::OtherDevice | Attempt::OtherWorkspace) {
        (want.target, want.digest) = (wanted.manifest.target_path(), wanted.digest);
        want.length = wanted.bytes.len() as u64;
        swapped.insert(wanted.digest, bytes.clone());
        swapped.extend(wanted.manifest.files.iter().map(|file| (file.blob.digest, vec![66; file.blob.size as usize])));
    }
    let number = device.number;
    let mut copy = Device::boot(number, device.disk.clone(), bundles, env);
    let generation = device.disk.durable.generation.0;
    let name = fleet::name(if attempt == Attempt::OtherDevice { number + 1 } else { number });
    let mut desired = bundles.desired(name, generation + 1000, EPOCH + u64::from(env.now), vec![want.clone()]);
    if attempt == Attempt::OtherWorkspace {
        desired.workspace = "elsewhere".parse().map_err(|e| format!("{e}"))?;
    }
    let own = (attempt == Attempt::OwnTargets).then(|| own_targets(bundles, &want, &bytes));
    let source = Source { publisher: own.as_ref().unwrap_or(&bundles.publisher), bundles, swapped };
    let mut acts = Vec::new();
    copy.run(Event::Started, &source, env, &mut acts);
    let answered = copy.answers;
    copy.run(Event::LinkUp, &source, env, &mut acts);
    copy.run(Event::DesiredArrived(bundles.publisher.sign_desired(&desired)), &source, env, &mut acts);
    for look in 1..=LOOKS {
        let later = Env { now: env.now + look * 600, ..env.clone() };
        copy.run(Event::Ticked, &source, &later, &mut acts);
    }
    let failed = |what: &str| Err(format!("invariant 4: {attempt:?}: {what}"));
    if let Some(what) = copy.watch.take().into_iter().find(|what| what.starts_with("invariant 1")) {
        return failed(&what);
    }
    if answered.is_some() && copy.answers.is_none() {
        return failed("nothing answers any more");
    }
    let is_signed = |digest: &Digest| bundles.version(digest).is_some();
    if copy.answers.is_some_and(|digest| !is_signed(&digest)) || !copy.disk.manifests.keys().all(is_signed) {
        return failed("something answers or is kept that nobody signed");
    }
    let addressed = !matches!(attempt, Attempt::OtherDevice | Attempt::OtherWorkspace);
    if !addressed && copy.disk.durable.generation.0 != generation {
        return Err(format!("invariant 14: {attempt:?}: what was meant for another was accepted"));
    }
    if addressed && copy.disk.durable.generation.0 == generation {
        return Err(format!("{attempt:?}: the attempt was not even made"));
    }
    Ok(())
}

/// Metadata in which the targets name what the intruder wants. Snapshot and timestamp are signed with the keys that a
/// dispatcher holds; the key for targets is not one of them.
fn own_targets(bundles: &Bundles, want: &SlotDesired, bytes: &[u8]) -> Publisher {
    let mut publisher = bundles.taken_over();
    publisher.add(&want.target, bytes);
    publisher.publish();
    publisher
}
