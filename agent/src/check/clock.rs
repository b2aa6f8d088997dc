//! Does the clock tell a time that can be true?

use std::time::{SystemTime, UNIX_EPOCH};

use super::Finding;

/// 2025-01-01: this program is younger.
const PLAUSIBLE: u64 = 1_735_689_600;

pub(super) fn check() -> Finding {
    judge(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// `now` is in seconds since 1970.
fn judge(now: u64) -> Finding {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn a_clock_in_1970_is_told_and_breaks_nothing() {
        for now in [0, 60, PLAUSIBLE - 1] {
            let finding = judge(now);
            assert_eq!(finding.verdict, Verdict::Warn, "{now}");
            assert!(finding.next.contains("NTP"), "{}", finding.next);
        }
        assert!(judge(60).message.contains("1970-01-01T00:01:00Z"), "{}", judge(60).message);
        assert_eq!(judge(PLAUSIBLE).verdict, Verdict::Ok);
    }
}
