//! Whole numbers as JSON Schema has them: `8.0` is one, which some languages write for 8, and which serde refuses.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// A whole number in the range of `T`. One with a fraction of zero is exact up to 2⁵³.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<T>(pub T);

impl<'de, T: TryFrom<i64> + TryFrom<u64>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Number(PhantomData))
    }
}

struct Number<T>(PhantomData<T>);

impl<T: TryFrom<i64> + TryFrom<u64>> Visitor<'_> for Number<T> {
    type Value = Whole<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        T::try_from(value).map(Whole).map_err(|_| E::custom(format_args!("{value} is out of range")))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        T::try_from(value).map(Whole).map_err(|_| E::custom(format_args!("{value} is out of range")))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        match value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
            true => self.visit_i64(value as i64),
            false => Err(E::custom(format_args!("{value} is no whole number"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_may_have_a_fraction_of_zero() {
        let table = [
            ("8", Some(8)),
            ("8.0", Some(8)),
            ("1e2", Some(100)),
            ("-0.0", Some(0)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("-1", None),
            ("8.5", None),
            ("1e300", None),
            ("18446744073709551616", None),
            ("\"8\"", None),
            ("true", None),
            ("[8]", None),
        ];
        for (text, want) in table {
            assert_eq!(serde_json::from_str::<Whole<u32>>(text).ok().map(|Whole(value)| value), want, "{text}");
        }
        let exact: Whole<u64> = serde_json::from_str("18446744073709551615").expect("reads");
        assert_eq!(exact, Whole(u64::MAX));
    }
}
