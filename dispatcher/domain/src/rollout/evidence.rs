//! What a stage has seen of the version, and what its gates make of it.

mod describe;

use muster_proto::report::LATENCY_BOUNDS_US;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::plan::{Gates, Stage};
use super::stats::{Bets, Difference, Drift, Fall, Paired, Verdict};
use super::units::Amount;
use super::{DevicePhase, StageState};

/// A window with fewer inferences says nothing of their latency or errors.
pub const MIN_INFERENCES: u64 = 20;
/// How often one device's figures count in its soak time, where enough devices give some.
pub(super) const READINGS_PER_DEVICE: u64 = 4;
/// How often they count in the soak time at most.
pub(super) const MAX_READINGS: u64 = 64;
/// The bins of an output sketch.
const BINS: usize = 32;
/// The bins of a confidence sketch.
const SURE_BINS: usize = muster_proto::report::CONFIDENCE_BINS;
/// The fewest inferences that agreement or drift may pass on.
const MIN_COMPARED: u64 = 30;
/// Error rates are cut at so many points, and temperatures at so many degrees.
const ERROR_SCALE: f64 = 0.25;
const DEGREES_SCALE: f64 = 30.0;

/// One device's figures over one window of telemetry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Inferences that succeeded.
    pub ok: u64,
    /// Inferences that failed.
    pub errors: u64,
    /// The 95th percentile of the latency in microseconds.
    pub p95_us: Option<f64>,
    /// The agent's resident memory in bytes.
    pub rss_bytes: f64,
    /// The hottest sensor in degrees Celsius.
    pub celsius: Option<f64>,
    /// How often each output class came, by bin.
    pub outputs: Vec<u32>,
    /// How often the largest output was how sure, by tenths of 0 to 1.
    pub confidence: Vec<u32>,
    /// What the shadow did.
    pub shadow: Option<ShadowReading>,
}

impl Reading {
    /// Whether there were enough inferences to tell something by.
    pub fn has_inferences(&self) -> bool {
        self.ok.saturating_add(self.errors) >= MIN_INFERENCES
    }
}

/// What a shadow did over one window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ShadowReading {
    /// Inferences that were compared.
    pub compared: u64,
    /// Of those, the ones that agreed.
    pub agreed: u64,
    /// Inferences that the shadow failed.
    pub failed: u64,
    /// Inferences that were not shadowed for want of time or memory.
    pub skipped: u64,
    /// How the confidence moved, in bins from −1 to 1.
    pub confidence_shift: Vec<u64>,
    /// Inferences of the shadow per bucket of [`LATENCY_BOUNDS_US`] and one more.
    pub latency: Vec<u64>,
}

/// What a device's figures are like with the version that it runs: means that forget slowly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usual {
    /// Windows that were taken in.
    pub windows: u32,
    /// The share of inferences that failed.
    pub error_rate: f64,
    /// The 95th percentile of the latency in microseconds; 0 where none is known.
    pub p95_us: f64,
    /// Resident memory in bytes.
    pub rss_bytes: f64,
    /// The hottest sensor in degrees Celsius; NaN is never stored, absent is `None`.
    pub celsius: Option<f64>,
}

impl Usual {
    /// Takes a window in.
    pub fn add(&mut self, reading: &Reading) {
        self.windows = self.windows.saturating_add(1);
        let weight = 1.0 / f64::from(self.windows.min(20));
        let mix = |old: f64, new: f64| old + weight * (new - old);
        self.rss_bytes = mix(self.rss_bytes, reading.rss_bytes);
        if let Some(celsius) = reading.celsius {
            self.celsius = Some(self.celsius.map_or(celsius, |old| mix(old, celsius)));
        }
        if reading.has_inferences() {
            let all = reading.ok.saturating_add(reading.errors);
            self.error_rate = mix(self.error_rate, reading.errors as f64 / all as f64);
            if let Some(p95) = reading.p95_us {
                self.p95_us = if self.p95_us > 0.0 { mix(self.p95_us, p95) } else { p95 };
            }
        }
    }
}

