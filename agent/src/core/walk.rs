//! The walk through the signed metadata, in the order of the TUF specification (section 5): roots one by
//! one, timestamp, snapshot, targets. The director's roots come first, because a desired state may wait
//! for them.

use muster_proto::report::Failure;
use muster_proto::transfer::{Metadata, Object};
use muster_proto::trust::{self, Role};

use super::Now;
use super::backoff;
use super::event::{Effect, Signed};
use super::fetch::{Gather, Gathered};
use super::state::State;

/// How far the walk is.
#[derive(Debug, Clone, Default)]
pub(super) struct Walk {
    step: Option<(Metadata, Gather)>,
    /// A walk is wanted as soon as possible.
    wanted: bool,
    attempts: u32,
    not_before: u64,
    /// Why the last one failed.
    pub failure: Option<Failure>,
}

impl Walk {
    /// Whether metadata is on its way or wanted.
    pub fn is_pending(&self) -> bool {
        self.wanted || self.step.is_some()
    }
}

fn cap(metadata: Metadata) -> u64 {
    match metadata {
        Metadata::Root(_) | Metadata::DirectorRoot(_) => trust::MAX_ROOT as u64,
        Metadata::Timestamp => trust::MAX_TIMESTAMP as u64,
        Metadata::Snapshot(_) => trust::MAX_SNAPSHOT as u64,
        Metadata::Targets(_) => trust::MAX_TARGETS as u64,
    }
}

impl State {
    /// Asks for a walk from the start.
    pub(super) fn want_walk(&mut self) {
        self.walk.wanted = true;
        self.walk.not_before = 0;
    }

    /// Begins a wanted walk and repeats what was lost.
    pub(super) fn advance_walk(&mut self, now: Now, fx: &mut Vec<Effect>) {
        if !self.online {
            return;
        }
        if self.walk.step.is_none() && self.walk.wanted && now.mono_ms >= self.walk.not_before {
            self.walk.wanted = false;
            self.walk_to(Metadata::DirectorRoot(self.director.root_version() + 1), now);
        }
        let stalled = self.walk.step.as_ref().is_some_and(|(_, gather)| gather.is_stalled(now.mono_ms));
        if stalled {
            let code = muster_proto::code::Code::TransferStalled;
            self.walk_failed(Failure { code, detail: "signed metadata did not arrive".into() }, now);
        }
        if let Some((_, gather)) = &mut self.walk.step {
            fx.extend(gather.request(now.mono_ms).map(Effect::Request));
        }
    }

    /// Everything asked for is lost.
    pub(super) fn walk_lost_link(&mut self) {
        if let Some((_, gather)) = &mut self.walk.step {
            gather.forget_in_flight();
        }
    }

    fn walk_to(&mut self, metadata: Metadata, now: Now) {
        let gather = Gather::new(Object::Metadata(metadata), cap(metadata), now.mono_ms);
        self.walk.step = Some((metadata, gather));
    }

    fn walk_failed(&mut self, failure: Failure, now: Now) {
        self.walk.step = None;
        self.walk.wanted = true;
        self.walk.attempts += 1;
        self.walk.not_before = now.mono_ms + backoff::delay_ms(self.walk.attempts, self.identity.device.as_str());
        if self.walk.failure.as_ref() != Some(&failure) {
            self.walk.failure = Some(failure);
            self.report_due = true;
        }
    }

    /// A chunk that may belong to the walk. Returns whether it did.
    pub(super) fn walk_chunk(
        &mut self,
        object: &Object,
        (chunk_size, index, total): (u32, u32, u64),
        data: &[u8],
        now: Now,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let Some((metadata, gather)) = &mut self.walk.step else { return false };
        let metadata = *metadata;
        if gather.object() != object {
            return false;
        }
        match gather.arrived(object, chunk_size, index, total, data) {
            Gathered::Ignored | Gathered::More => {}
            Gathered::TooLarge { total } => {
                let detail = format!("{metadata:?} claims {total} bytes, {} are allowed", cap(metadata));
                self.walk_failed(Failure { code: muster_proto::code::Code::TooLarge, detail }, now);
            }
            Gathered::Whole(bytes) => self.walk_arrived(metadata, bytes, now, fx),
        }
        self.advance_walk(now, fx);
        true
    }

