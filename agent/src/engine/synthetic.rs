//! Made-up inputs, the same on every machine, for models that are registered without golden samples.

use std::collections::BTreeMap;

use muster_proto::manifest::{Dim, Dtype, Tensor, TensorSpec};
use tract_onnx::tract_core::internal::tract_data::half::f16;

use super::model::{Error, describe};

/// The most bytes of one made-up input.
const MAX_BYTES: u64 = 1 << 30;
/// The size of a dimension that may be any, other than the leading one.
const ANY: u64 = 16;
/// The same for height and width: nets that halve an image several times need some pixels.
const ANY_IMAGE: u64 = 64;

/// Pseudo-random inputs that fit `specs`: floats from 0 up to 1, whole numbers 0 or 1. A leading
/// dimension of any size is 1, others are 16, or 64 in tensors of rank 4. Fails with
/// [`Error::InputInvalid`] where an input would be over 1 GiB.
pub fn synthetic_inputs(specs: &[TensorSpec], seed: u64) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for spec in specs {
        let any = if spec.shape.len() == 4 { ANY_IMAGE } else { ANY };
        for (axis, dim) in spec.shape.iter().enumerate() {
            if let Dim::Symbol(name) = dim {
                sizes.entry(name).or_insert(if axis == 0 { 1 } else { any });
            }
        }
    }
    let mut random = Xorshift::new(seed);
    specs.iter().map(|spec| Ok((spec.name.clone(), made_up(spec, &sizes, &mut random)?))).collect()
}

fn made_up(spec: &TensorSpec, sizes: &BTreeMap<&str, u64>, random: &mut Xorshift) -> Result<Tensor, Error> {
    let too_large = || Error::InputInvalid {
        name: spec.name.clone(),
        wanted: describe(spec),
        got: format!("no made-up input, because it would be over {MAX_BYTES} bytes: give golden samples"),
    };
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(name) => sizes.get(name.as_str()).copied().unwrap_or(1),
    };
    let shape: Vec<u64> = spec.shape.iter().map(size).collect();
    let bytes = shape.iter().try_fold(spec.dtype.size() as u64, |product, dim| product.checked_mul(*dim));
    let bytes = bytes.filter(|bytes| *bytes <= MAX_BYTES).ok_or_else(too_large)?;
    let mut data = Vec::with_capacity(bytes as usize);
    for _ in 0..bytes / spec.dtype.size() as u64 {
        push_element(spec.dtype, random.next(), &mut data);
    }
    Tensor::new(spec.dtype, shape, data).map_err(|_| too_large())
}

fn push_element(dtype: Dtype, random: u64, data: &mut Vec<u8>) {
    // 24 bits are what an f32 holds, so that every float dtype rounds the same value.
    let fraction = (random >> 40) as f32 / (1u32 << 24) as f32;
    match dtype {
        Dtype::F16 => data.extend(f16::from_f32(fraction).to_le_bytes()),
        Dtype::F32 => data.extend(fraction.to_le_bytes()),
        Dtype::F64 => data.extend(f64::from(fraction).to_le_bytes()),
        _ => {
            data.push((random >> 63) as u8);
            data.resize(data.len() + dtype.size() - 1, 0);
        }
    }
}

/// xorshift64* (S. Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled").
struct Xorshift(u64);

impl Xorshift {
    /// The state must not be 0; seeds that are near one another are spread by an odd constant.
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dtype: Dtype, shape: Vec<Dim>) -> TensorSpec {
        TensorSpec { name: "x".into(), dtype, shape }
    }

    #[test]
    fn made_up_inputs_are_the_same_everywhere_and_differ_by_seed() {
        let specs = [spec(Dtype::F32, vec![Dim::Symbol("N".into()), Dim::Fixed(3)])];
        let once = synthetic_inputs(&specs, 7).expect("small");
        assert_eq!(once, synthetic_inputs(&specs, 7).expect("small"));
        assert_ne!(once, synthetic_inputs(&specs, 8).expect("small"));
        // Written down, so that a device of any kind can be held against it.
        assert_eq!(once["x"].to_f64(), [0.9799484610557556, 0.5404842495918274, 0.9710838794708252]);
    }

    #[test]
    fn values_are_in_range_for_every_dtype() {
        for dtype in Dtype::ALL {
            let made = synthetic_inputs(&[spec(*dtype, vec![Dim::Fixed(50)])], 1).expect("small");
            let values = made["x"].to_f64();
            assert!(values.iter().all(|v| (0.0..=1.0).contains(v)), "{dtype}: {values:?}");
            assert!(values.iter().any(|v| *v != values[0]), "{dtype}: {values:?}");
        }
    }

    #[test]
    fn symbols_get_one_size_each_and_huge_inputs_are_refused() {
        let symbol = |name: &str| Dim::Symbol(name.into());
        let mut a = spec(Dtype::I64, vec![symbol("N"), symbol("L")]);
        a.name = "a".into();
        let b = spec(Dtype::F32, vec![symbol("N"), symbol("L"), symbol("H"), symbol("H")]);
        let made = synthetic_inputs(&[a, b], 0).expect("small");
        assert_eq!((made["a"].shape(), made["x"].shape()), (&[1, 16][..], &[1, 16, 64, 64][..]));
        let huge = spec(Dtype::F32, vec![Dim::Fixed(1 << 40), Dim::Fixed(1 << 40)]);
        assert!(matches!(synthetic_inputs(&[huge], 0), Err(Error::InputInvalid { .. })));
    }
}