/// What was seen in one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    error_rate: Difference,
    p95: Paired,
    memory: Paired,
    temperature: Difference,
    agreement: Bets,
    drift: Drift,
    confidence: Fall,
    expected: Vec<u64>,
    actual: Vec<u64>,
    sure_before: Vec<u64>,
    sure_now: Vec<u64>,
    /// Everything that shadows did.
    pub shadow: ShadowReading,
}

/// A gate of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// The share of devices with an outcome that are healthy.
    Success,
    /// Devices that failed.
    Failures,
    /// The share of devices that are silent.
    Silence,
    /// How much more of the inferences fail.
    ErrorRate,
    /// How much longer the 95th percentile of the latency is.
    P95,
    /// How much more memory the agent takes.
    Memory,
    /// How many degrees hotter it is.
    Temperature,
    /// How far the outputs drifted.
    Drift,
    /// How much less sure the outputs are.
    Confidence,
    /// The share of shadowed inferences that agree.
    Agreement,
}

/// How a gate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GateState {
    /// There is too little to go by.
    Waiting,
    /// Beyond the limit, but that may be chance.
    Holding,
    /// Within the limit.
    Passing,
    /// Beyond the limit, and chance is no explanation.
    Breached,
    /// There is nothing to compare with: nothing answered on these devices before.
    NotAsked,
}

impl From<Verdict> for GateState {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Waiting => GateState::Waiting,
            Verdict::Holding => GateState::Holding,
            Verdict::Passing => GateState::Passing,
            Verdict::Breached => GateState::Breached,
        }
    }
}

/// A gate with its numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GateReading {
    /// The gate.
    pub gate: Gate,
    /// How it stands.
    pub state: GateState,
    /// What was seen, in the unit of `limit`; none where there is nothing yet.
    pub value: Option<f64>,
    /// The limit.
    pub limit: f64,
    /// Out of how many devices, windows or inferences.
    pub n: u64,
    /// How many are needed; 0 where devices are counted and not shares of them.
    pub needed: u64,
}

impl Evidence {
    /// Nothing seen yet.
    pub fn new(gates: &Gates) -> Self {
        Self {
            error_rate: Difference::new(gates.error_rate.map_or(1.0, |share| share.0), ERROR_SCALE),
            p95: Paired::new(gates.p95.unwrap_or(f64::MAX)),
            memory: Paired::new(gates.memory.unwrap_or(f64::MAX)),
            temperature: Difference::new(gates.temperature.unwrap_or(f64::MAX), DEGREES_SCALE),
            agreement: Bets::new(gates.agreement.map_or(1.0, |share| 1.0 - share.0)),
            drift: Drift::new(gates.drift.unwrap_or(f64::MAX), gates.alpha(), MIN_COMPARED),
            confidence: Fall::new(gates.confidence.map_or(1.0, |share| share.0), gates.alpha(), MIN_COMPARED),
            sure_before: Vec::new(),
            sure_now: Vec::new(),
            expected: Vec::new(),
            actual: Vec::new(),
            shadow: ShadowReading::default(),
        }
    }

    /// Takes a window of a device that has not switched.
    pub fn observe_control(&mut self, reading: &Reading, usual: &Usual) {
        if reading.has_inferences() {
            let all = reading.ok.saturating_add(reading.errors);
            self.error_rate.observe_control(usual.error_rate, reading.errors as f64 / all as f64);
            self.p95.observe_control(usual.p95_us, reading.p95_us.unwrap_or(0.0));
        }
        self.memory.observe_control(usual.rss_bytes, reading.rss_bytes);
        if let (Some(before), Some(after)) = (usual.celsius, reading.celsius) {
            self.temperature.observe_control(before, after);
        }
        self.expect(reading);
    }

