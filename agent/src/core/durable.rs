//! What survives a power cut, written as one value before any effect that depends on it.

use std::collections::BTreeMap;

use muster_proto::desired::SlotDesired;
use muster_proto::id::{Digest, Generation, SlotName};
use muster_proto::report::{Failure, ModelRef, Phase, Probe, Transfer};
use muster_proto::wire::Message;
use serde::{Deserialize, Serialize};

/// The stored form of [`Durable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Stored {
    /// The first version: updates without terms.
    V1(v1::Durable),
    /// With what a version waits for.
    V2(Durable),
}

impl Stored {
    /// The content in its one form in memory.
    pub fn into_durable(self) -> Durable {
        match self {
            Self::V1(durable) => durable.into(),
            Self::V2(durable) => durable,
        }
    }
}

impl Message for Stored {
    const NAME: &'static str = "stored state";
    const VARIANTS: u8 = 2;
    const MAX_BYTES: usize = 4 << 20;
}

/// Everything the agent must not forget, besides signed metadata, manifests, files and the outbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Durable {
    /// Drawn when the store was made.
    pub incarnation: u64,
    /// Message ids below this one may have been used.
    pub id_ceiling: u64,
    /// The newest time in a verified message, in seconds since 1970: real time is not earlier.
    pub time_floor: u64,
    /// The newest accepted generation; 0 before the first. It never goes back (invariant 3).
    pub generation: Generation,
    /// The newest accepted desired state as it was signed; it is verified again at each start.
    #[serde(with = "serde_bytes")]
    pub signed_desired: Vec<u8>,
    /// What each slot runs.
    pub slots: BTreeMap<SlotName, SlotRecord>,
    /// Whether the process ended because it was told to.
    pub clean_stop: bool,
    /// How many messages the outbox dropped.
    pub outbox_dropped: u64,
}

/// One slot.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SlotRecord {
    /// What answers, or is loaded at the next start.
    pub active: Option<ModelRef>,
    /// What answered before, kept until the active one is confirmed and as long as there is room.
    pub previous: Option<ModelRef>,
    /// The active one has not been confirmed yet.
    pub trial: Option<Attempt>,
    /// The previous one has never been confirmed either: its trial goes on if it comes back.
    pub previous_trial: Option<Attempt>,
    /// A version that is being loaded for the first time.
    pub staging: Option<Attempt>,
    /// How the last update ended, or how far it has come since it answers.
    pub outcome: Option<Outcome>,
    /// A version that is ready and waits for its terms.
    pub held: Option<Held>,
}

/// How long a version has waited since it was ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The manifest's digest.
    pub digest: Digest,
    /// When it was ready, in seconds since 1970; 0 where that was not known.
    pub since: u64,
    /// Seconds waited in earlier processes, written down now and then: the clock may know nothing of them.
    pub waited_s: u64,
    /// The shadow run has come to its end.
    pub shadowed: bool,
}

/// Something that may kill the process, and how often it seems to have done so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The manifest's digest.
    pub digest: Digest,
    /// How often the process ended without being told to.
    pub unclean_ends: u8,
}

impl SlotRecord {
    /// Puts the previous version in the place of the active one, in the state in which it was left.
    pub(super) fn go_back(&mut self) {
        self.active = self.previous.take();
        self.trial = self.previous_trial.take();
    }
}

/// How an update ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What was wanted.
    pub want: SlotDesired,
    /// Active, healthy, failed or removed.
    pub phase: Phase,
    /// The probe, if it came to that.
    pub probe: Option<Probe>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What its transfer moved.
    pub transfer: Transfer,
}

/// The layout of the first version, which never changes.
pub mod v1 {
    use std::collections::BTreeMap;

    use muster_proto::desired::v1::SlotDesired;
    use muster_proto::id::{Generation, SlotName};
    use muster_proto::report::{Failure, ModelRef, Phase, Probe, Transfer};
    use serde::{Deserialize, Serialize};

    use super::Attempt;

    /// The first version of [`Durable`](super::Durable).
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[allow(missing_docs, reason = "the fields are those of the present form")]
    pub struct Durable {
        pub incarnation: u64,
        pub id_ceiling: u64,
        pub time_floor: u64,
        pub generation: Generation,
        #[serde(with = "serde_bytes")]
        pub signed_desired: Vec<u8>,
        pub slots: BTreeMap<SlotName, SlotRecord>,
        pub clean_stop: bool,
        pub outbox_dropped: u64,
    }

