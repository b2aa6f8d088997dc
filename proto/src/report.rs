//! What a device says of itself: phases, failure codes, health and telemetry windows. It does not know
//! how any of it is measured.

use serde::{Deserialize, Serialize};

use crate::code::Code;
use crate::id::{DeviceId, Digest, Generation, SlotName, Workspace};
use crate::wire::Message;

/// Upper bounds in microseconds of the latency histogram's buckets; one more bucket holds the rest.
/// They double, so that a quantile is known within a factor of two and, interpolated, much better.
pub const LATENCY_BOUNDS_US: [u64; 22] = [
    10, 20, 50, 100, 200, 500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 20_000, 30_000, 50_000, 100_000,
    200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
];

/// How far a slot's update has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The desired state is accepted; nothing has been fetched.
    Offered,
    /// Metadata, manifest or files are on their way.
    Fetching,
    /// All files are whole and have the signed digests.
    Verified,
    /// The engine has loaded the model and the golden samples passed.
    Staged,
    /// The model answers; its trial period runs.
    Active,
    /// The trial period has passed without a crash.
    Healthy,
    /// The update ended without the model answering, or the device fell back.
    Failed,
    /// The slot is empty, as desired.
    Removed,
}

/// A version on a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    /// The target's path, e.g. `vision/digits/2/manifest`.
    pub target: String,
    /// The manifest's digest.
    pub digest: Digest,
}

/// The outcome of running the golden samples on the device's engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// How many golden samples there were.
    pub samples: u32,
    /// How many gave the recorded outputs within the tolerance.
    pub passed: u32,
    /// The largest absolute difference seen.
    pub max_abs_error: f32,
    /// How long loading and optimising took, in microseconds.
    pub load_us: u64,
    /// The median time of one inference, in microseconds.
    pub inference_us: u64,
}

/// A failure with its stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The code.
    pub code: Code,
    /// What happened, for people; at most 500 bytes.
    pub detail: String,
}

/// What the transfer of an update moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfer {
    /// Bytes of chunks received.
    pub fetched: u64,
    /// Bytes that deltas and files already held saved, against the compressed whole.
    pub saved: u64,
    /// How many times a transfer went on from what was already on disk.
    pub resumed: u32,
    /// Chunks of files received.
    pub chunks: u32,
}

/// One slot's reported state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotReport {
    /// The slot.
    pub slot: SlotName,
    /// The rollout that the desired state named.
    pub rollout: String,
    /// What the slot shall run.
    pub desired: Option<ModelRef>,
    /// How far that has come.
    pub phase: Phase,
    /// What answers now.
    pub active: Option<ModelRef>,
    /// What a fall-back would answer with.
    pub previous: Option<ModelRef>,
    /// The probe of the desired version.
    pub probe: Option<Probe>,
    /// Why the update failed or waits.
    pub failure: Option<Failure>,
    /// What its transfer moved.
    pub transfer: Transfer,
}

impl SlotReport {
    /// Whether the phase is an outcome: it is repeated until acknowledged (invariant 9).
    pub fn is_final(&self) -> bool {
        matches!(self.phase, Phase::Healthy | Phase::Failed | Phase::Removed)
    }
}

/// What the device is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// The agent's version.
    pub version: String,
    /// The engine and its version, e.g. `tract 0.23.9`.
    pub engine: String,
    /// The processor architecture, e.g. `aarch64`.
    pub arch: String,
    /// The operating system, e.g. `linux`.
    pub os: String,
    /// Physical memory in bytes.
    pub memory_bytes: u64,
    /// Size of the disk that holds the store, in bytes.
    pub disk_bytes: u64,
    /// The newest variant numbers that this agent decodes: desired state, frame.
    pub speaks: (u8, u8),
}

/// The complete reported state of a device. Each one stands for itself; the newest counts (invariant 6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// The device's workspace.
    pub workspace: Workspace,
    /// The device.
    pub device: DeviceId,
    /// Drawn when the device's store was made: ids of another incarnation are not comparable.
    pub incarnation: u64,
    /// Grows with every message of this incarnation.
    pub id: u64,
    /// The device's own time in seconds since 1970, trusted or not.
    pub sent_at: u64,
    /// The newest accepted generation.
    pub generation: Generation,
    /// What the device is.
    pub agent: AgentInfo,
    /// Every slot.
    pub slots: Vec<SlotReport>,
    /// A desired state that was refused, and why.
    pub refused: Option<Failure>,
}

