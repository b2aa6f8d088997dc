//! A version that runs beside the active one on a share of its real requests, and how the two are compared.
//!
//! A request is mirrored after it was answered: whatever becomes of the shadow, nobody waits for it and nobody fails
//! by it. It has one thread of the lowest priority and takes one request at a time; what comes meanwhile, or is over
//! its budget, is left out and counted. Which requests are taken follows from their number alone.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use muster_proto::code::Code;
use muster_proto::desired::{Agreement, ShadowTerms};
use muster_proto::id::{Digest, SlotName};
use muster_proto::manifest::Tensor;
use muster_proto::report::{Failure, LATENCY_BOUNDS_US, SHIFT_BINS, ShadowWindow};

use super::loaded::Loaded;
use super::sample::{Answer, Sample, Sampler};
use super::sketch;

const BUCKETS: usize = LATENCY_BOUNDS_US.len() + 1;
/// The stack of the thread, as that of the threads that answer.
const STACK_BYTES: usize = 8 << 20;
/// Over how much time the share of a processor may be spent unevenly.
const BUDGET_WINDOW: Duration = Duration::from_secs(60);
/// A run that takes longer counts as failed and ends the comparison: its thread cannot be got rid of.
const TIMEOUT: Duration = Duration::from_secs(60);
/// By how much elements may differ that count as equal in [`Agreement::Overlap`].
const NEAR: f64 = 1e-3;

type Tensors = BTreeMap<String, Tensor>;

/// The place at an active model where a shadow gets its requests, and where samples are taken.
#[derive(Debug, Default)]
pub struct Mirror {
    run: RwLock<Option<Arc<Run>>>,
    sampler: OnceLock<Arc<Sampler>>,
}

impl Mirror {
    /// The run that looks on.
    pub fn run(&self) -> Option<Arc<Run>> {
        self.run.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets `run` look on, in the place of any other.
    pub fn set(&self, run: Option<Arc<Run>>) {
        *self.run.write().unwrap_or_else(PoisonError::into_inner) = run;
    }

    /// What takes samples of requests.
    pub fn sampler(&self) -> Option<&Arc<Sampler>> {
        self.sampler.get()
    }

    /// Lets `sampler` take samples, unless one does already.
    pub fn sample(&self, sampler: Arc<Sampler>) {
        let _ = self.sampler.set(sampler);
    }
}

/// One version in the shadow of another. Its thread ends with the last reference.
#[derive(Debug)]
pub struct Run {
    shared: Arc<Shared>,
    requests: AtomicU64,
    /// Holds nothing: a request is passed on only while the thread waits for one.
    sender: SyncSender<(Tensors, Tensors)>,
}

#[derive(Debug)]
struct Shared {
    slot: SlotName,
    shadow: Arc<Loaded>,
    /// The target and digest of what it is held against, and who wants to know where they disagree.
    sampler: Option<(String, Digest, Arc<Sampler>)>,
    terms: ShadowTerms,
    started: Instant,
    /// When the request that is being run was begun, in milliseconds since `started`, and one more; 0 for none.
    busy_since: AtomicU64,
    over: AtomicBool,
    budget: Mutex<Budget>,
    compared: AtomicU64,
    agreed: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    shift: [AtomicU32; SHIFT_BINS],
    latency: [AtomicU64; BUCKETS],
    taken: Mutex<Counts>,
}

/// What a shadow did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that both answered.
    pub compared: u64,
    /// Those on which they agreed.
    pub agreed: u64,
    /// Requests that the shadow failed.
    pub failed: u64,
    /// Requests left out.
    pub skipped: u64,
    shift: [u32; SHIFT_BINS],
    latency: [u64; BUCKETS],
}

/// Why a shadow cannot run now, where `memory_available` bytes are to be had; 0 stands for an unknown number.
pub fn refusal(shadow: &Loaded, terms: &ShadowTerms, memory_available: u64) -> Option<Failure> {
    let need = terms.memory_bytes.saturating_add(shadow.manifest.measured.memory_bytes);
    let code = Code::ShadowOverBudget;
    if memory_available > 0 && memory_available < need {
        let detail = format!("needs {need} bytes of memory, {memory_available} are available");
        return Some(Failure { code, detail });
    }
    (terms.cpu_permille == 0).then(|| Failure { code, detail: "no processor time is allowed for it".into() })
}

