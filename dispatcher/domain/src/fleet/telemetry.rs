//! What devices measure, handed to the rollouts that it says something of.

use muster_proto::id::{DeviceId, Digest};
use muster_proto::report::{SlotWindow2, TelemetryWindow, latency_quantile_us};

use super::{Effect, Turn};
use crate::rollout::evidence::{Reading, ShadowReading};
use crate::rollout::{self, DevicePhase};

impl Turn<'_> {
    /// Hands a window's figures to the rollouts of each slot, and learns what is usual.
    pub(super) fn measured(&mut self, device: &DeviceId, window: &TelemetryWindow) {
        let fleet = &mut *self.fleet;
        let Some(record) = fleet.devices.get_mut(device) else { return };
        let mut lasting = false;
        for sketched in &window.slots {
            let slot = &sketched.window;
            for rollout in fleet.rollouts.values().filter(|r| r.slot == slot.slot && r.status.is_open()) {
                // Who has another rollout's version, or is on the way back, is no example of the version before.
                use DevicePhase::{Excluded, Recalled, Recalling, Superseded};
                let phase = rollout.parts.get(device).map(|part| part.phase);
                if matches!(phase, None | Some(Excluded | Recalled | Recalling | Superseded)) {
                    continue;
                }
                let of_this = slot.digest == rollout.digest;
                let usual = match of_this {
                    true => record.usual_before(&slot.slot, slot.digest),
                    false => record.usual_of(&slot.slot, slot.digest),
                };
                let reading = Box::new(reading(window, sketched, rollout.digest));
                let event = rollout::Event::Measured { device: device.clone(), of_this, reading, usual };
                self.queue.push_back((rollout.id, event));
            }
            lasting |= record.learn(&slot.slot, slot.digest, &reading(window, sketched, slot.digest));
        }
        if lasting {
            self.effects.push(Effect::SaveDevice(device.clone()));
        }
    }
}

/// A slot's figures, with what a shadow of `digest` did beside it.
fn reading(window: &TelemetryWindow, sketched: &SlotWindow2, digest: Digest) -> Reading {
    let (slot, vitals) = (&sketched.window, &window.vitals);
    let shadow = window.shadows.iter().find(|shadow| shadow.slot == slot.slot && shadow.digest == digest);
    Reading {
        ok: slot.ok,
        errors: slot.errors,
        p95_us: latency_quantile_us(&slot.latency, 0.95).map(|us| us as f64),
        rss_bytes: vitals.rss_bytes as f64,
        celsius: vitals.temperature_millicelsius.map(|t| f64::from(t) / 1000.0),
        outputs: sketched.outputs.top1.clone(),
        confidence: sketched.outputs.confidence.clone(),
        shadow: shadow.map(|shadow| ShadowReading {
            compared: shadow.compared,
            agreed: shadow.agreed,
            failed: shadow.failed,
            skipped: shadow.skipped,
            confidence_shift: shadow.confidence_shift.iter().map(|n| u64::from(*n)).collect(),
            latency: shadow.latency.clone(),
        }),
    }
}
