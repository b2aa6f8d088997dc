//! The only place where a topic string is built or parsed.
//!
//! `muster/v1/{workspace}/{device}/{leaf}` and `muster/v1/{workspace}/bundle/{digest}`: at most five
//! levels, no character that a broker treats specially.
//!
//! ```
//! use muster_proto::topic::{Leaf, Topic};
//!
//! let topic = Topic::device("default".parse().unwrap(), "pi-4".parse().unwrap(), Leaf::Desired);
//! assert_eq!(topic.to_string(), "muster/v1/default/pi-4/desired");
//! assert_eq!("muster/v1/default/pi-4/desired".parse(), Ok(topic));
//! ```

use std::fmt;
use std::str::FromStr;

use crate::id::{DeviceId, Digest, Workspace};

const PREFIX: &str = "muster/v1";
/// The name in the device's place for topics that are meant for many. No device may have it.
pub const BUNDLE: &str = "bundle";

/// What a device topic carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// Dispatcher to device: the signed desired state, retained.
    Desired,
    /// Device to dispatcher: signed reports.
    Report,
    /// Device to dispatcher: telemetry windows.
    Telemetry,
    /// Device to dispatcher: requests for metadata and chunks.
    Fetch,
    /// Dispatcher to device: the answers to `fetch`.
    Chunk,
    /// Dispatcher to device: which reports and windows are safe.
    Ack,
    /// Device to dispatcher: hello, and the last will.
    State,
}

/// Who may publish to a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The device publishes, the dispatcher subscribes.
    Up,
    /// The dispatcher publishes, the device subscribes.
    Down,
}

impl Leaf {
    /// Every leaf.
    pub const ALL: [Leaf; 7] =
        [Leaf::Desired, Leaf::Report, Leaf::Telemetry, Leaf::Fetch, Leaf::Chunk, Leaf::Ack, Leaf::State];

    /// The leaf as a topic level.
    pub fn as_str(self) -> &'static str {
        match self {
            Leaf::Desired => "desired",
            Leaf::Report => "report",
            Leaf::Telemetry => "telemetry",
            Leaf::Fetch => "fetch",
            Leaf::Chunk => "chunk",
            Leaf::Ack => "ack",
            Leaf::State => "state",
        }
    }

    /// Which side publishes it.
    pub fn direction(self) -> Direction {
        match self {
            Leaf::Report | Leaf::Telemetry | Leaf::Fetch | Leaf::State => Direction::Up,
            Leaf::Desired | Leaf::Chunk | Leaf::Ack => Direction::Down,
        }
    }
}

/// A parsed topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// A topic of one device.
    Device {
        /// The device's workspace.
        workspace: Workspace,
        /// The device.
        device: DeviceId,
        /// What it carries.
        leaf: Leaf,
    },
    /// Chunks of one blob, for every device that wants them.
    Bundle {
        /// The workspace.
        workspace: Workspace,
        /// The blob's digest.
        digest: Digest,
    },
}

/// Why a string is not one of Muster's topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a topic of muster")]
pub struct Error(pub String);

impl Topic {
    /// The topic of `device` that carries `leaf`.
    pub fn device(workspace: Workspace, device: DeviceId, leaf: Leaf) -> Self {
        Topic::Device { workspace, device, leaf }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topic::Device { workspace, device, leaf } => write!(f, "{PREFIX}/{workspace}/{device}/{}", leaf.as_str()),
            Topic::Bundle { workspace, digest } => write!(f, "{PREFIX}/{workspace}/{BUNDLE}/{digest}"),
        }
    }
}

