//! One device's part in a rollout, kept small: a fleet has a million of them.

use muster_proto::code::Code;
use muster_proto::report::Transfer;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::PRESTAGE;
use super::line::waits;

/// How far one device of a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DevicePhase {
    /// Not yet offered.
    Waiting,
    /// Offered; nothing heard of it.
    Offered,
    /// Fetching.
    Fetching,
    /// All files are whole.
    Verified,
    /// Loaded and probed; it has not switched.
    Staged,
    /// Answers; its soak time runs.
    Active,
    /// Answered well for the soak time, and proved it.
    Healthy,
    /// Failed, with a code; what it had before answers.
    Failed,
    /// The device cannot or may not take it, with a code. Not a failure of the version.
    Refused,
    /// It was updating and has not been heard for too long. Its place is free.
    Silent,
    /// Told to go back to what it had before.
    Recalling,
    /// Went back, and proved it.
    Recalled,
    /// Another rollout has its slot.
    Superseded,
    /// No longer among those whom the rollout is for.
    Excluded,
}

impl DevicePhase {
    /// Every phase.
    pub const ALL: [DevicePhase; 14] = [
        DevicePhase::Waiting,
        DevicePhase::Offered,
        DevicePhase::Fetching,
        DevicePhase::Verified,
        DevicePhase::Staged,
        DevicePhase::Active,
        DevicePhase::Healthy,
        DevicePhase::Failed,
        DevicePhase::Refused,
        DevicePhase::Silent,
        DevicePhase::Recalling,
        DevicePhase::Recalled,
        DevicePhase::Superseded,
        DevicePhase::Excluded,
    ];

    /// Whether the device is on its way from an offer to being healthy.
    pub fn is_updating(self) -> bool {
        matches!(
            self,
            DevicePhase::Offered
                | DevicePhase::Fetching
                | DevicePhase::Verified
                | DevicePhase::Staged
                | DevicePhase::Active
        )
    }

    /// Whether it has an outcome that counts for or against the version.
    pub fn is_decided(self) -> bool {
        matches!(self, DevicePhase::Healthy | DevicePhase::Failed)
    }

    /// Whether the device may have the version, or get it without being told again.
    pub fn may_have_it(self) -> bool {
        self.is_updating() || matches!(self, DevicePhase::Healthy | DevicePhase::Silent)
    }

    /// Whether it ever was offered the version.
    pub fn has_started(self) -> bool {
        !matches!(self, DevicePhase::Waiting | DevicePhase::Superseded | DevicePhase::Excluded)
    }
}

/// One device's part in a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// How far it is.
    pub phase: DevicePhase,
    /// The stage in which it was offered the version.
    pub stage: u8,
    /// It is to stay staged until a later word.
    pub held: bool,
    /// How often it was offered the version again after a failure.
    pub attempts: u8,
    /// The code, if it failed, refused or waits.
    pub code: Option<Code>,
    /// Its site, by place in the rollout's list.
    pub site: u32,
    /// Where it stands in line: smaller comes first.
    pub place: u64,
    /// Since when it is in this phase.
    pub since: u64,
    /// When it was last offered the version, or its time began anew; 0 before.
    pub started_at: u64,
    /// Not to be offered the version before; 0 where there is nothing to wait for.
    pub not_before: u64,
    /// What happened, for people.
    pub detail: Option<Box<str>>,
    /// What its transfer moved.
    pub transfer: Transfer,
    /// Whether something answered in the slot before, so that there is something to compare with.
    pub comparable: bool,
    /// Whether it is connected.
    #[serde(skip)]
    pub online: bool,
    /// The rollout that keeps it from being offered this one.
    #[serde(skip)]
    pub blocked: Option<u64>,
    /// How many of its windows have counted as readings.
    pub readings: u8,
    /// When it was last heard.
    #[serde(skip)]
    pub heard: u64,
    /// When it is looked at again; 0 for never.
    #[serde(skip)]
    pub(super) armed: u64,
}

impl Part {
    /// A device that waits.
    pub(super) fn waiting(place: u64, site: u32, now: u64) -> Self {
        Self {
            phase: DevicePhase::Waiting,
            stage: 0,
            held: false,
            attempts: 0,
            code: None,
            site,
            place,
            since: now,
            started_at: 0,
            not_before: 0,
            detail: None,
            transfer: Transfer::default(),
            comparable: false,
            readings: 0,
            online: false,
            blocked: None,
            heard: now,
            armed: 0,
        }
    }

    /// Whether it takes up one of the places for devices that update at once.
    pub fn in_flight(&self) -> bool {
        self.phase.is_updating() && !(self.held && self.phase == DevicePhase::Staged)
    }

    /// Whether it is staged and waits for the word to switch.
    pub fn is_held(&self) -> bool {
        self.held && self.phase == DevicePhase::Staged
    }

    /// Whether it runs the version as a shadow, or is on its way there.
    pub fn is_shadowing(&self) -> bool {
        self.held && self.stage != PRESTAGE && self.phase.is_updating()
    }

    /// Whether it waits as it was told, or as its owner wants.
    pub fn waits(&self) -> bool {
        self.held || self.code.is_some_and(waits)
    }

    /// Whether the device's desired state may name the version.
    pub(super) fn was_told(&self) -> bool {
        self.started_at > 0 && !matches!(self.phase, DevicePhase::Recalled | DevicePhase::Superseded)
    }
}

/// How many devices are in each phase.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts([u32; DevicePhase::ALL.len()]);

impl Counts {
    /// How many are in `phase`.
    pub fn of(&self, phase: DevicePhase) -> u32 {
        self.0[phase as usize]
    }

    /// How many are in any phase that `which` takes.
    pub fn sum(&self, which: impl Fn(DevicePhase) -> bool) -> u32 {
        DevicePhase::ALL.into_iter().filter(|p| which(*p)).map(|p| self.of(p)).sum()
    }

    /// How many there are at all.
    pub fn total(&self) -> u32 {
        self.0.iter().sum()
    }

    pub(super) fn add(&mut self, phase: DevicePhase) {
        self.0[phase as usize] += 1;
    }

    pub(super) fn remove(&mut self, phase: DevicePhase) {
        self.0[phase as usize] = self.0[phase as usize].saturating_sub(1);
    }
}
