//! The small quantities of a plan, written as people write them: `10m`, `95%`, `3`, `2 MiB`.

use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A time span of whole seconds, written `90s`, `10m`, `24h`, `7d`, or several of these: `1h 30m`. A plain number
/// counts seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(pub u64);

/// A share between 0 and 1, written `95%` or `0.95`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Share(pub f64);

/// So many devices, or a share of them: `3` or `5%`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// So many.
    Count(u32),
    /// A share of them.
    Part(Share),
}

/// A number of bytes, written `2 MiB`, `500 kB` or `1048576`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A point of time in seconds since 1970, written as RFC 3339 has it: `2026-12-01T02:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Amount {
    /// How many of `all` that are, rounded up.
    pub fn of(self, all: u32) -> u32 {
        match self {
            Amount::Count(count) => count,
            // Eleven binary digits below the point are kept, so that 10 % of 30 is 3 and not 4.
            Amount::Part(Share(share)) => (share * f64::from(all) - 1e-9).ceil().clamp(0.0, f64::from(all)) as u32,
        }
    }
}

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut first = true;
        for (unit, seconds) in UNITS {
            if rest / seconds > 0 || (seconds == 1 && first) {
                write!(f, "{}{}{unit}", if first { "" } else { " " }, rest / seconds)?;
                first = false;
                rest %= seconds;
            }
            if rest == 0 && !first {
                break;
            }
        }
        Ok(())
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a time span such as 90s, 15m, 24h, 7d or 1h 30m");
        if let Ok(seconds) = text.trim().parse() {
            return Ok(Span(seconds));
        }
        let (mut total, mut number, mut any) = (0u64, String::new(), false);
        for c in text.trim().chars() {
            match UNITS.iter().find(|(unit, _)| *unit == c) {
                _ if c.is_ascii_digit() => number.push(c),
                _ if c == ' ' && number.is_empty() => {}
                Some((_, seconds)) => {
                    let count: u64 = std::mem::take(&mut number).parse().map_err(|_| wrong())?;
                    total = count.checked_mul(*seconds).and_then(|s| total.checked_add(s)).ok_or_else(wrong)?;
                    any = true;
                }
                None => return Err(wrong()),
            }
        }
        if any && number.is_empty() { Ok(Span(total)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", (self.0 * 1e8).round() / 1e6)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a share such as 95% or 0.95");
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
        let share = match text.trim().strip_suffix('%') {
            Some(percent) => number(percent)? / 100.0,
            None => number(text)?,
        };
        if (0.0..=1.0).contains(&share) { Ok(Share(share)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Count(count) => count.fmt(f),
            Amount::Part(share) => share.fmt(f),
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim().ends_with('%') {
            return Ok(Amount::Part(text.parse()?));
        }
        let count = text.trim().parse();
        count.map(Amount::Count).map_err(|_| format!("{text:?} is neither a number of devices nor a share such as 5%"))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, size) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
            if self.0 >= size && self.0.is_multiple_of(size) {
                return write!(f, "{} {unit}", self.0 / size);
            }
        }
        self.0.fmt(f)
    }
}

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a number of bytes such as 500 kB, 2 MiB or 1048576");
        let digits = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
        let factor = match text.trim()[digits.len()..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).map(Bytes).ok_or_else(wrong)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|s| jiff::Timestamp::from_second(s).ok()) {
            Some(time) => time.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

impl FromStr for Instant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time: jiff::Timestamp = text
            .trim()
            .parse()
            .map_err(|_| format!("{text:?} is not a time such as 2026-12-01T02:00:00Z or 2026-12-01T03:00:00+01:00"))?;
        Ok(Instant(time.as_second().max(0) as u64))
    }
}

