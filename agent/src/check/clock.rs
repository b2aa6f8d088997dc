//! Does the clock tell a time that can be true?

use std::time::{SystemTime, UNIX_EPOCH};

use super::Finding;

/// 2025-01-01: this program is younger.
const PLAUSIBLE: u64 = 1_735_689_600;

pub(super) fn check() -> Finding {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let text = jiff::Timestamp::from_second(now as i64).map_or_else(|_| now.to_string(), |t| t.to_string());
    if now < PLAUSIBLE {
        return Finding::warn(
            "clock",
            format!("the clock says {text}"),
            "nothing breaks, but expiry is not enforced until the time is right: set up NTP",
        );
    }
    Finding::ok("clock", text)
}
