//! What is known of devices beside events, when records were read from the database: no decision follows from it.

use muster_proto::id::DeviceId;

use super::{Rollout, RolloutId};

impl Rollout {
    /// Notes which rollout keeps a device from being offered this one.
    pub fn set_blocked(&mut self, device: &DeviceId, by: Option<RolloutId>, now: u64) {
        let by = by.map(|id| id.0);
        if self.parts.get(device).is_some_and(|part| part.blocked != by) {
            self.change(device, now, |part| part.blocked = by);
        }
    }

    /// Notes whether a device is connected.
    pub fn set_online(&mut self, device: &DeviceId, online: bool, now: u64) {
        if self.parts.get(device).is_some_and(|part| part.online != online) {
            self.change(device, now, |part| part.online = online);
        }
    }
}