    /// The first version of [`SlotRecord`](super::SlotRecord).
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[allow(missing_docs, reason = "the fields are those of the present form")]
    pub struct SlotRecord {
        pub active: Option<ModelRef>,
        pub previous: Option<ModelRef>,
        pub trial: Option<Attempt>,
        pub previous_trial: Option<Attempt>,
        pub staging: Option<Attempt>,
        pub outcome: Option<Outcome>,
    }

    /// The first version of [`Outcome`](super::Outcome).
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[allow(missing_docs, reason = "the fields are those of the present form")]
    pub struct Outcome {
        pub want: SlotDesired,
        pub phase: Phase,
        pub probe: Option<Probe>,
        pub failure: Option<Failure>,
        pub transfer: Transfer,
    }

    impl From<Durable> for super::Durable {
        fn from(old: Durable) -> Self {
            let slots = old.slots.into_iter().map(|(slot, record)| (slot, record.into())).collect();
            let Durable { incarnation, id_ceiling, time_floor, generation, signed_desired, .. } = old;
            let Durable { clean_stop, outbox_dropped, .. } = old;
            Self { incarnation, id_ceiling, time_floor, generation, signed_desired, slots, clean_stop, outbox_dropped }
        }
    }

    impl From<SlotRecord> for super::SlotRecord {
        fn from(old: SlotRecord) -> Self {
            let SlotRecord { active, previous, trial, previous_trial, staging, outcome } = old;
            let outcome = outcome.map(Into::into);
            Self { active, previous, trial, previous_trial, staging, outcome, held: None }
        }
    }

    impl From<Outcome> for super::Outcome {
        fn from(old: Outcome) -> Self {
            let Outcome { want, phase, probe, failure, transfer } = old;
            Self { want: want.into(), phase, probe, failure, transfer }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::code::Code;
    use muster_proto::wire;

    /// What an agent of the first version has written. It stands for every device in the field.
    const V1: &str = "0001801080a4a7da06070301020301066469676974730118766973696f6e2f6469676974732f312f\
        6d616e69666573740101010101010101010101010101010101010101010101010101010101010101\
        00010101010101010101010101010101010101010101010101010101010101010101010000010664\
        696769747318766973696f6e2f6469676974732f322f6d616e696665737402020202020202020202\
        0202020202020202020202020202020202020202020280203c027231060001a20101780102030401\
        09";

    fn digest(n: u8) -> Digest {
        Digest([n; 32])
    }

    fn model(n: u8) -> Option<ModelRef> {
        Some(ModelRef { target: format!("vision/digits/{n}/manifest"), digest: digest(n) })
    }

    fn old() -> v1::Durable {
        let want = muster_proto::desired::v1::SlotDesired {
            slot: "digits".parse().expect("valid"),
            target: "vision/digits/2/manifest".into(),
            digest: digest(2),
            length: 4096,
            trial_seconds: 60,
            rollout: "r1".into(),
        };
        let outcome = v1::Outcome {
            want,
            phase: Phase::Failed,
            probe: None,
            failure: Some(Failure { code: Code::ProbeMismatch, detail: "x".into() }),
            transfer: Transfer { fetched: 1, saved: 2, resumed: 3, chunks: 4 },
        };
        let record = v1::SlotRecord {
            active: model(1),
            previous: None,
            trial: Some(Attempt { digest: digest(1), unclean_ends: 1 }),
            previous_trial: None,
            staging: None,
            outcome: Some(outcome),
        };
        v1::Durable {
            incarnation: 1,
            id_ceiling: 2048,
            time_floor: 1_800_000_000,
            generation: Generation(7),
            signed_desired: vec![1, 2, 3],
            slots: BTreeMap::from([("digits".parse().expect("valid"), record)]),
            clean_stop: true,
            outbox_dropped: 9,
        }
    }

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let bytes = hex::decode(V1).expect("digits");
        assert_eq!(wire::encode(&Stored::V1(old())).map(hex::encode), Ok(V1.to_owned()));
        let durable = wire::decode::<Stored>(&bytes).expect("decodes").into_durable();
        let record = durable.slots.values().next().expect("one slot");
        let outcome = record.outcome.as_ref().expect("an outcome");
        assert_eq!((durable.generation, durable.outbox_dropped, durable.clean_stop), (Generation(7), 9, true));
        assert_eq!((&record.active, &record.held), (&model(1), &None));
        assert_eq!((outcome.want.rollout.as_str(), outcome.want.terms.is_none()), ("r1", true));
        assert_eq!(
            wire::decode::<Stored>(&wire::encode(&Stored::V2(durable.clone())).expect("small")),
            Ok(Stored::V2(durable))
        );
    }
}