impl Run {
    /// Begins to run `shadow` for `slot` beside `active`; the [`Mirror`] there brings it requests.
    pub fn start(slot: SlotName, active: &Loaded, shadow: Arc<Loaded>, terms: ShadowTerms) -> io::Result<Arc<Self>> {
        let sampler = active.mirror.sampler().filter(|sampler| sampler.wants_disagreements());
        let sampler = sampler.map(|sampler| (active.manifest.target_path(), active.digest, Arc::clone(sampler)));
        let (sender, receiver) = sync_channel(0);
        let budget = Mutex::new(Budget::new(terms.cpu_permille));
        let shared = Arc::new(Shared {
            slot,
            shadow,
            sampler,
            terms,
            started: Instant::now(),
            busy_since: AtomicU64::new(0),
            over: AtomicBool::new(false),
            budget,
            compared: AtomicU64::new(0),
            agreed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            shift: Default::default(),
            latency: Default::default(),
            taken: Mutex::default(),
        });
        let worker = Arc::clone(&shared);
        let builder = thread::Builder::new().name("shadow".into()).stack_size(STACK_BYTES);
        builder.spawn(move || worker.work(&receiver))?;
        Ok(Arc::new(Self { shared, requests: AtomicU64::new(0), sender }))
    }

    /// Whether the request that was just answered is for the shadow. Each request has to be asked about once.
    pub fn wants(&self) -> bool {
        let shared = &self.shared;
        if shared.over.load(Relaxed) {
            return false;
        }
        let share = u64::from(shared.terms.share_permille);
        let number = self.requests.fetch_add(1, Relaxed);
        let taken = |count: u64| count.saturating_mul(share) / 1000;
        if taken(number + 1) == taken(number) {
            return false;
        }
        let free = shared.busy_since.load(Relaxed) == 0 && shared.budget().allows(shared.started.elapsed());
        if !free {
            shared.skipped.fetch_add(1, Relaxed);
        }
        free
    }

    /// Hands over a request and the active model's answer to it.
    pub fn offer(&self, inputs: Tensors, answer: Tensors) {
        if self.sender.try_send((inputs, answer)).is_err() {
            self.shared.skipped.fetch_add(1, Relaxed);
        }
    }

    /// Whether it has come to its end, by count, by time, or because it hangs.
    pub fn is_over(&self) -> bool {
        let shared = &self.shared;
        let (seconds, now) = (u64::from(shared.terms.seconds), shared.started.elapsed());
        let hangs = match shared.busy_since.load(Relaxed) {
            0 => false,
            since => now.saturating_sub(Duration::from_millis(since)) > TIMEOUT,
        };
        if hangs && !shared.over.load(Relaxed) {
            shared.failed.fetch_add(1, Relaxed);
        }
        if hangs || (seconds > 0 && now.as_secs() >= seconds) {
            self.stop();
        }
        shared.over.load(Relaxed)
    }

    /// Takes no more requests.
    pub fn stop(&self) {
        self.shared.over.store(true, Relaxed);
    }

    /// The version that runs in the shadow.
    pub fn shadow(&self) -> &Loaded {
        &self.shared.shadow
    }

    /// All counts since it began.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// What it did since the last call.
    pub fn take_window(&self) -> ShadowWindow {
        let shared = &self.shared;
        let mut taken = shared.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let now = shared.counts();
        let shift: Vec<u32> = now.shift.iter().zip(&taken.shift).map(|(n, t)| n.wrapping_sub(*t)).collect();
        let window = ShadowWindow {
            slot: shared.slot.clone(),
            digest: shared.shadow.digest,
            compared: now.compared - taken.compared,
            agreed: now.agreed - taken.agreed,
            failed: now.failed - taken.failed,
            skipped: now.skipped - taken.skipped,
            confidence_shift: if shift.iter().any(|n| *n > 0) { shift } else { Vec::new() },
            latency: now.latency.iter().zip(&taken.latency).map(|(n, t)| n - t).collect(),
        };
        *taken = now;
        window
    }
}