impl FromStr for Topic {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let rest = text.strip_prefix(PREFIX)?.strip_prefix('/')?;
            let mut parts = rest.split('/');
            let (workspace, middle, last) = (parts.next()?, parts.next()?, parts.next()?);
            if parts.next().is_some() {
                return None;
            }
            let workspace = workspace.parse().ok()?;
            if middle == BUNDLE {
                return Some(Topic::Bundle { workspace, digest: last.parse().ok()? });
            }
            let leaf = Leaf::ALL.into_iter().find(|leaf| leaf.as_str() == last)?;
            Some(Topic::Device { workspace, device: middle.parse().ok()?, leaf })
        };
        parse().ok_or_else(|| Error(text.chars().take(120).collect()))
    }
}

/// The filters that a device subscribes to: its own `desired`, `chunk` and `ack`.
pub fn device_filters(workspace: &Workspace, device: &DeviceId) -> Vec<String> {
    Leaf::ALL
        .into_iter()
        .filter(|leaf| leaf.direction() == Direction::Down)
        .map(|leaf| Topic::device(workspace.clone(), device.clone(), leaf).to_string())
        .collect()
}

/// The filters that a dispatcher subscribes to: what all devices of its workspace publish.
pub fn dispatcher_filters(workspace: &Workspace) -> Vec<String> {
    Leaf::ALL
        .into_iter()
        .filter(|leaf| leaf.direction() == Direction::Up)
        .map(|leaf| format!("{PREFIX}/{workspace}/+/{}", leaf.as_str()))
        .collect()
}

/// Whether the device may publish to `topic` (invariant 14).
pub fn device_may_publish(workspace: &Workspace, device: &DeviceId, topic: &str) -> bool {
    matches!(topic.parse(), Ok(Topic::Device { workspace: w, device: d, leaf })
        if w == *workspace && d == *device && leaf.direction() == Direction::Up)
}

/// Whether the device may subscribe to `filter`: its own topics and its workspace's bundles, never a wildcard.
pub fn device_may_subscribe(workspace: &Workspace, device: &DeviceId, filter: &str) -> bool {
    match filter.parse() {
        Ok(Topic::Device { workspace: w, device: d, leaf }) => {
            w == *workspace && d == *device && leaf.direction() == Direction::Down
        }
        Ok(Topic::Bundle { workspace: w, .. }) => w == *workspace,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (Workspace, DeviceId) {
        ("default".parse().expect("valid"), "pi".parse().expect("valid"))
    }

    #[test]
    fn every_topic_round_trips_within_the_portable_limit() {
        let (workspace, device) = ids();
        let mut topics: Vec<Topic> =
            Leaf::ALL.iter().map(|leaf| Topic::device(workspace.clone(), device.clone(), *leaf)).collect();
        topics.push(Topic::Bundle { workspace, digest: Digest::of(b"x") });
        for topic in topics {
            let text = topic.to_string();
            assert_eq!(text.parse(), Ok(topic));
            assert!(text.matches('/').count() <= 7);
        }
    }

    #[test]
    fn foreign_and_malformed_topics_are_refused() {
        for bad in [
            "",
            "muster",
            "muster/v1",
            "muster/v2/default/pi/report",
            "muster/v1/default/pi/nope",
            "muster/v1/default/pi/report/x",
            "muster/v1/default//report",
            "muster/v1/+/pi/report",
            "muster/v1default/pi/report",
        ] {
            assert!(bad.parse::<Topic>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_device_reaches_its_own_topics_only() {
        let (workspace, device) = ids();
        let table = [
            ("muster/v1/default/pi/report", true, false),
            ("muster/v1/default/pi/desired", false, true),
            ("muster/v1/default/other/report", false, false),
            ("muster/v1/default/other/desired", false, false),
            ("muster/v1/else/pi/report", false, false),
            ("muster/v1/default/+/desired", false, false),
            ("muster/v1/#", false, false),
            ("#", false, false),
            ("$share/g/muster/v1/default/pi/desired", false, false),
        ];
        for (topic, publish, subscribe) in table {
            assert_eq!(device_may_publish(&workspace, &device, topic), publish, "publish {topic}");
            assert_eq!(device_may_subscribe(&workspace, &device, topic), subscribe, "subscribe {topic}");
        }
    }
}
