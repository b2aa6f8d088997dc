//! Canonical JSON as TUF signs it: OLPC's, in the way of securesystemslib. Keys are sorted by code
//! point, only `"` and `\` are escaped, there is no white space, and text is not normalised.
//!
//! The crate olpc-cjson is not used because it normalises text (NFC), so that metadata with other
//! text than ASCII would verify in python-tuf and not here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// JSON that has a canonical form: no fractions, and no key twice in one object.
///
/// A key that stands twice is refused because two readers may pick different ones, and then what was
/// signed is not what is used.
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Text(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(BTreeMap<Cow<'a, str>, Value<'a>>),
}

impl Value<'_> {
    /// The canonical bytes.
    pub(super) fn canonical(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Value::Text(text) => write_text(text, out),
            Value::Array(items) => {
                out.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    item.write(out);
                }
                out.push(b']');
            }
            Value::Object(entries) => {
                out.push(b'{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_text(key, out);
                    out.push(b':');
                    value.write(out);
                }
                out.push(b'}');
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor(PhantomData))
    }
}

struct ValueVisitor<'a>(PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for ValueVisitor<'a> {
    type Value = Value<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without fractions")
    }

    fn visit_unit<E>(self) -> Result<Value<'a>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'a>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'a>, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'a>, E> {
        Ok(Value::Int(value.into()))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Value<'a>, E> {
        Ok(Value::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value<'a>, E> {
        Ok(Value::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value<'a>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value<'a>, A::Error> {
        let mut entries = BTreeMap::new();
        while let Some(Value::Text(key)) = map.next_key::<Value<'a>>()? {
            let value = map.next_value()?;
            if entries.contains_key(&key) {
                return Err(serde::de::Error::custom(format_args!("key {key:?} stands twice")));
            }
            entries.insert(key, value);
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Option<String> {
        let value: Value<'_> = serde_json::from_str(text).ok()?;
        Some(String::from_utf8(value.canonical()).expect("utf-8"))
    }

    // The right-hand sides are what securesystemslib.formats.encode_canonical gives.
    #[test]
    fn canonical_form_is_that_of_securesystemslib() {
        let table = [
            (r#"{"b": 1, "a" : [ true , null, -7 ]}"#, r#"{"a":[true,null,-7],"b":1}"#),
            (r#""quote \" slash \/ back \\ tab \t""#, "\"quote \\\" slash / back \\\\ tab \t\""),
            (r#"{"\ud83d\ude00":1,"\uffee":2,"a":3}"#, "{\"a\":3,\"\u{ffee}\":2,\"\u{1f600}\":1}"),
            ("\"e\\u0301 \u{e9} \\u007f\"", "\"e\u{301} \u{e9} \u{7f}\""),
            (r#"{"\u0061":18446744073709551615}"#, r#"{"a":18446744073709551615}"#),
            ("[[],{},\"\"]", "[[],{},\"\"]"),
        ];
        for (from, to) in table {
            assert_eq!(canonical(from).as_deref(), Some(to), "{from}");
        }
    }

    #[test]
    fn what_has_no_canonical_form_is_refused() {
        let deep = "[".repeat(100_000);
        for bad in [
            "1.5",
            "1.0",
            "1e3",
            "-0.0",
            "99999999999999999999",
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"[{"x":{"k":1,"k":2}}]"#,
            r#""\ud800""#,
            "",
            "{} {}",
            "NaN",
            &deep,
        ] {
            assert_eq!(canonical(bad), None, "{:.40} was accepted", bad);
        }
    }
}