impl Shared {
    fn budget(&self) -> std::sync::MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, requests: &Receiver<(Tensors, Tensors)>) {
        // It works all the same where the system does not let it step back.
        let _ = rustix::process::nice(19);
        while let Ok((inputs, answer)) = requests.recv() {
            let began = self.started.elapsed();
            self.busy_since.store((began.as_millis() as u64).max(1), Relaxed);
            if catch_unwind(AssertUnwindSafe(|| self.compare(inputs, answer))).is_err() {
                self.failed.fetch_add(1, Relaxed);
            }
            self.busy_since.store(0, Relaxed);
            let now = self.started.elapsed();
            self.budget().spend(now.saturating_sub(began));
        }
    }

    fn compare(&self, inputs: Tensors, answer: Tensors) {
        let began = Instant::now();
        let outputs = self.shadow.model.check(&inputs).and_then(|_| self.shadow.model.run(&inputs));
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let Ok(outputs) = outputs else {
            self.failed.fetch_add(1, Relaxed);
            return;
        };
        self.latency[LATENCY_BOUNDS_US.partition_point(|bound| *bound < micros)].fetch_add(1, Relaxed);
        let specs = self.shadow.model.outputs();
        let (theirs, ours) = (sketch::rows(specs, &answer), sketch::rows(specs, &outputs));
        for (theirs, ours) in theirs.iter().zip(&ours) {
            if let (Some(theirs), Some(ours)) = (theirs.confidence, ours.confidence) {
                let bin = ((f64::from(ours) - f64::from(theirs) + 1.0) / 2.0 * SHIFT_BINS as f64) as usize;
                self.shift[bin.min(SHIFT_BINS - 1)].fetch_add(1, Relaxed);
            }
        }
        if agree(self.terms.rule, &answer, &outputs, &theirs, &ours) {
            self.agreed.fetch_add(1, Relaxed);
        } else if let Some((target, digest, sampler)) = &self.sampler {
            let answer = Answer { target: target.clone(), digest: *digest, outputs: answer };
            sampler.keep(Sample { answer, inputs, shadow: Some(Answer::of(&self.shadow, outputs)) });
        }
        let compared = self.compared.fetch_add(1, Relaxed) + 1;
        if self.terms.inferences > 0 && compared >= u64::from(self.terms.inferences) {
            self.over.store(true, Relaxed);
        }
    }

    fn counts(&self) -> Counts {
        // Agreements are counted first: reading them first keeps them from outnumbering the comparisons.
        let agreed = self.agreed.load(Relaxed);
        Counts {
            compared: self.compared.load(Relaxed).max(agreed),
            agreed,
            failed: self.failed.load(Relaxed),
            skipped: self.skipped.load(Relaxed),
            shift: std::array::from_fn(|bin| self.shift[bin].load(Relaxed)),
            latency: std::array::from_fn(|bucket| self.latency[bucket].load(Relaxed)),
        }
    }
}

/// Whether two answers count as one.
fn agree(rule: Agreement, one: &Tensors, other: &Tensors, ones: &[sketch::Row], others: &[sketch::Row]) -> bool {
    let shapes = |tensors: &Tensors| {
        tensors.iter().map(|(name, t)| (name.clone(), t.dtype(), t.shape().to_vec())).collect::<Vec<_>>()
    };
    if shapes(one) != shapes(other) {
        return false;
    }
    let differences =
        || one.values().zip(other.values()).flat_map(|(a, b)| a.to_f64().into_iter().zip(b.to_f64()).map(difference));
    match rule {
        Agreement::Top1 => {
            !ones.is_empty() && ones.len() == others.len() && ones.iter().zip(others).all(|(a, b)| a.top1 == b.top1)
        }
        Agreement::Tolerance { absolute } => differences().all(|difference| difference <= f64::from(absolute.0)),
        Agreement::Overlap { permille } => {
            let (near, all) = differences().fold((0u64, 0u64), |(near, all), d| (near + u64::from(d <= NEAR), all + 1));
            near * 1000 >= all * u64::from(permille)
        }
    }
}

/// Two of the same kind of not-a-number or infinity are no difference.
fn difference((a, b): (f64, f64)) -> f64 {
    if a == b || (a.is_nan() && b.is_nan()) {
        return 0.0;
    }
    let difference = (a - b).abs();
    if difference.is_nan() { f64::INFINITY } else { difference }
}

/// A share of one processor, spent in advance and earned again by time.
#[derive(Debug)]
struct Budget {
    permille: u64,
    /// What has been spent beyond what was earned, in microseconds.
    debt_us: u64,
    seen: Duration,
}

impl Budget {
    fn new(permille: u16) -> Self {
        Self { permille: permille.into(), debt_us: 0, seen: Duration::ZERO }
    }

    /// Whether something may begin at `now`, counted from the start.
    fn allows(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.seen);
        let earned = (passed.as_micros() as u64).saturating_mul(self.permille) / 1000;
        if earned > 0 {
            self.seen = now;
            self.debt_us = self.debt_us.saturating_sub(earned);
        }
        self.permille > 0 && self.debt_us <= self.burst_us()
    }

    fn spend(&mut self, time: Duration) {
        self.debt_us = self.debt_us.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// What may be owed: a tenth of what the window earns, so that a burst does not wait and the share holds over it.
    fn burst_us(&self) -> u64 {
        BUDGET_WINDOW.as_micros() as u64 / 1000 * self.permille / 10
    }
}

#[cfg(test)]
mod tests;
