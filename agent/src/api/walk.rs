//! One level of a JSON array or object at a time, as text: a tree of values would take up to sixteen
//! times the text.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Hands each item of an array to `take`; its error, a sentence, ends the walk.
pub fn items<'a>(raw: &'a RawValue, take: impl FnMut(&'a RawValue) -> Result<(), String>) -> Result<(), String> {
    let mut fault = None;
    let walk = Walk { take: Items(take), fault: &mut fault, raw: PhantomData };
    let walked = serde_json::Deserializer::from_str(raw.get()).deserialize_seq(walk);
    fault.map_or(walked.map_err(|_| "an array is wanted".to_owned()), Err)
}

/// Hands each member of an object to `take`, in the order in which they stand.
pub fn members<'a>(
    raw: &'a RawValue,
    take: impl FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), String>,
) -> Result<(), String> {
    let mut fault = None;
    let walk = Walk { take: Members(take), fault: &mut fault, raw: PhantomData };
    let walked = serde_json::Deserializer::from_str(raw.get()).deserialize_map(walk);
    fault.map_or(walked.map_err(|_| "an object is wanted".to_owned()), Err)
}

/// A text of JSON without a copy where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Items<F>(F);
struct Members<F>(F);

struct Walk<'f, 'a, T> {
    take: T,
    /// What ended the walk, apart from what serde_json would write around it.
    fault: &'f mut Option<String>,
    raw: PhantomData<&'a RawValue>,
}

impl<'a, F: FnMut(&'a RawValue) -> Result<(), String>> Visitor<'a> for Walk<'_, 'a, Items<F>> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut items: A) -> Result<(), A::Error> {
        while let Some(item) = items.next_element::<&RawValue>()? {
            if let Err(text) = (self.take.0)(item) {
                *self.fault = Some(text);
                return Err(A::Error::custom("ended"));
            }
        }
        Ok(())
    }
}

impl<'a, F: FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), String>> Visitor<'a> for Walk<'_, 'a, Members<F>> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut members: A) -> Result<(), A::Error> {
        while let Some((Text(name), value)) = members.next_entry::<Text, &RawValue>()? {
            if let Err(text) = (self.take.0)(name, value) {
                *self.fault = Some(text);
                return Err(A::Error::custom("ended"));
            }
        }
        Ok(())
    }
}
