use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use super::{Error, sign};
use crate::report::{Report, SignedReport};
use crate::wire;

/// Checks a report against its device's key, the uncompressed P-256 point (65 bytes) of its certificate, and reads it.
/// Whether the report speaks of that device is for the caller to compare.
pub fn verify_report(spki_point: &[u8], report: &SignedReport) -> Result<Report, Error> {
    let SignedReport::V1 { payload, signature } = report;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, spki_point)
        .verify(&sign::report_signing_input(payload), signature)
        .map_err(|_| Error::ReportSignature)?;
    Ok(wire::decode(payload)?)
}
