//! Whether a plan makes sense, before anything is done.

use std::fmt;

use super::{MAX_STAGES, MAX_WINDOWS, PerMinute, Plan, Switch};
use crate::rollout::units::{Amount, Share};

/// The longest soak, veto or window, in seconds.
const MAX_SPAN: u64 = 30 * 86_400;
/// The longest site label or stage name, in characters.
const MAX_NAME: usize = 64;

/// What is wrong with a plan, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The place, such as `stages[1].size`.
    pub at: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

fn wrong(at: impl Into<String>, what: impl Into<String>) -> Result<(), Problem> {
    Err(Problem { at: at.into(), what: what.into() })
}

impl Plan {
    /// Says the first thing that is wrong.
    pub fn check(&self) -> Result<(), Problem> {
        self.check_target()?;
        self.check_stages()?;
        self.check_rate()?;
        self.check_schedule()?;
        if self.retry.attempts > 20 {
            wrong("retry.attempts", "at most 20")?;
        }
        if self.approval.need > 20 {
            wrong("approval.need", "at most 20 people")?;
        }
        if !self.approval.by.is_empty() && (self.approval.by.len() as u32) < self.approval.need {
            let (need, have) = (self.approval.need, self.approval.by.len());
            wrong("approval", format!("{need} have to agree, and only {have} may"))?;
        }
        for (at, span, least) in [("silence", self.silence, 10), ("device_timeout", self.device_timeout, 10)] {
            if span.is_some_and(|s| s.0 < least || s.0 > 365 * 86_400) {
                wrong(at, format!("from {least}s to 365d"))?;
            }
        }
        Ok(())
    }

    fn check_target(&self) -> Result<(), Problem> {
        let target = &self.target;
        let chosen = [target.all, !target.groups.is_empty(), !target.devices.is_empty()];
        match chosen.iter().filter(|c| **c).count() {
            0 if target.filter.is_none() => {
                wrong("target", "name whom it is for: all = true, groups, devices, or where")?;
            }
            0 | 1 => {}
            _ if target.all => wrong("target", "all = true leaves nothing for groups or devices to add")?,
            _ => {}
        }
        if target.site_label.as_ref().is_some_and(|label| label.is_empty() || label.len() > MAX_NAME) {
            wrong("target.site_label", format!("from 1 to {MAX_NAME} characters"))?;
        }
        Ok(())
    }

    fn check_stages(&self) -> Result<(), Problem> {
        let Some(last) = self.stages.last() else { return wrong("stages", "at least one stage") };
        if self.stages.len() > MAX_STAGES {
            wrong("stages", format!("at most {MAX_STAGES}"))?;
        }
        if last.size != Amount::Part(Share(1.0)) {
            wrong(format!("stages[{}].size", self.stages.len() - 1), "the last stage is for everyone: 100%")?;
        }
        for (i, stage) in self.stages.iter().enumerate() {
            let at = |field: &str| format!("stages[{i}].{field}");
            if stage.size == Amount::Count(0) || stage.size == Amount::Part(Share(0.0)) {
                wrong(at("size"), "at least one device")?;
            }
            if let Some(before) = i.checked_sub(1).map(|i| &self.stages[i]) {
                let shrinks = match (before.size, stage.size) {
                    (Amount::Count(a), Amount::Count(b)) => b <= a,
                    (Amount::Part(a), Amount::Part(b)) => b.0 <= a.0,
                    _ => false,
                };
                if shrinks {
                    wrong(at("size"), format!("sizes count earlier stages in, so it has to be above {}", before.size))?;
                }
            }
            if stage.name.chars().count() > MAX_NAME {
                wrong(at("name"), format!("at most {MAX_NAME} characters"))?;
            }
            if stage.soak.0 > MAX_SPAN {
                wrong(at("soak"), "at most 30d")?;
            }
            if stage.timeout.is_some_and(|t| t.0 == 0) {
                wrong(at("timeout"), "at least 1s")?;
            }
            let gates = &stage.gates;
            for (field, value) in [
                ("p95", gates.p95),
                ("memory", gates.memory),
                ("temperature", gates.temperature),
                ("drift", gates.drift),
            ] {
                if value.is_some_and(|v| !(0.0..=100.0).contains(&v)) {
                    wrong(at(&format!("gates.{field}")), "from 0 to 100")?;
                }
            }
            if gates.alpha.is_some_and(|a| a.0 <= 0.0 || a.0 > 0.5) {
                wrong(at("gates.alpha"), "above 0% and at most 50%")?;
            }
            if gates.agreement.is_some() != stage.shadow.is_some() {
                wrong(at("gates.agreement"), "agreement and shadow go together: give both or neither")?;
            }
            if let Some(shadow) = &stage.shadow {
                if shadow.share.0 <= 0.0 {
                    wrong(at("shadow.share"), "above 0%")?;
                }
                if shadow.inferences == 0 || shadow.time.0 == 0 {
                    wrong(at("shadow"), "at least one inference and one second")?;
                }
            }
        }
        Ok(())
    }

    fn check_rate(&self) -> Result<(), Problem> {
        let rate = &self.rate;
        let positive = |at: &str, value: Option<f64>| match value {
            Some(v) if !(v > 0.0 && v <= 1e7) => wrong(at, "above 0 and at most 10,000,000"),
            _ => Ok(()),
        };
        match &rate.per_minute {
            Some(PerMinute::Constant(rate)) => positive("rate.per_minute", Some(*rate))?,
            Some(PerMinute::Growing(growing)) => {
                positive("rate.per_minute.base", Some(growing.base))?;
                positive("rate.per_minute.max", Some(growing.max))?;
                if !(1.0..=10.0).contains(&growing.factor) {
                    wrong("rate.per_minute.factor", "from 1 to 10")?;
                }
                if growing.every == 0 {
                    wrong("rate.per_minute.every", "at least 1")?;
                }
            }
            None => {}
        }
        positive("rate.site.per_minute", rate.site.per_minute)?;
        for (at, limit) in [("rate.in_flight", rate.in_flight), ("rate.site.in_flight", rate.site.in_flight)] {
            if limit == Some(0) {
                wrong(at, "at least 1")?;
            }
        }
        for (at, limit) in [
            ("rate.bytes_per_second", rate.bytes_per_second),
            ("rate.site.bytes_per_second", rate.site.bytes_per_second),
        ] {
            if limit.is_some_and(|b| b.0 == 0) {
                wrong(at, "at least 1")?;
            }
        }
        Ok(())
    }

    fn check_schedule(&self) -> Result<(), Problem> {
        let schedule = &self.schedule;
        if schedule.windows.len() > MAX_WINDOWS {
            wrong("schedule.windows", format!("at most {MAX_WINDOWS}"))?;
        }
        for (i, window) in schedule.windows.iter().enumerate() {
            let at = |field: &str| format!("schedule.windows[{i}].{field}");
            if window.cron.split_whitespace().count() != 5 || window.cron.len() > 64 {
                wrong(
                    at("cron"),
                    "five fields: minute, hour, day of month, month, day of week, such as \"0 2 * * SAT\"",
                )?;
            }
            if window.length.0 == 0 || window.length.0 > MAX_SPAN {
                wrong(at("for"), "from 1s to 30d")?;
            }
        }
        if schedule.veto.0 > MAX_SPAN {
            wrong("schedule.veto", "at most 30d")?;
        }
        if schedule.switch != Switch::Directly && !schedule.prestage {
            wrong("schedule.switch", "needs prestage = true: there has to be something to switch to")?;
        }
        Ok(())
    }
}
