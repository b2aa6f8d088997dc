//! Gates in words.

use super::{Gate, GateReading};
use crate::rollout::units::Share;

impl GateReading {
    /// The gate with its numbers, for people: `failures 20% of 10 started, at most 5%`.
    pub fn describe(&self) -> String {
        let percent = |value: f64| Share((value * 1e4).round() / 1e4).to_string();
        let signed = |value: f64| format!("{:+.1}%", value * 100.0);
        let GateReading { gate, value, limit, n, needed, .. } = self;
        let text = |show: &dyn Fn(f64) -> String| value.map_or_else(|| "unknown".to_owned(), show);
        let counted = if n < needed { format!("{n} of {needed} readings") } else { format!("{n} readings") };
        match gate {
            Gate::Success => format!("success {} of {n} decided, at least {}", text(&percent), percent(*limit)),
            Gate::Failures if *needed == 0 => format!("{} failed, at most {limit}", text(&|v| v.to_string())),
            Gate::Failures => format!("failures {} of {n} started, at most {}", text(&percent), percent(*limit)),
            Gate::Silence => format!("silence {} of {n} started, at most {}", text(&percent), percent(*limit)),
            Gate::ErrorRate => format!("error rate {} points in {counted}, at most {}", text(&signed), signed(*limit)),
            Gate::P95 => format!("p95 latency {} in {counted}, at most {}", text(&signed), signed(*limit)),
            Gate::Memory => format!("memory {} in {counted}, at most {}", text(&signed), signed(*limit)),
            Gate::Temperature => {
                format!("temperature {} °C in {counted}, at most +{limit}", text(&|v| format!("{v:+.1}")))
            }
            Gate::Drift => format!("drift {} over {n} outputs, at most {limit}", text(&|v| format!("{v:.3}"))),
            Gate::Confidence => {
                let fell = text(&|v| format!("{:+.1}%", -v * 100.0));
                format!("confidence {fell} over {n} outputs, at most {:+.1}%", -limit * 100.0)
            }
            Gate::Agreement => {
                format!("agreement {} of {n} shadowed inferences, at least {}", text(&percent), percent(*limit))
            }
        }
    }
}