    /// Takes over what earlier stages expect of outputs: in the last stage nobody is left who has not switched.
    pub(super) fn expect_as(&mut self, earlier: &Evidence) {
        self.expected.clone_from(&earlier.expected);
        self.sure_before.clone_from(&earlier.sure_before);
    }

    /// Takes the outputs of the version before.
    pub fn expect(&mut self, reading: &Reading) {
        add(&mut self.expected, &reading.outputs, BINS);
        add(&mut self.sure_before, &reading.confidence, SURE_BINS);
    }

    /// Takes the outputs of the new version.
    pub fn count_outputs(&mut self, reading: &Reading) {
        add(&mut self.actual, &reading.outputs, BINS);
        add(&mut self.sure_now, &reading.confidence, SURE_BINS);
        self.confidence.look(&self.sure_before, &self.sure_now);
        self.drift.look(&self.expected, &self.actual);
    }

    /// Takes a window of a device that runs the version, against its own figures before.
    pub fn observe(&mut self, reading: &Reading, usual: &Usual) {
        if reading.has_inferences() {
            let all = reading.ok.saturating_add(reading.errors);
            self.error_rate.observe(usual.error_rate, reading.errors as f64 / all as f64);
            self.p95.observe(usual.p95_us, reading.p95_us.unwrap_or(0.0));
        }
        self.memory.observe(usual.rss_bytes, reading.rss_bytes);
        if let (Some(before), Some(after)) = (usual.celsius, reading.celsius) {
            self.temperature.observe(before, after);
        }
    }

    /// Takes what a shadow did. A shadow that failed did not agree.
    pub fn observe_shadow(&mut self, reading: &ShadowReading) {
        let compared = reading.compared.saturating_add(reading.failed);
        let agreed = reading.agreed.min(reading.compared);
        self.agreement.observe_counts(compared - agreed, compared);
        let sum = &mut self.shadow;
        sum.compared = sum.compared.saturating_add(reading.compared);
        sum.agreed = sum.agreed.saturating_add(agreed);
        sum.failed = sum.failed.saturating_add(reading.failed);
        sum.skipped = sum.skipped.saturating_add(reading.skipped);
        add(&mut sum.confidence_shift, &reading.confidence_shift, 20);
        add(&mut sum.latency, &reading.latency, LATENCY_BOUNDS_US.len() + 1);
    }
}

/// Adds counts bin by bin; what is beyond the last bin goes into it.
fn add<T: Copy + Into<u64>>(sums: &mut Vec<u64>, counts: &[T], bins: usize) {
    if counts.is_empty() {
        return;
    }
    sums.resize(bins, 0);
    for (i, count) in counts.iter().enumerate() {
        let bin = &mut sums[i.min(bins - 1)];
        *bin = bin.saturating_add((*count).into());
    }
}

