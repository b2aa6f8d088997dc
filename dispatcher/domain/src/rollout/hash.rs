//! The order in which a rollout comes to its devices.

/// The offset basis of FNV-1a with 64 bits.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
/// The prime of FNV-1a with 64 bits.
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The rank of `device` in the rollout salted with `rollout_salt`: lower comes first. The salt differs from rollout to
/// rollout, so that it is not always the same devices that are canaries.
///
/// Stable for ever and the same in any language: FNV-1a with 64 bits over the salt's eight bytes, least significant
/// first, then over the bytes of the name in UTF-8, without terminator; then the finaliser of MurmurHash3 (`fmix64`).
/// All arithmetic is modulo 2^64.
///
/// ```text
/// h = 0xcbf29ce484222325
/// for each byte b:  h = (h xor b) * 0x100000001b3
/// h = (h xor (h >> 33)) * 0xff51afd7ed558ccd
/// h = (h xor (h >> 33)) * 0xc4ceb9fe1a85ec53
/// h =  h xor (h >> 33)
/// ```
///
/// `rank(0, "gw-00001")` is `0x5f70a7e121fd21f2`. Two devices of one rollout may share a rank (one pair in 2^64): order by
/// `(rank, name)`. It spreads devices evenly and is no defence against someone who chooses names to come late.
pub fn rank(rollout_salt: u64, device: &str) -> u64 {
    let salt = rollout_salt.to_le_bytes();
    let bytes = salt.iter().chain(device.as_bytes());
    let fnv = bytes.fold(FNV_OFFSET, |h, byte| (h ^ u64::from(*byte)).wrapping_mul(FNV_PRIME));
    finalise(fnv)
}

/// FNV alone hardly moves the upper bits for names that differ in their last letter only.
fn finalise(mut h: u64) -> u64 {
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::rank;

    const DEVICES: u64 = 64_000;

    fn name(number: u64) -> String {
        format!("gw-{number:05}")
    }

    /// Chi-square of `counts` against an even spread.
    fn chi_square(counts: &[u64]) -> f64 {
        let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        counts.iter().map(|count| (*count as f64 - expected).powi(2) / expected).sum()
    }

    #[test]
    fn ranks_are_those_of_the_specification() {
        // From a Python version written after the doc comment.
        for (salt, device, wanted) in [
            (0, "", 0x7bd3_144f_29c0_cc9e),
            (0, "gw-00001", 0x5f70_a7e1_21fd_21f2),
            (1, "gw-00001", 0x202e_e393_48df_4cab),
            (1, "gw-00002", 0xbcb7_4bda_fad7_9ec1),
            (0x102030405060708, "kasse-münchen", 0x8c57_0525_3d85_6fa5),
            (u64::MAX, "a.b_c-9", 0x86f3_d14c_f78b_3e07),
        ] {
            assert_eq!(rank(salt, device), wanted, "rank({salt}, {device:?})");
        }
    }

    #[test]
    fn sequential_names_spread_evenly() {
        // 63 degrees of freedom: above 103.4 one time in a thousand; the names are fixed, so it never flickers.
        for salt in [0, 1, 2, 17, u64::MAX] {
            let (mut high, mut low) = ([0; 64], [0; 64]);
            for number in 0..DEVICES {
                let rank = rank(salt, &name(number));
                high[(rank >> 58) as usize] += 1;
                low[(rank & 63) as usize] += 1;
            }
            assert!(chi_square(&high) < 103.4, "salt {salt}, upper bits: {}", chi_square(&high));
            assert!(chi_square(&low) < 103.4, "salt {salt}, lower bits: {}", chi_square(&low));
        }
    }

    #[test]
    fn two_salts_order_independently() {
        // An 8 by 8 table of the eighths that a device is in under either salt: each cell gets a 64th of them.
        for (one, other) in [(1, 2), (0, 1 << 63), (7, 8), (256, 257)] {
            let mut table = [0; 64];
            for number in 0..DEVICES {
                let name = name(number);
                table[(rank(one, &name) >> 61 << 3 | rank(other, &name) >> 61) as usize] += 1;
            }
            assert!(chi_square(&table) < 103.4, "salts {one} and {other}: {}", chi_square(&table));
        }
    }

    #[test]
    fn other_salt_other_canaries() {
        let canaries = |salt| {
            let mut all: Vec<_> = (0..1000).map(|n| (rank(salt, &name(n)), n)).collect();
            all.sort_unstable();
            all.into_iter().take(50).map(|(_, n)| n).collect::<std::collections::BTreeSet<_>>()
        };
        // 50 of 1,000 twice: 2.5 in common on average.
        assert!(canaries(1).intersection(&canaries(2)).count() <= 8);
    }
}
