//! Is there room for a bundle beyond the headroom?

use super::Finding;
use crate::config::Config;

pub(super) fn check(config: &Config) -> Finding {
    let existing = config.data.ancestors().find(|p| p.exists()).unwrap_or(&config.data);
    let stat = match rustix::fs::statvfs(existing) {
        Ok(stat) => stat,
        Err(error) => {
            let message = format!("{}: {error}", existing.display());
            return Finding::fail("disk", message, "look at the mount and its permissions");
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let headroom = config.limits.disk_headroom;
    let message = format!("{} MiB free, {} MiB are headroom", free >> 20, headroom >> 20);
    if free < headroom {
        return Finding::fail("disk", message, "free some space or lower storage.headroom_bytes");
    }
    if free < headroom.saturating_mul(2) {
        return Finding::warn("disk", message, "free some space before the next large model");
    }
    Finding::ok("disk", message)
}
