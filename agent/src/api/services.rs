//! Services: names at which one version answers, or two share the requests, each behind keys and a gate of its own. A
//! change of a service is one atomic switch; a request ends on the version that it began with.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use muster_proto::id::{Digest, SlotName, Version};
use serde::{Deserialize, Serialize};

use super::gate::{Bounds, Gate};
use super::keys::Keys;
use crate::engine::Loaded;
use crate::engine::together::{MAX_DELAY, MAX_SIZE, Wish};

/// A step through 0..100 that meets each number once, far from the last one: shares are exact over each hundred requests
/// and mixed within it.
const STRIDE: u64 = 61;

/// What may be set of a service, with the names and defaults of Azure ML's deployment configuration where it has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many requests run at once; 0 for one per inference thread.
    pub concurrency: usize,
    /// How many more wait.
    pub queue: usize,
    /// How long one waits for its turn, in milliseconds.
    pub queue_wait_ms: u64,
    /// How long a request may take in all, in milliseconds.
    pub timeout_ms: u64,
    /// The largest body in bytes, as sent and unpacked.
    pub body_bytes: usize,
    /// How many requests with one key run and wait; 0 for no limit of its own.
    pub per_key: usize,
    /// How many items of several requests are computed at once, where that is faster; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_batch_size: usize,
    /// How long the first request of a batch waits for others, in microseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_queue_delay_us: usize,
}

fn is_zero(value: &usize) -> bool {
    *value == 0
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 0,
            queue: 10,
            queue_wait_ms: 500,
            timeout_ms: 60_000,
            body_bytes: 100 << 20,
            per_key: 0,
            max_batch_size: 0,
            max_queue_delay_us: 0,
        }
    }
}

impl Settings {
    /// The gate's part, where `threads` run inferences. What is computed together counts as one.
    pub fn bounds(&self, threads: usize) -> Bounds {
        let concurrency = if self.concurrency == 0 { threads.max(1) } else { self.concurrency };
        Bounds {
            concurrency: concurrency.saturating_mul(self.max_batch_size.max(1)),
            queue: self.queue,
            wait: Duration::from_millis(self.queue_wait_ms),
            per_key: (self.per_key > 0).then_some(self.per_key),
        }
    }

    /// How requests are to be computed together, if they are.
    pub fn together(&self) -> Option<Wish> {
        let delay = Duration::from_micros(self.max_queue_delay_us as u64);
        (self.max_batch_size > 1).then_some(Wish { size: self.max_batch_size, delay })
    }

    /// What no service can have.
    pub fn fault(&self) -> Option<String> {
        if self.max_batch_size > MAX_SIZE {
            return Some(format!("max_batch_size is {}, at most {MAX_SIZE}", self.max_batch_size));
        }
        if self.max_queue_delay_us as u128 > MAX_DELAY.as_micros() {
            let most = MAX_DELAY.as_micros();
            return Some(format!("max_queue_delay_us is {}, at most {most}", self.max_queue_delay_us));
        }
        None
    }

    /// How long a request may take in all.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// One version of a service, and its share of the requests.
#[derive(Debug, Clone)]
pub struct Revision {
    /// What answers.
    pub loaded: Arc<Loaded>,
    /// Its share in percent; the shares of a service are 100 together.
    pub traffic: u8,
}

/// A name at which something answers.
#[derive(Debug)]
pub struct Service {
    /// The name.
    pub name: SlotName,
    /// What was set of it.
    pub settings: Settings,
    /// Who may ask.
    pub keys: Keys,
    /// What answers: the stable version first.
    pub revisions: Vec<Revision>,
    /// Who runs and who waits; it outlives changes of the rest.
    pub gate: Arc<Gate>,
    turn: Arc<AtomicU64>,
}

impl Service {
    /// A service that replaces `before`, whose waiting requests keep their places.
    pub fn new(
        name: SlotName,
        settings: Settings,
        keys: Keys,
        revisions: Vec<Revision>,
        threads: usize,
        before: Option<&Self>,
    ) -> Self {
        let bounds = settings.bounds(threads);
        let (gate, turn) = match before {
            Some(before) => (Arc::clone(&before.gate), Arc::clone(&before.turn)),
            None => (Arc::new(Gate::new(bounds)), Arc::default()),
        };
        gate.set(bounds);
        Self { name, settings, keys, revisions, gate, turn }
    }

    /// The version whose turn it is.
    pub fn next(&self) -> Option<&Arc<Loaded>> {
        let position = (self.turn.fetch_add(1, Ordering::Relaxed) % 100 * STRIDE % 100) as u8;
        let mut end = 0u8;
        let chosen = self.revisions.iter().find(|revision| {
            end = end.saturating_add(revision.traffic);
            position < end
        });
        chosen.or(self.revisions.first()).map(|revision| &revision.loaded)
    }

    /// The answering version called `version`.
    pub fn version(&self, version: &str) -> Option<&Arc<Loaded>> {
        let is_it = |revision: &&Revision| revision.loaded.manifest.version.to_string() == version;
        self.revisions.iter().find(is_it).map(|revision| &revision.loaded)
    }

    /// The stable version.
    pub fn stable(&self) -> Option<&Arc<Loaded>> {
        self.revisions.first().map(|revision| &revision.loaded)
    }
}

/// What is known of a service, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// The name.
    pub name: SlotName,
    /// Whether what was asked for answers.
    pub ready: bool,
    /// Why what was asked for does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What answers.
    pub revisions: Vec<RevisionView>,
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// One version of a service, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionView {
    /// `NAME:VERSION`.
    pub model: String,
    /// The version alone.
    pub version: Version,
    /// The bundle's digest.
    pub digest: Digest,
    /// Its share in percent.
    pub traffic: u8,
    /// Requests that it answered.
    pub ok: u64,
    /// Requests on which it failed.
    pub errors: u64,
    /// What it takes of memory, in bytes, as estimated.
    pub memory_bytes: u64,
}

