//! What is signed, byte for byte, and how signatures and content are put together. No private key comes
//! here: callers sign the bytes and bring the signatures.

use serde::Serialize;
use serde_json::value::RawValue;

use super::Error;
use super::json::Value;
use crate::desired::{ApprovalStatement, Signature};

/// The bytes that the director signs for an encoded `DesiredState`.
///
/// The prefix keeps a signature from being passed off as one over anything else: TUF's metadata begin
/// with `{`, and a report has another prefix.
pub fn desired_signing_input(payload: &[u8]) -> Vec<u8> {
    [b"muster desired v1\n", payload].concat()
}

/// The bytes that a device signs for an encoded `Report`.
pub fn report_signing_input(payload: &[u8]) -> Vec<u8> {
    [b"muster report v1\n", payload].concat()
}

/// The bytes that somebody signs to approve of a plan.
pub fn approval_signing_input(statement: &ApprovalStatement) -> Vec<u8> {
    let encoded = postcard::to_stdvec(statement).expect("text and digests can always be written");
    [&b"muster approval v1\n"[..], &encoded].concat()
}

/// The canonical JSON of `value`; fails on fractions.
pub fn canonical<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    Ok(Envelope::new(value)?.canonical)
}

/// A TUF document that waits for its signatures.
#[derive(Debug, Clone)]
pub struct Envelope {
    json: Box<RawValue>,
    canonical: Vec<u8>,
}

impl Envelope {
    /// Writes `signed`, the document without its signatures.
    pub fn new<T: Serialize>(signed: &T) -> Result<Self, Error> {
        let error = |e: serde_json::Error| Error::NotCanonical { reason: e.to_string() };
        let json = serde_json::value::to_raw_value(signed).map_err(error)?;
        let value: Value<'_> = serde_json::from_str(json.get()).map_err(error)?;
        let canonical = value.canonical();
        Ok(Self { json, canonical })
    }

    /// The bytes to sign.
    pub fn signing_input(&self) -> &[u8] {
        &self.canonical
    }

    /// The finished file. Who has signed enough is not checked here; the verifier does that.
    pub fn assemble(&self, signatures: &[Signature]) -> Vec<u8> {
        #[derive(Serialize)]
        struct Finished<'a> {
            signatures: Vec<Entry>,
            signed: &'a RawValue,
        }
        #[derive(Serialize)]
        struct Entry {
            keyid: String,
            sig: String,
        }
        let entry = |s: &Signature| Entry { keyid: s.key.to_string(), sig: hex::encode(&s.value) };
        let finished = Finished { signatures: signatures.iter().map(entry).collect(), signed: &self.json };
        serde_json::to_vec(&finished).expect("text and raw JSON can always be written")
    }
}
