use super::testing::{Key, Publisher, role_keys, sign};
use super::*;
use crate::desired::Desired;
use crate::id::{Digest, Generation};

mod director;
mod fuzz;
mod keys;
mod repository;
mod roots;

/// When the test documents expire.
const EXPIRES: u64 = 2_000_000_000;

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, what: &str) -> Error {
    match result {
        Ok(value) => panic!("{what} was accepted: {value:?}"),
        Err(error) => error,
    }
}

fn version(number: u64) -> std::num::NonZeroU64 {
    std::num::NonZeroU64::new(number).expect("versions begin at 1")
}
