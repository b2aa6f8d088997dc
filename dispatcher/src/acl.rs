//! Who may do what at the broker: devices reach their own topics, the dispatcher those of its workspace,
//! nobody else anything (invariant 14).

pub mod mosquitto;

use muster_proto::id::{DeviceId, Digest, Workspace};
use muster_proto::topic::{self, Direction, Topic};

use crate::broker::Acl;
use crate::driver::Driver;
use crate::tls::Subject;

/// The dispatcher's own name at a broker. No device can have it, because ids begin with a letter or digit; and of
/// several workspaces at one broker each has its own.
pub fn service(workspace: &Workspace) -> String {
    format!("_dispatcher.{}", short(workspace))
}

/// What a device's certificate bears as its organisation: the workspace, and a digest of the very key. A device that
/// was removed and enrolled again under its name has another one, so that its old certificate opens nothing. At most
/// 57 bytes, of the 64 that a certificate may hold.
pub fn badge(workspace: &Workspace, public_key: &[u8]) -> String {
    format!("{}/{}", short(workspace), &Digest::of(public_key).to_string()[..16])
}

fn short(workspace: &Workspace) -> String {
    workspace.as_str().chars().take(40).collect()
}

/// Asks the fleet.
pub struct FleetAcl {
    workspace: Workspace,
    driver: Driver,
}

/// Whom a certificate names.
#[derive(Debug, PartialEq, Eq)]
enum Who {
    Dispatcher,
    Device(DeviceId),
    Nobody,
}

impl FleetAcl {
    /// Devices of the driver's fleet, and the dispatcher of `workspace`.
    pub fn new(workspace: Workspace, driver: Driver) -> Self {
        Self { workspace, driver }
    }

    fn who(&self, subject: &Subject) -> Who {
        if subject.common_name == service(&self.workspace) && subject.organization == self.workspace.as_str() {
            return Who::Dispatcher;
        }
        let Ok(device) = subject.common_name.parse::<DeviceId>() else { return Who::Nobody };
        let enrolled = self.driver.fleet().devices.get(&device).is_some_and(|known| {
            // A certificate of before the device was removed has another key.
            badge(&self.workspace, &known.public_key) == subject.organization
        });
        if enrolled { Who::Device(device) } else { Who::Nobody }
    }
}

impl Acl for FleetAcl {
    fn may_publish(&self, who: &Subject, topic: &str) -> bool {
        match self.who(who) {
            Who::Nobody => false,
            Who::Device(device) => topic::device_may_publish(&self.workspace, &device, topic),
            Who::Dispatcher => match topic.parse() {
                Ok(Topic::Device { workspace, leaf, .. }) => {
                    workspace == self.workspace && leaf.direction() == Direction::Down
                }
                Ok(Topic::Bundle { workspace, .. }) => workspace == self.workspace,
                Err(_) => false,
            },
        }
    }

    fn may_subscribe(&self, who: &Subject, filter: &str) -> bool {
        match self.who(who) {
            Who::Nobody => false,
            Who::Device(device) => topic::device_may_subscribe(&self.workspace, &device, filter),
            Who::Dispatcher => topic::dispatcher_filters(&self.workspace).iter().any(|own| own == filter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn badges_differ_by_key_and_fit_a_certificate() {
        let workspace: Workspace = "w".repeat(63).parse().expect("valid");
        assert_ne!(badge(&workspace, b"a"), badge(&workspace, b"b"));
        assert!(badge(&workspace, b"a").len() <= 64 && service(&workspace).len() <= 64);
        assert!(service(&workspace).parse::<DeviceId>().is_err());
    }
}
