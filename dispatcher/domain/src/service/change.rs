//! What may be changed of a service, and what follows: versions come and go, its name, its target and its keys stay.

use super::{Replicas, Revision, Service, Settings, Target};

/// The longest name: what Kubernetes adds to it has to fit into 63 characters.
const MAX_NAME: usize = 52;
/// The most containers of a service.
const MAX_REPLICAS: u32 = 1000;
/// The most items that are computed at once.
const MAX_BATCH: u32 = 256;
/// The longest that the first of them waits, in microseconds.
const MAX_DELAY_US: u32 = 1_000_000;

/// A change of a service.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Another version answers all requests.
    Replace(Revision),
    /// Another version answers so many percent of the requests.
    Canary(Revision, u8),
    /// The canary answers all requests.
    Promote,
    /// The canary is given up, or the version before answers again.
    RollBack,
    /// Other settings.
    Set(Box<Settings>),
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It breaks a rule.
    #[error("{0}")]
    Rule(String),
    /// It contradicts what the service is now.
    #[error("{0}")]
    Conflict(&'static str),
}

/// Refuses a name that a cluster would refuse.
pub fn check_name(name: &str) -> Result<(), Refused> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let starts_with_letter = name.starts_with(|c: char| c.is_ascii_lowercase());
    let fits = name.len() <= MAX_NAME && starts_with_letter && edge(name.chars().last()) && name.chars().all(inside);
    if fits {
        return Ok(());
    }
    Err(Refused::Rule(format!(
        "{:?} is no name for a service: use 1 to {MAX_NAME} lower-case letters, digits and hyphens, a letter first, no \
         hyphen last",
        name.chars().take(80).collect::<String>()
    )))
}

/// The service after `change`, its generation one up, and the version that `RollBack` goes back to.
pub fn update(
    service: &Service,
    before: Option<&Revision>,
    change: Change,
) -> Result<(Service, Option<Revision>), Refused> {
    let mut next = service.clone();
    next.generation += 1;
    let stable = service.revisions.first().cloned();
    let mut before = before.cloned();
    match change {
        Change::Replace(revision) => {
            if stable.as_ref().is_some_and(|stable| stable.digest != revision.digest) {
                before = stable;
            }
            next.revisions = vec![Revision { traffic: 100, ..revision }];
        }
        Change::Canary(revision, percent) => {
            let Some(stable) = stable.filter(|stable| stable.digest != revision.digest) else {
                return Err(Refused::Conflict("this version answers all requests already"));
            };
            if !(1..=99).contains(&percent) {
                return Err(Refused::Rule(format!("a canary's share is 1 to 99 percent, not {percent}")));
            }
            let stable = Revision { traffic: 100 - percent, ..stable };
            next.revisions = vec![stable, Revision { traffic: percent, ..revision }];
        }
        Change::Promote => {
            let Some(canary) = service.revisions.get(1) else {
                return Err(Refused::Conflict("there is no canary to promote"));
            };
            before = stable;
            next.revisions = vec![Revision { traffic: 100, ..canary.clone() }];
        }
        Change::RollBack => {
            let back = match (service.revisions.get(1), stable, before.take()) {
                (Some(_), Some(stable), kept) => {
                    before = kept;
                    stable
                }
                (None, stable, Some(kept)) => {
                    before = stable;
                    kept
                }
                _ => return Err(Refused::Conflict("there is no canary and no version before to go back to")),
            };
            next.revisions = vec![Revision { traffic: 100, ..back }];
        }
        Change::Set(settings) => next.settings = *settings,
    }
    next.check()?;
    Ok((next, before))
}

