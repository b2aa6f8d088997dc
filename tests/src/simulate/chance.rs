//! Chance without a state: a draw is a hash of the seed, of whom it is for and of what it is for, so that it does not
//! depend on the order in which anything happens.

/// What a draw is for; two draws for the same device and purpose are the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum For {
    Hardware = 1,
    Site,
    Pattern,
    Phase,
    Link,
    Empty,
    Clock,
    Zone,
    Disk,
    Veto,
    Defect,
    Figures,
    Usual,
    Noise,
    Loss,
    Delay,
    Double,
    Power,
    Corrupt,
    Control,
    Replay,
    Crash,
    Root,
    Join,
    Takeover,
    Cut,
}

/// The source of all draws of one world.
#[derive(Debug, Clone, Copy)]
pub struct Chance(u64);

impl Chance {
    /// The draws of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed ^ 0x6d75_7374_6572))
    }

    /// A number that `what`, `device` and `salt` determine.
    pub fn draw(&self, what: For, device: u32, salt: u64) -> u64 {
        mix(self.0 ^ mix((what as u64) << 56 ^ u64::from(device) ^ mix(salt)))
    }

    /// The same as a number from 0 to below 1.
    pub fn unit(&self, what: For, device: u32, salt: u64) -> f64 {
        (self.draw(what, device, salt) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `end`; 0 where `end` is 0.
    pub fn below(&self, what: For, device: u32, salt: u64, end: u64) -> u64 {
        self.draw(what, device, salt) % end.max(1)
    }

    /// True with the chance `share`.
    pub fn is(&self, what: For, device: u32, salt: u64, share: f64) -> bool {
        share > 0.0 && self.unit(what, device, salt) < share
    }

    /// About normally distributed with mean 0 and deviation 1: the sum of four even draws.
    pub fn normal(&self, what: For, device: u32, salt: u64) -> f64 {
        let bits = self.draw(what, device, salt);
        let sum: f64 = (0..4).map(|i| ((bits >> (16 * i)) & 0xffff) as f64 / 65536.0).sum();
        (sum - 2.0) * 3f64.sqrt()
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
