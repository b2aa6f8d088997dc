//! Traffic and its figures: what a device's telemetry windows say, drawn from the seed around what is usual for the device,
//! and moved by the defects of the version that answers.

use muster_dispatcher::domain::rollout::evidence::{Reading, ShadowReading, Usual};

use super::agent::Env;
use super::chance::For;
use super::scenario::DefectKind;
use super::version::NONE;

/// Inferences of one window.
const INFERENCES: u64 = 200;
/// Of those, the ones that a shadow compares.
const SHADOWED: u64 = 40;
/// The share of errors of a good version.
const ERRORS: f64 = 0.002;
/// The share of answers in which two good versions agree.
const AGREEMENT: f64 = 0.985;
/// How often each class comes as an answer, in thousandths.
const CLASSES: [u32; 10] = [180, 160, 140, 120, 100, 90, 80, 60, 40, 30];
/// How often the largest output is how sure, by tenths, in thousandths.
const SURE: [u32; 10] = [0, 0, 5, 15, 30, 50, 80, 120, 200, 500];
/// How much the load of the day moves everybody's latency.
const DAILY: f64 = 0.1;

/// What is usual for a device with the first version.
pub fn usual(env: &Env, device: u32, version: u8) -> Usual {
    if version == NONE {
        return Usual::default();
    }
    let hardware = &env.fleet.spec.hardware[env.fleet.hardware(device)];
    let own = 1.0 + 0.15 * env.chance.normal(For::Usual, device, 0);
    Usual {
        windows: 20,
        error_rate: ERRORS,
        p95_us: hardware.p95_us * own.max(0.3),
        rss_bytes: 80e6 * own.max(0.3),
        celsius: Some(hardware.celsius + 5.0 * env.chance.normal(For::Usual, device, 1)),
    }
}

/// One window of a device in which `version` answered, `age` seconds after its switch.
pub fn reading(env: &Env, device: u32, version: u8, age: u32) -> Reading {
    let usual = usual(env, device, version);
    let noise = |salt: u64| env.chance.normal(For::Noise, device, u64::from(env.now) << 4 | salt);
    let by = |kind| defect(env, version, device, kind, age);
    let day = f64::from(env.now % 86_400) / 86_400.0;
    let load = 1.0 + DAILY * (day * std::f64::consts::TAU).sin();
    let error_rate = (usual.error_rate * (1.0 + 0.3 * noise(0)) + by(DefectKind::Errors)).clamp(0.0, 1.0);
    let errors = (error_rate * INFERENCES as f64).round() as u64;
    let wrong = by(DefectKind::Wrong);
    Reading {
        ok: INFERENCES - errors.min(INFERENCES),
        errors,
        p95_us: Some(usual.p95_us * load * (1.0 + by(DefectKind::Latency)) * (1.0 + 0.06 * noise(1)).max(0.2)),
        rss_bytes: usual.rss_bytes * (1.0 + by(DefectKind::Memory)) * (1.0 + 0.03 * noise(2)).max(0.2),
        celsius: usual.celsius.map(|c| c + by(DefectKind::Heat) + noise(3)),
        outputs: spread(env, device, 0, &CLASSES, wrong),
        confidence: spread(env, device, 10, &SURE, by(DefectKind::Unsure)),
        shadow: None,
    }
}

/// One window in which the active version answered and `shadow` ran beside it.
pub fn shadowed(env: &Env, device: u32, active: u8, shadow: u8) -> Reading {
    let wrong = defect(env, shadow, device, DefectKind::Wrong, u32::MAX);
    let noise = env.chance.normal(For::Noise, device, u64::from(env.now) << 4 | 5);
    let agreed = (SHADOWED as f64 * (AGREEMENT - wrong + 0.01 * noise)).round().clamp(0.0, SHADOWED as f64);
    let reading = ShadowReading { compared: SHADOWED, agreed: agreed as u64, ..ShadowReading::default() };
    Reading { shadow: Some(reading), ..self::reading(env, device, active, u32::MAX) }
}

/// How often each bin came, for a good version as `shares` in thousandths have it; `moved` of all are in
/// one bin instead: the last class, or no confidence at all.
fn spread(env: &Env, device: u32, salt: u64, shares: &[u32; 10], moved: f64) -> Vec<u32> {
    let draw = |(i, share): (usize, &u32)| {
        let mean = f64::from(*share) / 1000.0 * INFERENCES as f64 * (1.0 - moved);
        let noise = env.chance.normal(For::Figures, device, u64::from(env.now) << 5 | (salt + i as u64));
        (mean + mean.sqrt() * noise).round().max(0.0) as u32
    };
    let mut bins: Vec<u32> = shares.iter().enumerate().map(draw).collect();
    let at = if salt == 0 { bins.len() - 1 } else { 0 };
    bins[at] += (moved * INFERENCES as f64).round() as u32;
    bins
}

fn defect(env: &Env, version: u8, device: u32, kind: DefectKind, age: u32) -> f64 {
    let defects = env.versions.defects(env.fleet, version, device);
    defects.filter(|d| d.kind == kind && u64::from(age) >= d.after.0).map(|d| d.by).sum()
}