    /// The dispatcher does not have what the walk asked for. Returns whether it was the walk's.
    pub(super) fn walk_missing(&mut self, object: &Object, now: Now, fx: &mut Vec<Effect>) -> bool {
        let Some((metadata, _)) = self.walk.step.as_ref().filter(|(_, gather)| gather.object() == object) else {
            return false;
        };
        match *metadata {
            // No newer root: this is how a walk along the roots ends.
            Metadata::DirectorRoot(_) => self.director_roots_done(now, fx),
            Metadata::Root(_) => self.walk_to(Metadata::Timestamp, now),
            other => {
                let detail = format!("the dispatcher has no {other:?}");
                self.walk_failed(Failure { code: muster_proto::code::Code::NotFound, detail }, now);
            }
        }
        self.advance_walk(now, fx);
        true
    }

    fn director_roots_done(&mut self, now: Now, fx: &mut Vec<Effect>) {
        self.walk_to(Metadata::Root(self.repository.root_version() + 1), now);
        if let Some(bytes) = self.unproven.take() {
            self.accept_desired(bytes, false, now, fx);
        }
    }

    fn walk_arrived(&mut self, metadata: Metadata, bytes: Vec<u8>, now: Now, fx: &mut Vec<Effect>) {
        let time = self.trusted_time(now);
        let result = match metadata {
            Metadata::DirectorRoot(_) => self.director.update_root(&bytes),
            Metadata::Root(_) => self.repository.update_root(&bytes),
            Metadata::Timestamp => self.repository.update_timestamp(&bytes, time).map(drop),
            Metadata::Snapshot(_) => self.repository.update_snapshot(&bytes, time).map(drop),
            Metadata::Targets(_) => self.repository.update_targets(&bytes, time).map(drop),
        };
        if let Err(error) = result {
            let failure = Failure { code: error.code(), detail: super::report::clip(&error.to_string()) };
            return self.walk_failed(failure, now);
        }
        fx.push(Effect::KeepSigned(self.signed(metadata)));
        match metadata {
            Metadata::DirectorRoot(version) => self.walk_to(Metadata::DirectorRoot(version + 1), now),
            Metadata::Root(version) => self.walk_to(Metadata::Root(version + 1), now),
            Metadata::Timestamp | Metadata::Snapshot(_) | Metadata::Targets(_) => match self.repository.missing() {
                Some(next) => self.walk_to(next, now),
                None => self.walk_done(),
            },
        }
    }

    /// What has to be stored together after an update: a new root may have dropped what it does not cover.
    fn signed(&self, updated: Metadata) -> Vec<(Signed, Option<Vec<u8>>)> {
        let of = |what, role| (what, self.repository.bytes(role).map(<[u8]>::to_vec));
        match updated {
            Metadata::DirectorRoot(_) => vec![(Signed::DirectorRoot, Some(self.director.root_bytes().to_vec()))],
            Metadata::Root(_) => vec![
                of(Signed::Root, Role::Root),
                of(Signed::Timestamp, Role::Timestamp),
                of(Signed::Snapshot, Role::Snapshot),
                of(Signed::Targets, Role::Targets),
            ],
            Metadata::Timestamp => vec![of(Signed::Timestamp, Role::Timestamp)],
            Metadata::Snapshot(_) => vec![of(Signed::Snapshot, Role::Snapshot)],
            Metadata::Targets(_) => vec![of(Signed::Targets, Role::Targets)],
        }
    }

    fn walk_done(&mut self) {
        self.walk.step = None;
        self.walk.attempts = 0;
        self.walk.failure = None;
    }
}
