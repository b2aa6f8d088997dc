//! What is going to happen: one list per second that has anything, first planned first done. Devices at rest have no
//! entry; when they connect is worked out from their pattern ([`super::presence`]).

use std::collections::BTreeMap;

/// Something that is planned for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The device.
    pub device: u32,
    /// The device's epoch at planning, for what a restart or a new desired state calls off.
    pub epoch: u16,
    /// What.
    pub what: What,
}

/// What happens to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    /// Its desired state arrives.
    Deliver,
    /// An old desired state arrives once more.
    Replay,
    /// The dispatcher looks whether its desired state was accepted.
    Resend,
    /// Its transfer is through.
    Fetched,
    /// It is to look at its clock.
    Wake,
    /// The version that it runs brings it down, if it is such a one.
    Crash,
    /// Its power goes.
    PowerCut,
    /// Its power is back.
    PowerBack,
    /// Its report arrives at the dispatcher.
    Arrive,
    /// It repeats an outcome that was not acknowledged.
    Repeat,
    /// The dispatcher's acknowledgement arrives.
    Ack,
    /// A telemetry window closes.
    Window,
    /// It gives a sign of life.
    Beat,
    /// The broker says that its connection is gone.
    Will,
}

/// A plan.
#[derive(Debug, Default)]
pub struct Queue {
    seconds: BTreeMap<u32, Vec<Item>>,
    len: usize,
}

impl Queue {
    /// Plans `item` for the second `at`.
    pub fn plan(&mut self, at: u32, item: Item) {
        self.len += 1;
        self.seconds.entry(at).or_default().push(item);
    }

    /// The next second that has anything.
    pub fn next(&self) -> Option<u32> {
        self.seconds.first_key_value().map(|(at, _)| *at)
    }

    /// Everything of the first second, if it is due by `end`. What is planned for the same second afterwards comes with the
    /// next call.
    pub fn take(&mut self, end: u32) -> Option<(u32, Vec<Item>)> {
        if self.next()? > end {
            return None;
        }
        let (at, items) = self.seconds.pop_first()?;
        self.len -= items.len();
        Some((at, items))
    }

    /// How much is planned.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
