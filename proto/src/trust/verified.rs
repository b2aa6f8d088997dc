use std::ops::Deref;

use crate::id::Digest;

/// A value whose signature and digest have been checked. Only `trust` can make one, so that a function
/// that takes it cannot be given anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(super) fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, no longer marked as verified.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A target that director and model repository agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRef {
    /// The target's path, e.g. `vision/digits/2/manifest`.
    pub path: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub length: u64,
}
