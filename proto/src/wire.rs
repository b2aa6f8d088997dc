//! The versioned postcard encoding of everything but signed JSON metadata, with size caps.
//!
//! Every message is an enum whose variants are only ever appended, so that its first byte tells the
//! version. A first byte beyond the variants that this build knows is a message from the future.
//!
//! ```
//! use muster_proto::wire::{self, Message};
//! use muster_proto::transfer::Ack;
//!
//! let ack = Ack::V1 { ids: vec![7, 9] };
//! let bytes = wire::encode(&ack).unwrap();
//! assert_eq!(wire::decode::<Ack>(&bytes).unwrap(), ack);
//! assert!(matches!(wire::decode::<Ack>(&[200]), Err(wire::Error::FromTheFuture { variant: 200, .. })));
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::code::Code;

/// The largest payload of any MQTT message: 64 KiB and room for the header.
pub const MAX_MESSAGE: usize = 64 * 1024 + 2048;

/// A type that travels as one message.
pub trait Message: Serialize + DeserializeOwned {
    /// Its name in errors.
    const NAME: &'static str;
    /// How many variants this build knows.
    const VARIANTS: u8;
    /// The most bytes that are decoded or sent.
    const MAX_BYTES: usize = MAX_MESSAGE;
}

/// Why bytes are not a message. Retrying with the same bytes cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More bytes than the cap of this message.
    #[error("{name} message of {bytes} bytes is over its limit of {limit}")]
    TooLarge {
        /// The message's name.
        name: &'static str,
        /// Its size in bytes.
        bytes: usize,
        /// The cap in bytes.
        limit: usize,
    },
    /// A variant that this build does not know.
    #[error("{name} message has version {variant}, this build knows {known}: update the older side")]
    FromTheFuture {
        /// The message's name.
        name: &'static str,
        /// The variant's number.
        variant: u8,
        /// How many variants this build knows.
        known: u8,
    },
    /// Not a message of this kind, or bytes are left over.
    #[error("{name} message cannot be read: {reason}")]
    Invalid {
        /// The message's name.
        name: &'static str,
        /// What the decoder said.
        reason: String,
    },
}

impl Error {
    /// The stable code of this error.
    pub fn code(&self) -> Code {
        match self {
            Error::TooLarge { .. } => Code::TooLarge,
            Error::FromTheFuture { .. } => Code::MessageFromTheFuture,
            Error::Invalid { .. } => Code::MessageInvalid,
        }
    }
}

/// Encodes `message`; fails only where it is over its cap.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, Error> {
    let bytes = postcard::to_stdvec(message).map_err(|e| Error::Invalid { name: M::NAME, reason: e.to_string() })?;
    check_size::<M>(bytes.len())?;
    Ok(bytes)
}

/// Decodes a whole message. Never panics and never allocates much more than `bytes` holds.
pub fn decode<M: Message>(bytes: &[u8]) -> Result<M, Error> {
    check_size::<M>(bytes.len())?;
    if let Some(&variant) = bytes.first()
        && variant >= M::VARIANTS
    {
        return Err(Error::FromTheFuture { name: M::NAME, variant, known: M::VARIANTS });
    }
    let invalid = |reason: String| Error::Invalid { name: M::NAME, reason };
    let (message, rest) = postcard::take_from_bytes::<M>(bytes).map_err(|e| invalid(e.to_string()))?;
    if !rest.is_empty() {
        return Err(invalid(format!("{} bytes are left over", rest.len())));
    }
    Ok(message)
}

fn check_size<M: Message>(bytes: usize) -> Result<(), Error> {
    if bytes > M::MAX_BYTES {
        return Err(Error::TooLarge { name: M::NAME, bytes, limit: M::MAX_BYTES });
    }
    Ok(())
}
