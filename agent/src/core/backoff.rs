//! When to try again: exponential, capped, with a jitter that differs from device to device.

use muster_proto::id::Digest;

/// The first pause in milliseconds.
const BASE_MS: u64 = 2_000;
/// The longest pause in milliseconds.
const CAP_MS: u64 = 10 * 60 * 1000;

/// The pause before attempt `attempt` (1, 2, …) in milliseconds: between half and all of an exponential
/// that is capped at ten minutes. `seed` takes the place of randomness, so that a fleet spreads out and
/// a test repeats.
pub fn delay_ms(attempt: u32, seed: &str) -> u64 {
    let full = BASE_MS.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(CAP_MS);
    let digest = Digest::of(format!("{seed}/{attempt}").as_bytes());
    let fraction = u64::from(u16::from_le_bytes([digest.0[0], digest.0[1]]));
    full / 2 + (full / 2) * fraction / u64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_cap_and_differ() {
        for attempt in 1..40 {
            let pause = delay_ms(attempt, "pi");
            assert!((BASE_MS / 2..=CAP_MS).contains(&pause), "attempt {attempt}: {pause}");
        }
        assert!(delay_ms(8, "pi") > delay_ms(1, "pi"));
        assert_ne!(delay_ms(5, "pi"), delay_ms(5, "pj"));
        assert_eq!(delay_ms(5, "pi"), delay_ms(5, "pi"));
    }
}