/// Serde by text; `$number` takes a bare number as well.
macro_rules! by_text {
    ($type:ident, $what:literal, $number:expr) => {
        impl ToSchema for $type {}

        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let types = SchemaType::Array(vec![Type::String, Type::Number]);
                ObjectBuilder::new().schema_type(types).description(Some($what)).build().into()
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$type, E> {
                        let number: Option<$type> = ($number)(number as f64);
                        number.ok_or_else(|| E::custom(format!("{} is too large for {}", stringify!(number), $what)))
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$type, E> {
                        match u64::try_from(number) {
                            Ok(number) => self.visit_u64(number),
                            Err(_) => Err(E::custom(format!("{number} is not {}", $what))),
                        }
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$type, E> {
                        number.to_string().parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
    };
}

by_text!(Span, "a time span such as 10m", |n: f64| Some(Span(n as u64)));
by_text!(Share, "a share such as 95%", |n: f64| (n <= 1.0).then_some(Share(n)));
by_text!(Amount, "a number of devices or a share such as 5%", |n: f64| (n <= f64::from(u32::MAX))
    .then_some(Amount::Count(n as u32)));
by_text!(Bytes, "a number of bytes such as 2 MiB", |n: f64| Some(Bytes(n as u64)));
by_text!(Instant, "a time such as 2026-12-01T02:00:00Z", |n: f64| Some(Instant(n as u64)));

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: FromStr<Err = String> + fmt::Display>(text: &str) -> Result<String, String> {
        text.parse::<T>().map(|value| value.to_string())
    }

    #[test]
    fn quantities_are_read_and_written_as_people_do() {
        let spans =
            [("90s", "1m 30s"), ("10m", "10m"), ("36h", "1d 12h"), ("1h 30m", "1h 30m"), ("0", "0s"), ("45", "45s")];
        for (text, want) in spans {
            assert_eq!(round::<Span>(text).as_deref(), Ok(want), "{text}");
        }
        for (text, want) in [("95%", "95%"), ("0.95", "95%"), ("0.1%", "0.1%"), ("1", "100%"), ("33.3%", "33.3%")] {
            assert_eq!(round::<Share>(text).as_deref(), Ok(want), "{text}");
        }
        for (text, want) in [("3", "3"), ("5%", "5%")] {
            assert_eq!(round::<Amount>(text).as_deref(), Ok(want), "{text}");
        }
        for (text, want) in [("2 MiB", "2 MiB"), ("2mib", "2 MiB"), ("500 kB", "500000"), ("12", "12")] {
            assert_eq!(round::<Bytes>(text).as_deref(), Ok(want), "{text}");
        }
        assert_eq!(round::<Instant>("2026-12-01T03:00:00+01:00").as_deref(), Ok("2026-12-01T02:00:00Z"));
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "m", "10", "10x", "1.5h", "m10", "99999999999999999999d"] {
            let refused = text.parse::<Span>();
            assert!(text == "10" || refused.is_err_and(|e| e.contains("90s")), "{text}");
        }
        for text in ["101%", "-1%", "NaN", "2", ""] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        for text in ["-1", "1.5", "x%"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_of_devices_are_rounded_up_and_never_beyond_all() {
        let part = |percent: f64| Amount::Part(Share(percent / 100.0));
        for (amount, all, want) in [
            (part(10.0), 30, 3),
            (part(10.0), 31, 4),
            (part(1.0), 5, 1),
            (part(100.0), 7, 7),
            (part(0.0), 9, 0),
            (Amount::Count(5), 3, 5),
        ] {
            assert_eq!(amount.of(all), want, "{amount} of {all}");
        }
    }

    #[test]
    fn json_takes_numbers_as_well() {
        let span: Span = serde_json::from_str("600").expect("seconds");
        assert_eq!(span, Span(600));
        assert_eq!(serde_json::to_string(&span).expect("text"), "\"10m\"");
        assert_eq!(serde_json::from_str::<Amount>("3").expect("count"), Amount::Count(3));
        assert!(serde_json::from_str::<Share>("95").is_err());
        assert!(serde_json::from_str::<Span>("-1").is_err());
    }
}