/// All services of a process.
#[derive(Debug, Default)]
pub struct Services {
    all: RwLock<BTreeMap<SlotName, Entry>>,
    /// Whether the first round of loading is over.
    settled: AtomicBool,
    /// Whether the process is on its way out, and balancers should send nothing new.
    leaving: AtomicBool,
    /// The longest time that a request of any service may take, in milliseconds.
    longest_ms: AtomicU64,
}

/// A service that was asked for.
#[derive(Debug, Clone, Default)]
struct Entry {
    service: Option<Arc<Service>>,
    /// Why the last change did not come about.
    trouble: Option<String>,
}

impl Services {
    /// What answers at `name`; `Err` says that it was asked for and does not answer yet.
    pub fn get(&self, name: &SlotName) -> Option<Result<Arc<Service>, String>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(name).map(|entry| match &entry.service {
            Some(service) => Ok(Arc::clone(service)),
            None => Err(entry.trouble.clone().unwrap_or_else(|| "it is being loaded".into())),
        })
    }

    /// All that answer.
    pub fn answering(&self) -> Vec<Arc<Service>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.values().filter_map(|entry| entry.service.clone()).collect()
    }

    /// Says that `name` was asked for.
    pub fn expect(&self, name: &SlotName) {
        self.write().entry(name.clone()).or_default();
    }

    /// From now on `service` answers at its name.
    pub fn put(&self, service: Arc<Service>) {
        self.longest_ms.fetch_max(service.settings.timeout_ms, Ordering::Relaxed);
        self.write().insert(service.name.clone(), Entry { service: Some(service), trouble: None });
    }

    /// Says why a change of `name` did not come about. What answered before goes on.
    pub fn trouble(&self, name: &SlotName, reason: String) {
        self.write().entry(name.clone()).or_default().trouble = Some(reason);
    }

    /// Leaves only `names`.
    pub fn retain(&self, names: &[SlotName]) {
        self.write().retain(|name, _| names.contains(name));
    }

    /// The longest time that a request of any service may take.
    pub fn longest(&self) -> Duration {
        let floor = Settings::default().timeout();
        Duration::from_millis(self.longest_ms.load(Ordering::Relaxed)).max(floor)
    }

    /// The first round of loading is over.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// The process is on its way out.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether balancers may send requests: loading is over, something answers, and nothing ends soon.
    pub fn is_ready(&self) -> bool {
        let settled = self.settled.load(Ordering::Acquire) && !self.leaving.load(Ordering::Acquire);
        settled && self.write().values().any(|entry| entry.service.is_some())
    }

    /// What is known of each.
    pub fn views(&self) -> Vec<View> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner).clone();
        all.into_iter().map(|(name, entry)| view(name, entry)).collect()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<SlotName, Entry>> {
        self.all.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn view(name: SlotName, entry: Entry) -> View {
    let Entry { service, trouble } = entry;
    let ready = service.is_some() && trouble.is_none();
    let reason = trouble.or_else(|| service.is_none().then(|| "it is being loaded".to_owned()));
    let (running, waiting) = service.as_ref().map_or((0, 0), |service| service.gate.load());
    let revisions = service.iter().flat_map(|service| &service.revisions).map(|revision| {
        let Loaded { manifest, digest, model, stats, .. } = &*revision.loaded;
        let totals = stats.totals();
        RevisionView {
            model: format!("{}:{}", manifest.model, manifest.version),
            version: manifest.version,
            digest: *digest,
            traffic: revision.traffic,
            ok: totals.ok,
            errors: totals.errors,
            memory_bytes: model.memory_bytes(),
        }
    });
    View { name, ready, reason, revisions: revisions.collect(), running, waiting }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::testing::Bundle;

    fn revision(version: u32, traffic: u8) -> Revision {
        Revision { loaded: Arc::new(Bundle::digits(version).load().expect("loads")), traffic }
    }

    fn name() -> SlotName {
        "digits".parse().expect("a name")
    }

    #[test]
    fn shares_are_exact_over_a_hundred_requests_and_mixed() {
        let revisions = vec![revision(1, 90), revision(2, 10)];
        let service = Service::new(name(), Settings::default(), Keys::default(), revisions, 2, None);
        let turns: Vec<u64> =
            (0..200).map(|_| service.next().map(|loaded| loaded.manifest.version.0).expect("answers")).collect();
        assert_eq!(turns.iter().filter(|version| **version == 2).count(), 20);
        let longest = turns.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
        assert!(longest < Some(25), "the canary's requests come in a row: {turns:?}");
        assert!(service.version("2").is_some() && service.version("3").is_none());
    }

    #[test]
    fn a_failed_change_leaves_what_answered() {
        let services = Services::default();
        services.expect(&name());
        assert!(!services.is_ready());
        assert!(matches!(services.get(&name()), Some(Err(reason)) if reason.contains("loaded")));
        services.settle();
        assert!(!services.is_ready(), "nothing answers");
        let first = Service::new(name(), Settings::default(), Keys::default(), vec![revision(1, 100)], 2, None);
        services.put(Arc::new(first));
        assert!(services.is_ready());
        services.trouble(&name(), "the digest is another one".into());
        let view = services.views().remove(0);
        assert_eq!((view.ready, view.revisions[0].model.as_str()), (false, "digits:1"));
        assert!(services.is_ready() && matches!(services.get(&name()), Some(Ok(_))));
        services.leave();
        assert!(!services.is_ready());
        services.retain(&[]);
        assert!(services.get(&name()).is_none());
    }
}
