//! What an inference request takes once it is decoded. A message of two bytes per input becomes a hundred times
//! as much in memory, so it is counted field by field before anything is made of it.

use std::mem::size_of;

use axum::body::Bytes;

use super::super::error::Error;
use super::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

/// An entry of a map of parameters: key, value, and their places in its table.
const ENTRY: usize = 160;
/// Lists grow by doubling.
const SPARE: usize = 2;

/// Bytes in memory for the encoded `ModelInferRequest`.
pub fn request(message: &[u8]) -> Result<usize, Error> {
    sum(message, |field| match field {
        (4, Value::Bytes(inner)) => Ok(ENTRY + inner.len()),
        (5, Value::Bytes(inner)) => Ok(SPARE * size_of::<InferInputTensor>() + input(inner)?),
        (6, Value::Bytes(inner)) => Ok(SPARE * size_of::<InferRequestedOutputTensor>() + output(inner)?),
        (7, Value::Bytes(inner)) => Ok(SPARE * size_of::<Bytes>() + inner.len()),
        (_, value) => Ok(value.length()),
    })
}

fn input(message: &[u8]) -> Result<usize, Error> {
    sum(message, |field| match field {
        (3, value) => Ok(value.numbers() * size_of::<i64>()),
        (4, Value::Bytes(inner)) => Ok(ENTRY + inner.len()),
        (5, Value::Bytes(inner)) => contents(inner),
        (_, value) => Ok(value.length()),
    })
}

fn output(message: &[u8]) -> Result<usize, Error> {
    sum(message, |field| match field {
        (2, Value::Bytes(inner)) => Ok(ENTRY + inner.len()),
        (_, value) => Ok(value.length()),
    })
}

fn contents(message: &[u8]) -> Result<usize, Error> {
    sum(message, |(number, value)| {
        Ok(match (number, value) {
            (1, value) => value.numbers(),
            (2 | 4, value) => value.numbers() * size_of::<u32>(),
            (3 | 5, value) => value.numbers() * size_of::<u64>(),
            (8, Value::Bytes(inner)) => SPARE * size_of::<Bytes>() + inner.len(),
            (_, value) => value.length(),
        })
    })
}

/// A field's value as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value<'a> {
    Number,
    Fixed(usize),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn length(self) -> usize {
        match self {
            Value::Number => size_of::<u64>(),
            Value::Fixed(length) => length,
            Value::Bytes(bytes) => bytes.len(),
        }
    }

    /// How many numbers of variable length it is.
    fn numbers(self) -> usize {
        match self {
            Value::Number | Value::Fixed(_) => 1,
            Value::Bytes(packed) => packed.iter().filter(|byte| **byte < 0x80).count(),
        }
    }
}

fn sum<'a>(mut message: &'a [u8], weigh: impl Fn((u64, Value<'a>)) -> Result<usize, Error>) -> Result<usize, Error> {
    let mut total = 0usize;
    while !message.is_empty() {
        let (field, rest) = field(message).ok_or_else(broken)?;
        total = total.saturating_add(weigh(field)?);
        message = rest;
    }
    Ok(total)
}

fn broken() -> Error {
    Error::BadRequest("the message is no ModelInferRequest".into())
}

type Field<'a> = (u64, Value<'a>);

/// The first field, and what stands behind it. Groups have been out of use since before this protocol.
fn field(message: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = varint(message)?;
    let (value, rest) = match key & 7 {
        0 => (Value::Number, varint(rest)?.1),
        1 => (Value::Fixed(8), rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Value::Bytes(bytes), rest)
        }
        5 => (Value::Fixed(4), rest.get(4..)?),
        _ => return None,
    };
    Some(((key >> 3, value), rest))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::super::proto::{InferTensorContents, ModelInferRequest};
    use super::*;

    fn with(contents: InferTensorContents) -> Vec<u8> {
        let input = InferInputTensor { contents: Some(contents), shape: vec![1, -1], ..Default::default() };
        ModelInferRequest { inputs: vec![input], ..Default::default() }.encode_to_vec()
    }

    #[test]
    fn small_messages_that_grow_are_seen() {
        let one = SPARE * size_of::<InferInputTensor>() + 16;
        let table = [
            (InferTensorContents::default(), 0),
            (InferTensorContents { bool_contents: vec![true; 9], ..Default::default() }, 9),
            (InferTensorContents { int_contents: vec![-1, 5], ..Default::default() }, 8),
            (InferTensorContents { int64_contents: vec![-1, 5], ..Default::default() }, 16),
            (InferTensorContents { uint_contents: vec![300; 3], ..Default::default() }, 12),
            (InferTensorContents { uint64_contents: vec![u64::MAX], ..Default::default() }, 8),
            (InferTensorContents { fp32_contents: vec![1.0; 3], ..Default::default() }, 12),
            (InferTensorContents { fp64_contents: vec![1.0; 3], ..Default::default() }, 24),
            (InferTensorContents { bytes_contents: vec![Bytes::from("ab"); 2], ..Default::default() }, 4 + 128),
        ];
        for (contents, extra) in table {
            assert_eq!(request(&with(contents.clone())).expect("valid"), one + extra, "{contents:?}");
        }
        let many = ModelInferRequest { inputs: vec![InferInputTensor::default(); 1000], ..Default::default() };
        assert!(many.encoded_len() == 2000 && request(&many.encode_to_vec()).expect("valid") > 100_000);
    }

    #[test]
    fn no_message_makes_it_fail() {
        for bad in [&[0x2a, 0xff, 0x01][..], &[0x80], &[0x0b], &[0x2a, 2, 0x2a, 9], &[0xff; 11]] {
            assert!(request(bad).is_err(), "{bad:?}");
        }
        let mut state = 1u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..state % 40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 33) as u8
                })
                .collect();
            state = state.wrapping_add(7);
            // Whatever can be decoded can be weighed.
            assert!(
                request(&bytes).is_ok()
                    || ModelInferRequest::decode(bytes.as_slice()).is_err()
                    || bytes.iter().any(|b| b & 7 >= 3)
            );
        }
    }
}
