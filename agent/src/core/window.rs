//! Windows for switching: cron expressions in the device's time zone, which comes in as a value.
//!
//! An expression is walked through in local time, one stretch of a constant offset after the other. So an hour that
//! the clock repeats has its instants twice, and what falls into an hour that the clock leaves out stands at its end.

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use muster_proto::desired::Window;

/// How many changes of the clock are looked through for one instant: two a year in the four years that an expression
/// is searched for, and as many again for zones that change more often.
const MAX_TURNS: usize = 16;

/// Whether a switch is allowed by windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// One is open, at least up to this time, in seconds since 1970.
    Open { until: u64 },
    /// None is open; when the next one opens, if any does within four years.
    Closed { next: Option<u64> },
}

impl Opening {
    /// Whether this, which was found at `found`, still holds at `now`, both in seconds since 1970.
    pub fn holds(self, found: u64, now: u64) -> bool {
        /// What opens later than a search can see is looked for again.
        const DAY: u64 = 24 * 3600;
        let end = match self {
            Opening::Open { until } => until,
            Opening::Closed { next } => next.unwrap_or(u64::MAX).min(found.saturating_add(DAY)),
        };
        (found..end).contains(&now)
    }
}

/// Why windows cannot be used, if they cannot.
pub(super) fn check(windows: &[Window]) -> Result<(), String> {
    windows.iter().try_for_each(|window| parse(window).map(drop))
}

/// Whether one of `windows` is open at `now`, in seconds since 1970. Those that cannot be read never open.
pub(super) fn opening(windows: &[Window], zone: &TimeZone, now: u64) -> Opening {
    let instant = |seconds: u64| i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    let Some(at) = instant(now) else { return Opening::Closed { next: None } };
    let mut first: Option<u64> = None;
    for window in windows {
        let Ok(cron) = parse(window) else { continue };
        let seconds = u64::from(window.seconds);
        let last = instant(now.saturating_sub(seconds)).and_then(|from| next(&cron, zone, from));
        if let Some(opened) = last.filter(|opened| *opened <= at) {
            return Opening::Open { until: (opened.as_second() as u64).saturating_add(seconds) };
        }
        let opens = next(&cron, zone, at).map(|opens| opens.as_second() as u64);
        first = first.into_iter().chain(opens).min();
    }
    Opening::Closed { next: first }
}

/// Reads an expression as one of UTC: its fields are then those of local time.
fn parse(window: &Window) -> Result<Crontab, String> {
    let refused = |reason: String| format!("window {:?} is not a cron expression: {reason}", window.cron);
    // A sixth field would be a time zone, which the library looks up by itself.
    let fields = window.cron.split_ascii_whitespace().count();
    if fields != 5 {
        return Err(refused(format!("{fields} fields instead of five")));
    }
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    parse_crontab_with(&window.cron, options).map_err(|e| {
        let text = e.to_string();
        refused(text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" "))
    })
}

/// The first instant after `after`.
fn next(cron: &Crontab, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let (mut offset, mut from, mut turns) = (zone.to_offset(after), after, after);
    for _ in 0..MAX_TURNS {
        let turn = zone.following(turns).next();
        let local = cron.find_next(MakeTimestamp(to_local(from, offset)?)).ok()?.timestamp();
        let instant = from_local(local, offset)?;
        let Some(turn) = turn.filter(|turn| turn.timestamp() <= instant) else { return Some(instant) };
        // The clock is put forward over it.
        if local < to_local(turn.timestamp(), turn.offset())? {
            return Some(turn.timestamp());
        }
        (offset, turns) = (turn.offset(), turn.timestamp());
        from = turns.checked_sub(SignedDuration::from_secs(1)).ok()?;
    }
    None
}

fn to_local(at: Timestamp, offset: Offset) -> Option<Timestamp> {
    at.checked_add(SignedDuration::from_secs(offset.seconds().into())).ok()
}

