//! Compares a script's answer with the recorded one.

use muster_proto::manifest::Tolerance;
use serde_json::Value;

use super::Difference;

/// The longest part of a value that a message holds, in characters.
const MAX_QUOTE: usize = 60;

/// Compares two JSON values. Numbers with a fraction on either side may differ as floats of an output may; everything
/// else has to be equal.
pub(super) fn compare(want: &Value, got: &Value, tolerance: Tolerance) -> Result<(), Difference> {
    at(&mut String::new(), want, got, tolerance)
}

fn at(place: &mut String, want: &Value, got: &Value, tolerance: Tolerance) -> Result<(), Difference> {
    let equal = match (want, got) {
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            let mut pairs = want.iter().zip(got).enumerate();
            return pairs.try_for_each(|(index, (want, got))| below(place, &index.to_string(), want, got, tolerance));
        }
        (Value::Object(want), Value::Object(got)) if want.keys().eq(got.keys()) => {
            let mut pairs = want.iter().zip(got.values());
            return pairs.try_for_each(|((key, want), got)| below(place, key, want, got, tolerance));
        }
        (Value::Number(want), Value::Number(got)) if want.is_f64() || got.is_f64() => {
            let (want, got) = (want.as_f64().unwrap_or(f64::NAN), got.as_f64().unwrap_or(f64::NAN));
            (got - want).abs() <= f64::from(tolerance.absolute) + f64::from(tolerance.relative) * want.abs()
        }
        (want, got) => want == got,
    };
    let quote = |value: &Value| value.to_string().chars().take(MAX_QUOTE).collect();
    if equal { Ok(()) } else { Err(Difference::Answer { at: place.clone(), want: quote(want), got: quote(got) }) }
}

fn below(place: &mut String, key: &str, want: &Value, got: &Value, tolerance: Tolerance) -> Result<(), Difference> {
    let length = place.len();
    place.push('/');
    place.push_str(&key.replace('~', "~0").replace('/', "~1"));
    let found = at(place, want, got, tolerance);
    place.truncate(length);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_may_differ_a_little_and_nothing_else() {
        let tolerance = Tolerance { absolute: 0.01, relative: 0.0 };
        let same = |want: Value, got: Value| compare(&want, &got, tolerance).is_ok();
        assert!(same(json!({"a": [1, 0.5, "x"]}), json!({"a": [1, 0.505, "x"]})));
        assert!(same(json!(1), json!(1.0)));
        for (want, got) in [
            (json!(7), json!(8)),
            (json!(0.5), json!(0.6)),
            (json!(0.5), json!(null)),
            (json!([1]), json!([1, 2])),
            (json!({"a": 1}), json!({"b": 1})),
            (json!("x"), json!("y")),
        ] {
            assert!(!same(want.clone(), got.clone()), "{want} {got}");
        }
        let found = compare(&json!({"a/b": [0, 1]}), &json!({"a/b": [0, 2]}), tolerance);
        assert_eq!(found, Err(Difference::Answer { at: "/a~1b/1".into(), want: "1".into(), got: "2".into() }));
    }
}
