//! The desired state: full, generation-numbered, addressed to one device. It does not know how the
//! device is reached.

use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, Digest, Generation, SlotName, Workspace};
use crate::wire::Message;

/// The most slots that one device may have.
pub const MAX_SLOTS: usize = 64;

/// Everything that a device shall run, signed by the director as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DesiredState {
    /// The first version.
    V1(Desired),
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
}

impl Desired {
    /// What `slot` shall run.
    pub fn slot(&self, slot: &SlotName) -> Option<&SlotDesired> {
        self.slots.iter().find(|s| s.slot == *slot)
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

impl Message for DesiredState {
    const NAME: &'static str = "desired state";
    const VARIANTS: u8 = 1;
}

impl Message for SignedDesired {
    const NAME: &'static str = "signed desired state";
    const VARIANTS: u8 = 1;
}