/// A report as signed content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// The first version.
    V1(DeviceReport),
}

/// A report as it travels, signed with the device's own key (ECDSA P-256, SHA-256, ASN.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignedReport {
    /// The first version.
    V1 {
        /// An encoded [`Report`].
        #[serde(with = "serde_bytes")]
        payload: Vec<u8>,
        /// The signature over `b"muster report v1\n"` followed by `payload`.
        #[serde(with = "serde_bytes")]
        signature: Vec<u8>,
    },
}

/// Hello and last will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// The device has connected, and waits for its desired state.
    OnlineV1 {
        /// The newest generation that it has accepted.
        generation: Generation,
    },
    /// The broker's word that the connection is gone.
    OfflineV1,
}

/// What one slot did in a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotWindow {
    /// The slot.
    pub slot: SlotName,
    /// The digest of the manifest that answered.
    pub digest: Digest,
    /// Inferences that succeeded.
    pub ok: u64,
    /// Inferences that failed.
    pub errors: u64,
    /// Requests refused because the queue was full.
    pub rejected: u64,
    /// Inferences per bucket of [`LATENCY_BOUNDS_US`], and one more for the rest.
    pub latency: Vec<u64>,
    /// The largest number of requests that waited at once.
    pub queue_peak: u32,
}

/// What one slot did in a window, and what its answers looked like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotWindow2 {
    /// What it did.
    pub window: SlotWindow,
    /// What its answers looked like.
    pub outputs: OutputSketch,
}

impl From<SlotWindow> for SlotWindow2 {
    fn from(window: SlotWindow) -> Self {
        Self { window, outputs: OutputSketch::default() }
    }
}

/// How many classes [`OutputSketch::top1`] tells apart; a class goes into the bin of its number modulo this.
pub const TOP1_BINS: usize = 32;
/// How many bins [`OutputSketch::confidence`] has: tenths of 0 to 1.
pub const CONFIDENCE_BINS: usize = 10;
/// How many bins [`ShadowWindow::confidence_shift`] has: tenths of -1 to 1.
pub const SHIFT_BINS: usize = 20;

/// What answers looked like: counts over the rows of each inference's first floating-point output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSketch {
    /// Where the largest value of a row stood, modulo [`TOP1_BINS`]; as many bins as were needed.
    pub top1: Vec<u32>,
    /// How sure the row was of it: the value itself where all of the row lie in 0 to 1, and else its softmax;
    /// [`CONFIDENCE_BINS`] bins, or none where there was nothing to count.
    pub confidence: Vec<u32>,
}

/// What a version did beside the active one of its slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShadowWindow {
    /// The slot.
    pub slot: SlotName,
    /// The digest of the manifest that was held against the active one.
    pub digest: Digest,
    /// Requests that both answered.
    pub compared: u64,
    /// Those on which they agreed.
    pub agreed: u64,
    /// Requests that it failed.
    pub failed: u64,
    /// Requests that were meant for it and left out: it was busy, or over its budget.
    pub skipped: u64,
    /// By how much its largest value differed from the active one's: [`SHIFT_BINS`] bins, or none where neither gives
    /// values in 0 to 1.
    pub confidence_shift: Vec<u32>,
    /// Its inferences per bucket of [`LATENCY_BOUNDS_US`], and one more for the rest.
    pub latency: Vec<u64>,
}

/// What the agent used at the end of a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Resident memory of the agent in bytes.
    pub rss_bytes: u64,
    /// Processor time that the agent used in the window, in milliseconds.
    pub cpu_ms: u64,
    /// Free bytes on the disk of the store.
    pub disk_free_bytes: u64,
    /// Available memory of the device in bytes.
    pub memory_available_bytes: u64,
    /// The hottest sensor, in thousandths of a degree Celsius, where there is one.
    pub temperature_millicelsius: Option<i32>,
    /// Messages that the outbox had to drop since the store was made (invariant 10).
    pub outbox_dropped: u64,
}

