//! The desired state: full, generation-numbered, addressed to one device. It does not know how the
//! device is reached.

use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, Digest, Generation, SlotName, Workspace};
use crate::wire::Message;

/// The most slots that one device may have.
pub const MAX_SLOTS: usize = 64;

/// The most windows of one slot.
pub const MAX_WINDOWS: usize = 8;
/// The longest cron expression in bytes.
pub const MAX_CRON: usize = 64;
/// The most approvals of one offer.
pub const MAX_APPROVALS: usize = 16;
/// The most recalled versions that one desired state names.
pub const MAX_DENIED: usize = 64;

/// The newest variant of [`DesiredState`] that this build speaks, as in
/// [`AgentInfo::speaks`](crate::report::AgentInfo::speaks).
pub const SPEAKS: u8 = 2;

/// Everything that a device shall run, signed by the director as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DesiredState {
    /// The first version, without terms.
    V1(v1::Desired),
    /// With terms per slot.
    V2(v2::Desired),
    /// With the deny list.
    V3(Desired),
}

impl DesiredState {
    /// The content in its one form in memory; slots of the first version have no terms, and nothing was denied
    /// before the third.
    pub fn into_desired(self) -> Desired {
        match self {
            Self::V1(desired) => desired.into(),
            Self::V2(desired) => desired.into(),
            Self::V3(desired) => desired,
        }
    }
}

/// The content of a desired state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The device's workspace.
    pub workspace: Workspace,
    /// The only device that it is meant for.
    pub device: DeviceId,
    /// The hardware that the dispatcher believes it to have, as the device reported it; empty if unknown.
    pub hardware: String,
    /// Grows with every change; an older one changes nothing (invariant 3).
    pub generation: Generation,
    /// When it was signed, in seconds since 1970.
    pub issued_at: u64,
    /// From when on a device with trusted time refuses it, in seconds since 1970; 0 means never.
    pub expires_at: u64,
    /// Every slot that shall exist. A slot that is not listed is emptied (invariant 5).
    pub slots: Vec<SlotDesired>,
    /// The deny list, as far as it concerns this device: manifests of versions that were recalled, at most
    /// [`MAX_DENIED`]. The device does not go back to one of them by itself.
    pub denied: Vec<Digest>,
}

impl Desired {
    /// What `slot` shall run.
    pub fn slot(&self, slot: &SlotName) -> Option<&SlotDesired> {
        self.slots.iter().find(|s| s.slot == *slot)
    }

    /// The oldest variant that can say it, so that older agents go on understanding what they can keep; none where
    /// an agent that speaks variants up to `speaks` cannot be told.
    pub fn to_state(&self, speaks: u8) -> Option<DesiredState> {
        if !self.denied.is_empty() {
            return (speaks >= 2).then(|| DesiredState::V3(self.clone()));
        }
        if self.slots.iter().all(|s| s.terms.is_none()) {
            return Some(DesiredState::V1(v1::Desired::without_terms(self.clone())));
        }
        (speaks >= 1).then(|| DesiredState::V2(v2::Desired::without_denied(self.clone())))
    }
}

/// What one slot shall run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotDesired {
    /// The slot.
    pub slot: SlotName,
    /// The target's path in the model repository, e.g. `vision/digits/2/manifest`.
    pub target: String,
    /// The digest of the manifest, which the model repository has to name as well.
    pub digest: Digest,
    /// The manifest's length in bytes.
    pub length: u64,
    /// How long after activation a crash leads back to the version before, in seconds.
    pub trial_seconds: u32,
    /// The rollout that asked for it, for reports.
    pub rollout: String,
    /// When the device may switch to it, and what it does before.
    pub terms: Terms,
}

/// What binds the switch to a version. The device keeps it by itself, without a connection too. The default binds
/// nothing.
///
/// Everything up to the switch (fetching, verifying, probing) is done at once. Terms are looked at in this order:
/// plan, hold, `not_before`, windows, veto.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Stay staged until a later desired state says otherwise.
    pub hold: bool,
    /// No switch before this time, in seconds since 1970; 0 means none.
    pub not_before: u64,
    /// A switch only while one of these is open; none means always. At most [`MAX_WINDOWS`].
    pub windows: Vec<Window>,
    /// How long a local veto may delay the switch, in seconds from when the version was staged; 0: vetoes do not count.
    pub veto_seconds: u32,
    /// A recall that cannot wait: neither windows nor vetoes count.
    pub urgent: bool,
    /// Run it beside the active version while it is held.
    pub shadow: Option<ShadowTerms>,
    /// Which plan the offer belongs to, and who approved it.
    pub plan: Option<PlanRef>,
}

impl Terms {
    /// Whether nothing is asked beyond what the first version of a desired state says.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A recurring span of time, in the device's own time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// When it opens: the five fields of cron, at most [`MAX_CRON`] bytes.
    pub cron: String,
    /// How long it stays open, in seconds; at least 1.
    pub seconds: u32,
}

/// How a held version is compared with the active one on real requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowTerms {
    /// The end of it, in seconds of comparing; 0 means none.
    pub seconds: u32,
    /// The end of it, in inferences compared; 0 means none.
    pub inferences: u32,
    /// Which share of the active version's requests is run a second time, in thousandths.
    pub share_permille: u16,
    /// How much of one processor it may take, in thousandths of the time.
    pub cpu_permille: u16,
    /// Memory that stays available beside what the version needs, in bytes.
    pub memory_bytes: u64,
    /// When two answers count as one.
    pub rule: Agreement,
}