impl Service {
    /// Refuses what no target can run.
    pub fn check(&self) -> Result<(), Refused> {
        check_name(&self.name)?;
        let rule = |text: String| Err(Refused::Rule(text));
        let Settings { replicas, concurrency, queue, timeout_ms, body_bytes, env, .. } = &self.settings;
        if self.settings.max_batch_size > MAX_BATCH || self.settings.max_queue_delay_us > MAX_DELAY_US {
            return rule(format!("max_batch_size is at most {MAX_BATCH}, max_queue_delay_us at most {MAX_DELAY_US}"));
        }
        match replicas {
            Replicas::Fixed(count) if !(1..=MAX_REPLICAS).contains(count) => {
                return rule(format!("{count} replicas, and 1 to {MAX_REPLICAS} are possible"));
            }
            Replicas::Auto { min, max, .. } if *min == 0 || min > max || *max > MAX_REPLICAS => {
                return rule(format!("{min} to {max} replicas: both from 1 to {MAX_REPLICAS}, the first not larger"));
            }
            _ => {}
        }
        if *concurrency == 0 || *concurrency > 10_000 || *queue > 100_000 {
            return rule("concurrency is 1 to 10000, queue 0 to 100000".into());
        }
        if !(1..=3_600_000).contains(timeout_ms) {
            return rule(format!("timeout_ms is 1 to 3600000, not {timeout_ms}"));
        }
        if !(1024..=1 << 30).contains(body_bytes) {
            return rule(format!("body_bytes is 1024 to {}, not {body_bytes}", 1u64 << 30));
        }
        if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return rule(format!("{name:?} is no name for a variable"));
        }
        let shares: u32 = self.revisions.iter().map(|revision| u32::from(revision.traffic)).sum();
        if shares != 100 || self.revisions.len() > 2 {
            return rule(format!("{} versions share {shares} percent", self.revisions.len()));
        }
        if let (Target::Local(local), Some(1..=1023)) = (&self.target, self.local_port()) {
            return rule(format!("port {:?} is for the system's own services: name one from 1024 up", local.port));
        }
        Ok(())
    }

    fn local_port(&self) -> Option<u16> {
        match &self.target {
            Target::Local(local) => local.port,
            Target::Kubernetes(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Local;

    fn revision(version: u32, traffic: u8) -> Revision {
        let (model, digest) = ("digits".to_owned(), format!("{version:064}"));
        Revision { model, version, digest, traffic, image: None, memory: None }
    }

    fn service(revisions: Vec<Revision>) -> Service {
        Service {
            name: "digits".into(),
            workspace: "default".into(),
            generation: 1,
            revisions,
            settings: Settings::default(),
            fetch: None,
            target: Target::Local(Local::default()),
        }
    }

    fn shares(service: &Service) -> Vec<(u32, u8)> {
        service.revisions.iter().map(|revision| (revision.version, revision.traffic)).collect()
    }

    #[test]
    fn versions_come_and_go_and_the_one_before_is_kept() {
        let start = service(vec![revision(1, 100)]);
        let (two, before) = update(&start, None, Change::Replace(revision(2, 0))).expect("replaces");
        assert_eq!((shares(&two), before.clone().map(|b| b.version), two.generation), (vec![(2, 100)], Some(1), 2));
        let (back, before) = update(&two, before.as_ref(), Change::RollBack).expect("goes back");
        assert_eq!((shares(&back), before.map(|b| b.version)), (vec![(1, 100)], Some(2)));

        let (canary, before) = update(&start, None, Change::Canary(revision(2, 0), 10)).expect("shares");
        assert_eq!((shares(&canary), before), (vec![(1, 90), (2, 10)], None));
        let (given_up, _) = update(&canary, None, Change::RollBack).expect("gives up");
        assert_eq!(shares(&given_up), [(1, 100)]);
        let (promoted, before) = update(&canary, None, Change::Promote).expect("promotes");
        assert_eq!((shares(&promoted), before.map(|b| b.version)), (vec![(2, 100)], Some(1)));
    }

    #[test]
    fn what_contradicts_or_breaks_a_rule_is_refused() {
        let start = service(vec![revision(1, 100)]);
        let settings = |settings: Settings| Change::Set(Box::new(settings));
        let table = [
            (Change::Promote, "no canary"),
            (Change::RollBack, "no version before"),
            (Change::Canary(revision(1, 0), 10), "already"),
            (Change::Canary(revision(2, 0), 0), "1 to 99"),
            (settings(Settings { concurrency: 0, ..Settings::default() }), "concurrency"),
            (settings(Settings { max_batch_size: 257, ..Settings::default() }), "max_batch_size"),
            (settings(Settings { max_queue_delay_us: 1_000_001, ..Settings::default() }), "max_queue_delay_us"),
            (settings(Settings { replicas: Replicas::Fixed(0), ..Settings::default() }), "replicas"),
            (settings(Settings { timeout_ms: 0, ..Settings::default() }), "timeout_ms"),
            (settings(Settings { body_bytes: 1, ..Settings::default() }), "body_bytes"),
        ];
        for (change, part) in table {
            let error = update(&start, None, change).expect_err(part).to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn names_are_those_that_a_cluster_takes() {
        for good in ["a", "digits", "digits-2", &"x".repeat(52)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Digits", "-a", "a-", "1a", "a_b", "a.b", "ä", &"x".repeat(53)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