impl StageState {
    /// Each gate that the stage asks, with its numbers.
    pub fn readings(&self, stage: &Stage) -> Vec<GateReading> {
        let gates = &stage.gates;
        let evidence = &self.evidence;
        let mut readings = self.device_gates(gates);
        // A stage without devices that ran something before has nothing to compare.
        let compared = |verdict: Verdict| {
            let nothing = self.comparable == 0 && self.counts.total() > 0;
            if nothing && verdict == Verdict::Waiting { GateState::NotAsked } else { verdict.into() }
        };
        // A small stage cannot give more than all that its devices have.
        let most = READINGS_PER_DEVICE.saturating_mul(u64::from(self.comparable)).max(1);
        let (alpha, least) = (gates.alpha(), gates.min_readings().min(most));
        let mut metric = |gate, limit: Option<f64>, look: &dyn Fn() -> (Option<f64>, u64, u64, Verdict)| {
            if let Some(limit) = limit {
                let (value, n, needed, verdict) = look();
                readings.push(GateReading { gate, state: compared(verdict), value, limit, n, needed });
            }
        };
        let Evidence { error_rate, p95, memory, temperature, agreement, drift, expected, actual, .. } = evidence;
        let Evidence { confidence, sure_before, sure_now, .. } = evidence;
        let difference = |d: &Difference| (d.difference(), d.n(), least, d.verdict(alpha, least));
        let paired = |p: &Paired| (p.ratio().map(|ratio| ratio - 1.0), p.n(), least, p.verdict(alpha, least));
        metric(Gate::ErrorRate, gates.error_rate.map(|share| share.0), &|| difference(error_rate));
        metric(Gate::P95, gates.p95, &|| paired(p95));
        metric(Gate::Memory, gates.memory, &|| paired(memory));
        metric(Gate::Temperature, gates.temperature, &|| difference(temperature));
        metric(Gate::Drift, gates.drift, &|| {
            let index = super::stats::psi(expected, actual);
            (index, actual.iter().sum(), MIN_COMPARED, drift.verdict(expected, actual))
        });
        metric(Gate::Confidence, gates.confidence.map(|share| share.0), &|| {
            let fall = super::stats::fall(sure_before, sure_now);
            (fall, sure_now.iter().sum(), MIN_COMPARED, confidence.verdict(sure_before, sure_now))
        });
        // What was shadowed stays seen once the stage has switched.
        if let Some(limit) = gates.agreement {
            let verdict = agreement.verdict(alpha, MIN_COMPARED);
            let state = if self.shadow_skipped { GateState::NotAsked } else { verdict.into() };
            let value = agreement.mean().map(|mean| 1.0 - mean);
            let (gate, n) = (Gate::Agreement, agreement.n());
            readings.push(GateReading { gate, state, value, limit: limit.0, n, needed: MIN_COMPARED });
        }
        readings
    }

    fn device_gates(&self, gates: &Gates) -> Vec<GateReading> {
        let healthy = self.counts.of(DevicePhase::Healthy);
        let failed = self.counts.of(DevicePhase::Failed).saturating_sub(self.excused_failures);
        let silent = self.counts.of(DevicePhase::Silent).saturating_sub(self.excused_silence);
        let (decided, started) = (healthy + failed, self.counts.total());
        let share = |part: u32, of: u32| (of > 0).then(|| f64::from(part) / f64::from(of));
        let mut readings = Vec::new();
        let mut push = |gate, state, value, limit, n: u32, needed: u32| {
            readings.push(GateReading { gate, state, value, limit, n: n.into(), needed: needed.into() });
        };
        if let Some(least) = gates.success {
            let value = share(healthy, decided);
            // Whether it is a breach is for the end of the stage to say.
            let state = match value {
                Some(value) if value >= least.0 => GateState::Passing,
                Some(_) => GateState::Holding,
                None => GateState::Waiting,
            };
            push(Gate::Success, state, value, least.0, decided, 1);
        }
        if let Some(most) = gates.failures {
            let (value, limit, needed, beyond) = match most {
                Amount::Count(count) => (Some(f64::from(failed)), f64::from(count), 0, failed > count),
                Amount::Part(most) => {
                    // Of those that started, because failures come sooner than successes: of the first devices with an
                    // outcome far too many have failed, in every wave.
                    let least = gates.min_sample().max(1);
                    let beyond = f64::from(failed) > most.0 * f64::from(started.max(least)) + 1e-9;
                    (share(failed, started), most.0, least, beyond)
                }
            };
            let state = if beyond { GateState::Breached } else { GateState::Passing };
            push(Gate::Failures, state, value, limit, started, needed);
        }
        if let Some(most) = gates.silence {
            let beyond = f64::from(silent) > most.0 * f64::from(started.max(gates.min_sample())) + 1e-9;
            let state = if beyond { GateState::Breached } else { GateState::Passing };
            push(Gate::Silence, state, share(silent, started), most.0, started, 0);
        }
        readings
    }
}
