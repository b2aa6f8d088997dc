//! When maintenance windows are open, in local time: cron with five fields and a length.

use muster_dispatcher::domain::rollout::plan::Window;

/// The spans of local time, in seconds since 1970, at which any of some windows is open; sorted and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Openings(Vec<(u64, u64)>);

const DAY: u64 = 86_400;
const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

impl Openings {
    /// Between `from` and `to`, in seconds since 1970. Fields that cannot be read match nothing.
    pub fn new(windows: &[Window], from: u64, to: u64) -> Self {
        let mut spans = Vec::new();
        for window in windows {
            let Some(cron) = Cron::parse(&window.cron) else { continue };
            // A window that opened before `from` may still be open.
            let first = from.saturating_sub(window.length.0) / 60;
            let opens = (first..to.div_ceil(60)).filter(|minute| cron.matches(*minute));
            spans.extend(opens.map(|minute| (minute * 60, minute * 60 + window.length.0)));
        }
        spans.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::new();
        for (open, close) in spans {
            match apart.last_mut() {
                Some(last) if open <= last.1 => last.1 = last.1.max(close),
                _ => apart.push((open, close)),
            }
        }
        Self(apart)
    }

    /// Whether one is open at `local`.
    pub fn is_open(&self, local: u64) -> bool {
        let next = self.0.partition_point(|(open, _)| *open <= local);
        next.checked_sub(1).is_some_and(|at| local < self.0[at].1)
    }

    /// When the next one opens after `local`.
    pub fn next(&self, local: u64) -> Option<u64> {
        self.0.get(self.0.partition_point(|(open, _)| *open <= local)).map(|(open, _)| *open)
    }
}

/// Which minutes, hours, days of the month, months and days of the week match, one bit each.
struct Cron([u64; 5], bool, bool);

impl Cron {
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else { return None };
        let mut week = bits(weekday, 0, 7, &DAYS, 0)?;
        week |= week >> 7 & 1;
        let sets = [
            bits(minute, 0, 59, &[], 0)?,
            bits(hour, 0, 23, &[], 0)?,
            bits(day, 1, 31, &[], 0)?,
            bits(month, 1, 12, &MONTHS, 1)?,
            week,
        ];
        Some(Self(sets, day.starts_with('*'), weekday.starts_with('*')))
    }

    /// Where both days are restricted, one of them is enough, as cron has it.
    fn matches(&self, minute: u64) -> bool {
        let Self([minutes, hours, days, months, weekdays], any_day, any_weekday) = self;
        let has = |set: &u64, bit: u64| set >> bit & 1 == 1;
        if !has(minutes, minute % 60) || !has(hours, minute / 60 % 24) {
            return false;
        }
        let (month, day) = date(minute * 60 / DAY);
        let (of_month, of_week) = (has(days, day), has(weekdays, (minute * 60 / DAY + 4) % 7));
        let right = if *any_day || *any_weekday { of_month && of_week } else { of_month || of_week };
        has(months, month) && right
    }
}

/// The bits of a field such as `*/15`, `1-5`, `MON-FRI` or `0,30`.
fn bits(field: &str, least: u64, most: u64, names: &[&str], first: u64) -> Option<u64> {
    let number = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text)).map(|at| at as u64 + first);
        named.or_else(|| text.parse().ok()).filter(|n| (least..=most).contains(n))
    };
    let mut set = 0;
    for part in field.split(',') {
        let (range, step) = part.split_once('/').map_or((part, Some(1)), |(range, step)| (range, step.parse().ok()));
        let step = step.filter(|s| *s > 0)?;
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(range)?, number(range)?),
        };
        (from..=to).step_by(step).for_each(|bit| set |= 1 << bit);
    }
    Some(set)
}

/// Month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
fn date(days: u64) -> (u64, u64) {
    let z = days + 719_468;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    (if mp < 10 { mp + 3 } else { mp - 9 }, doy - (153 * mp + 2) / 5 + 1)
}