/// When the answers of two versions to one request agree. Outputs that differ in name, type or shape never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Agreement {
    /// The largest value of the first floating-point output stands at the same place of the last axis, in every row.
    Top1,
    /// No element of any output differs by more than this.
    Tolerance {
        /// The largest difference.
        absolute: Real,
    },
    /// At least this share of all output elements is within 0.001; for detectors, whose boxes move a little.
    Overlap {
        /// The share in thousandths.
        permille: u16,
    },
}

/// An `f32` that is compared by its bits, so that what holds it can be compared as a whole.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Real(pub f32);

impl PartialEq for Real {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Real {}

/// The plan that an offer belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRef {
    /// The plan's digest.
    pub hash: Digest,
    /// Who approved that plan for this target; at most [`MAX_APPROVALS`].
    pub approvals: Vec<Approval>,
}

/// One person's word for a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The TUF key id of the Ed25519 key.
    pub key: Digest,
    /// The signature over [`approval_signing_input`](crate::trust::sign::approval_signing_input).
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// What an approval says: this plan may bring this content to this workspace's devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalStatement {
    /// The workspace.
    pub workspace: Workspace,
    /// The plan's digest.
    pub plan: Digest,
    /// The target's path.
    pub target: String,
    /// The digest of its manifest.
    pub digest: Digest,
}

/// One signature over a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The key's TUF key id.
    pub key: Digest,
    /// The signature's bytes.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// A desired state as it travels: the exact bytes that were signed, and the director's signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignedDesired {
    /// The first version.
    V1 {
        /// An encoded [`DesiredState`].
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
        /// Signatures by keys of the director root's `targets` role.
        signatures: Vec<Signature>,
    },
}

/// The layout of the first version, which never changes.
pub mod v1 {
    use serde::{Deserialize, Serialize};

    use crate::id::{DeviceId, Digest, Generation, SlotName, Workspace};

    /// The first version of [`Desired`](super::Desired).
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[allow(missing_docs, reason = "the fields are those of the present form")]
    pub struct Desired {
        pub workspace: Workspace,
        pub device: DeviceId,
        pub hardware: String,
        pub generation: Generation,
        pub issued_at: u64,
        pub expires_at: u64,
        pub slots: Vec<SlotDesired>,
    }

    /// The first version of [`SlotDesired`](super::SlotDesired).
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[allow(missing_docs, reason = "the fields are those of the present form")]
    pub struct SlotDesired {
        pub slot: SlotName,
        pub target: String,
        pub digest: Digest,
        pub length: u64,
        pub trial_seconds: u32,
        pub rollout: String,
    }

    impl Desired {
        /// What is left without the terms.
        pub fn without_terms(desired: super::Desired) -> Self {
            let super::Desired { workspace, device, hardware, generation, issued_at, expires_at, slots, .. } = desired;
            let slots = slots.into_iter().map(SlotDesired::without_terms).collect();
            Self { workspace, device, hardware, generation, issued_at, expires_at, slots }
        }
    }

    impl SlotDesired {
        /// What is left without the terms.
        pub fn without_terms(slot: super::SlotDesired) -> Self {
            let super::SlotDesired { slot, target, digest, length, trial_seconds, rollout, terms: _ } = slot;
            Self { slot, target, digest, length, trial_seconds, rollout }
        }
    }

    impl From<Desired> for super::Desired {
        fn from(desired: Desired) -> Self {
            let Desired { workspace, device, hardware, generation, issued_at, expires_at, slots } = desired;
            let slots = slots.into_iter().map(Into::into).collect();
            let denied = Vec::new();
            Self { workspace, device, hardware, generation, issued_at, expires_at, slots, denied }
        }
    }

    impl From<SlotDesired> for super::SlotDesired {
        fn from(slot: SlotDesired) -> Self {
            let SlotDesired { slot, target, digest, length, trial_seconds, rollout } = slot;
            Self { slot, target, digest, length, trial_seconds, rollout, terms: super::Terms::default() }
        }
    }
}

/// The layout of the second version, which never changes.
pub mod v2 {
    use serde::{Deserialize, Serialize};

    use super::SlotDesired;
    use crate::id::{DeviceId, Generation, Workspace};

    /// The second version of [`Desired`](super::Desired).
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[allow(missing_docs, reason = "the fields are those of the present form")]
    pub struct Desired {
        pub workspace: Workspace,
        pub device: DeviceId,
        pub hardware: String,
        pub generation: Generation,
        pub issued_at: u64,
        pub expires_at: u64,
        pub slots: Vec<SlotDesired>,
    }

    impl Desired {
        /// What is left without the deny list.
        pub fn without_denied(desired: super::Desired) -> Self {
            let super::Desired { workspace, device, hardware, generation, issued_at, expires_at, slots, denied: _ } =
                desired;
            Self { workspace, device, hardware, generation, issued_at, expires_at, slots }
        }
    }

    impl From<Desired> for super::Desired {
        fn from(desired: Desired) -> Self {
            let Desired { workspace, device, hardware, generation, issued_at, expires_at, slots } = desired;
            let denied = Vec::new();
            Self { workspace, device, hardware, generation, issued_at, expires_at, slots, denied }
        }
    }
}

impl Message for DesiredState {
    const NAME: &'static str = "desired state";
    const VARIANTS: u8 = SPEAKS + 1;
}

impl Message for SignedDesired {
    const NAME: &'static str = "signed desired state";
    const VARIANTS: u8 = 1;
}