/// Telemetry of one window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Telemetry {
    /// The first version.
    V1 {
        /// The device's incarnation, as in reports.
        incarnation: u64,
        /// The message's id, as in reports.
        id: u64,
        /// When the window began, by the device's own time in seconds since 1970.
        started_at: u64,
        /// How long it was, in milliseconds.
        length_ms: u64,
        /// Each slot that has a model.
        slots: Vec<SlotWindow>,
        /// The agent itself.
        vitals: Vitals,
    },
    /// With what answers looked like, and with shadows.
    V2(TelemetryWindow),
}

/// Telemetry of one window, in its one form in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TelemetryWindow {
    /// The device's incarnation, as in reports.
    pub incarnation: u64,
    /// The message's id, as in reports.
    pub id: u64,
    /// When the window began, by the device's own time in seconds since 1970.
    pub started_at: u64,
    /// How long it was, in milliseconds.
    pub length_ms: u64,
    /// Each slot that has a model.
    pub slots: Vec<SlotWindow2>,
    /// Each version that ran beside an active one.
    pub shadows: Vec<ShadowWindow>,
    /// The agent itself.
    pub vitals: Vitals,
}

impl Telemetry {
    /// The message's id, as in reports.
    pub fn id(&self) -> u64 {
        match self {
            Self::V1 { id, .. } => *id,
            Self::V2(window) => window.id,
        }
    }

    /// The content in its one form in memory; the first version has neither sketches nor shadows.
    pub fn into_window(self) -> TelemetryWindow {
        match self {
            Self::V1 { incarnation, id, started_at, length_ms, slots, vitals } => {
                let slots = slots.into_iter().map(Into::into).collect();
                TelemetryWindow { incarnation, id, started_at, length_ms, slots, shadows: Vec::new(), vitals }
            }
            Self::V2(window) => window,
        }
    }
}

impl Message for Report {
    const NAME: &'static str = "report";
    const VARIANTS: u8 = 1;
}

impl Message for SignedReport {
    const NAME: &'static str = "signed report";
    const VARIANTS: u8 = 1;
}

impl Message for Presence {
    const NAME: &'static str = "presence";
    const VARIANTS: u8 = 2;
    const MAX_BYTES: usize = 256;
}

impl Message for Telemetry {
    const NAME: &'static str = "telemetry";
    const VARIANTS: u8 = 2;
}

/// The quantile `q` (0 to 1) in microseconds of a histogram over [`LATENCY_BOUNDS_US`], linearly
/// interpolated in its bucket; none where the histogram is empty.
pub fn latency_quantile_us(buckets: &[u64], q: f64) -> Option<u64> {
    let total: u64 = buckets.iter().fold(0, |sum, n| sum.saturating_add(*n));
    if total == 0 {
        return None;
    }
    let rank = (q.clamp(0.0, 1.0) * total as f64).max(1.0);
    let mut below = 0.0;
    for (index, count) in buckets.iter().enumerate() {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            let low = if index == 0 { 0 } else { LATENCY_BOUNDS_US.get(index - 1).copied().unwrap_or(0) };
            let high = LATENCY_BOUNDS_US.get(index).copied().unwrap_or(low);
            return Some(low + ((high - low) as f64 * (rank - below) / count) as u64);
        }
        below += count;
    }
    LATENCY_BOUNDS_US.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let mut buckets = vec![0u64; LATENCY_BOUNDS_US.len() + 1];
        assert_eq!(latency_quantile_us(&buckets, 0.5), None);
        buckets[6] = 98; // 500 to 1,000 µs
        buckets[12] = 2; // 10 to 15 ms
        assert!((500..=1_000).contains(&latency_quantile_us(&buckets, 0.5).expect("some")));
        assert!((10_000..=15_000).contains(&latency_quantile_us(&buckets, 0.99).expect("some")));
        let mut beyond = vec![0u64; LATENCY_BOUNDS_US.len() + 1];
        beyond[LATENCY_BOUNDS_US.len()] = 1;
        assert_eq!(latency_quantile_us(&beyond, 0.5), Some(5_000_000));
    }
}
