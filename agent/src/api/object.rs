//! A struct as a JSON object alone. serde also reads a struct from an array, by the order of its fields, which no
//! protocol here knows.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

/// What stands in an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members(PhantomData))
    }
}

struct Members<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Pair<'a> {
        name: &'a str,
        #[serde(borrow)]
        rest: Option<&'a RawValue>,
    }

    #[test]
    fn an_array_is_no_object() {
        let Object(pair): Object<Pair> =
            serde_json::from_str(r#"{"name": "n", "rest": [1,  2], "more": 3}"#).expect("reads");
        assert_eq!((pair.name, pair.rest.map(RawValue::get)), ("n", Some("[1,  2]")));
        for bad in [r#"["n", [1]]"#, r#""n""#, "null", "{}", r#"{"name": "n", "name": "m"}"#] {
            assert!(serde_json::from_str::<Object<Pair>>(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Pair>(r#"["n", [1]]"#).is_ok(), "serde reads arrays otherwise");
        assert!(serde_json::from_str::<Option<Object<Pair>>>("null").expect("reads").is_none());
    }
}
