//! The `[world]` of a scenario file: devices, when they are connected, links, and what goes wrong on devices.

use muster_dispatcher::domain::rollout::units::{Bytes, Span};
use serde::Deserialize;

/// Devices and what surrounds them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSpec {
    /// How many devices, unless the command line says otherwise.
    pub devices: u32,
    /// How many sites they are spread over.
    #[serde(default = "one")]
    pub sites: u16,
    /// When it is over at the latest.
    pub horizon: Span,
    /// How long it goes on without faults after the last rollout has ended or paused for good.
    #[serde(default = "two_hours")]
    pub settle: Span,
    /// How long a telemetry window is.
    #[serde(default = "five_minutes")]
    pub window: Span,
    /// How many devices that have not switched have a window seen by a rollout each time.
    #[serde(default = "twenty")]
    pub controls: u32,
    /// The share of the devices that switched whose windows are seen.
    #[serde(default = "all")]
    pub figures: f64,
    /// Hours that clocks on the devices' walls are ahead of UTC; each device has one of them.
    #[serde(default = "utc")]
    pub zones: Vec<i32>,
    /// The share of devices that run nothing at the start.
    #[serde(default)]
    pub empty: f64,
    /// Kinds of hardware; their shares add up to 1.
    pub hardware: Vec<HardwareSpec>,
    /// When devices are connected; the shares add up to 1.
    pub presence: Vec<PresenceSpec>,
    /// Links.
    #[serde(default)]
    pub network: NetworkSpec,
    /// What goes wrong on devices.
    #[serde(default)]
    pub faults: FaultSpec,
}

/// A kind of hardware.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HardwareSpec {
    /// Its name.
    pub name: String,
    /// Its share of the fleet.
    pub share: f64,
    /// Its memory.
    pub memory: Bytes,
    /// The 95th percentile of the latency of version 1, in microseconds.
    #[serde(default = "ten_milliseconds")]
    pub p95_us: f64,
    /// How hot its hottest sensor is, in degrees Celsius.
    #[serde(default = "fifty")]
    pub celsius: f64,
}

/// When devices are connected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "snake_case")]
pub enum PresenceSpec {
    /// Always.
    Always { share: f64 },
    /// For `online` of every `period`, each device with an offset of its own.
    Cycle { share: f64, period: Span, online: Span },
    /// Always, but for the time from `from` to `to`.
    Away { share: f64, from: Span, to: Span },
    /// Until `from`, and never again.
    Dead { share: f64, from: Span },
    /// Not there before some moment between `from` and `to`, then always.
    Joins { share: f64, from: Span, to: Span },
}

impl PresenceSpec {
    /// Its share of the fleet.
    pub fn share(&self) -> f64 {
        match self {
            Self::Always { share }
            | Self::Cycle { share, .. }
            | Self::Away { share, .. }
            | Self::Dead { share, .. }
            | Self::Joins { share, .. } => *share,
        }
    }
}

/// Links. Speeds are spread evenly by their logarithm between the two.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSpec {
    /// Bytes per second of the slowest and of the fastest link.
    pub bytes_per_second: [f64; 2],
    /// The share of messages that are lost.
    pub loss: f64,
    /// The share of messages that arrive twice.
    pub doubled: f64,
    /// The longest that a message takes.
    pub delay: Span,
    /// The share of transfers that arrive damaged and have to be made once more.
    pub damaged: f64,
}

impl Default for NetworkSpec {
    fn default() -> Self {
        Self { bytes_per_second: [10e3, 500e3], loss: 0.0, doubled: 0.0, delay: Span(1), damaged: 0.0 }
    }
}

/// What goes wrong on devices while it may.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultSpec {
    /// Until when; the whole time unless given. Without `until` the time to settle has no faults.
    pub until: Option<Span>,
    /// Power cuts per device and day, of devices that have something to do.
    pub power_cuts_per_day: f64,
    /// The share of devices without room on their disk, until faults are over.
    pub disk_full: f64,
    /// The share of devices that boot in 1970 and learn the time from what is signed.
    pub clock_1970: f64,
    /// The share of devices with an application that vetoes the switch for an hour.
    pub vetoes: f64,
    /// The share of desired states that are replayed later.
    pub replays: f64,
}

fn one() -> u16 {
    1
}

fn utc() -> Vec<i32> {
    vec![0]
}

fn twenty() -> u32 {
    20
}

fn all() -> f64 {
    1.0
}

fn fifty() -> f64 {
    50.0
}

fn ten_milliseconds() -> f64 {
    10_000.0
}

fn two_hours() -> Span {
    Span(7200)
}

fn five_minutes() -> Span {
    Span(300)
}