fn from_local(local: Timestamp, offset: Offset) -> Option<Timestamp> {
    local.checked_sub(SignedDuration::from_secs(offset.seconds().into())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(cron: &str, seconds: u32) -> Window {
        Window { cron: cron.into(), seconds }
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).expect("the machine that tests knows the zones")
    }

    fn at(text: &str) -> u64 {
        text.parse::<Timestamp>().expect("a time").as_second() as u64
    }

    /// Each line: zone, expression, length, now, and until when it is open or when it opens.
    #[test]
    fn windows_open_and_close_in_local_time() {
        let (berlin, new_york, kolkata) = ("Europe/Berlin", "America/New_York", "Asia/Kolkata");
        let table = [
            ("UTC", "0 2 * * *", 3600, "2026-06-01T01:59:59Z", Err("2026-06-01T02:00:00Z")),
            ("UTC", "0 2 * * *", 3600, "2026-06-01T02:00:00Z", Ok("2026-06-01T03:00:00Z")),
            ("UTC", "0 2 * * *", 3600, "2026-06-01T02:59:59Z", Ok("2026-06-01T03:00:00Z")),
            ("UTC", "0 2 * * *", 3600, "2026-06-01T03:00:00Z", Err("2026-06-02T02:00:00Z")),
            // Summer and winter, and an offset of half an hour.
            (berlin, "0 2 * * *", 60, "2026-06-01T00:00:30Z", Ok("2026-06-01T00:01:00Z")),
            (berlin, "0 2 * * *", 60, "2026-12-01T00:00:30Z", Err("2026-12-01T01:00:00Z")),
            (new_york, "30 22 * * 5", 7200, "2026-06-06T03:00:00Z", Ok("2026-06-06T04:30:00Z")),
            (kolkata, "0 9 1 * *", 60, "2026-06-01T03:30:00Z", Ok("2026-06-01T03:31:00Z")),
            // The clock goes from 2:00 to 3:00 on 29 March 2026: what would open at 2:30 opens at 3:00.
            (berlin, "30 2 * * *", 600, "2026-03-29T00:59:59Z", Err("2026-03-29T01:00:00Z")),
            (berlin, "30 2 * * *", 600, "2026-03-29T01:05:00Z", Ok("2026-03-29T01:10:00Z")),
            (berlin, "30 2 * * *", 600, "2026-03-29T01:10:00Z", Err("2026-03-30T00:30:00Z")),
            (berlin, "0 3 * * *", 600, "2026-03-29T00:30:00Z", Err("2026-03-29T01:00:00Z")),
            // The clock goes from 3:00 to 2:00 on 25 October 2026: there are two of 2:30.
            (berlin, "30 2 * * *", 600, "2026-10-25T00:30:00Z", Ok("2026-10-25T00:40:00Z")),
            (berlin, "30 2 * * *", 600, "2026-10-25T00:40:00Z", Err("2026-10-25T01:30:00Z")),
            (berlin, "30 2 * * *", 600, "2026-10-25T01:35:00Z", Ok("2026-10-25T01:40:00Z")),
            (berlin, "30 2 * * *", 600, "2026-10-25T01:40:00Z", Err("2026-10-26T01:30:00Z")),
            // Longer than its period: always open.
            ("UTC", "0 0 * * *", 90_000, "2026-06-01T23:59:59Z", Ok("2026-06-02T01:00:00Z")),
            // A clock in 1970, and one that is far ahead.
            (berlin, "0 0 * * *", 86_400, "1970-01-01T00:00:01Z", Err("1970-01-01T23:00:00Z")),
            (berlin, "0 12 * * *", 60, "4000-07-01T10:00:00Z", Ok("4000-07-01T10:01:00Z")),
            ("UTC", "0 0 29 2 *", 60, "2026-06-01T00:00:00Z", Err("2028-02-29T00:00:00Z")),
        ];
        for (name, cron, seconds, now, want) in table {
            let want = match want {
                Ok(until) => Opening::Open { until: at(until) },
                Err(next) => Opening::Closed { next: Some(at(next)) },
            };
            let found = opening(&[window(cron, seconds)], &zone(name), at(now));
            assert_eq!(found, want, "{cron} for {seconds} s in {name} at {now}");
            assert!(found.holds(at(now), at(now)), "{cron} at {now}");
        }
    }

    #[test]
    fn the_first_of_several_windows_counts() {
        let windows = [window("0 5 * * *", 60), window("0 3 * * *", 60), window("0 4 30 2 *", 60)];
        let at_two = opening(&windows, &TimeZone::UTC, at("2026-06-01T02:00:00Z"));
        assert_eq!(at_two, Opening::Closed { next: Some(at("2026-06-01T03:00:00Z")) });
        assert!(matches!(opening(&windows, &TimeZone::UTC, at("2026-06-01T05:00:01Z")), Opening::Open { .. }));
        assert_eq!(opening(&windows[2..], &TimeZone::UTC, 1), Opening::Closed { next: None }, "30 February");
        assert_eq!(opening(&windows, &TimeZone::UTC, u64::MAX), Opening::Closed { next: None });
    }

    #[test]
    fn expressions_that_cannot_be_read_are_named() {
        for cron in
            ["", "* * * *", "* * * * * UTC", "60 * * * *", "H * * * *", "@daily", "a b c d e", "* * * * 8", "ü * * * *"]
        {
            let refused = check(&[window("0 2 * * *", 1), window(cron, 1)]).expect_err(cron);
            assert!(refused.starts_with(&format!("window {cron:?} is not a cron expression: ")), "{refused}");
            assert!(!refused.contains('\n'), "{refused}");
            assert_eq!(opening(&[window(cron, 1)], &TimeZone::UTC, 1), Opening::Closed { next: None });
        }
        for cron in ["*/5 1-4 * * mon-fri", "0 2 1,15 jan,jul *", "0 22 L * 5"] {
            assert_eq!(check(&[window(cron, 1)]), Ok(()), "{cron}");
        }
    }
}
