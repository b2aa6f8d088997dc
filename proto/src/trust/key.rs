//! Public keys as TUF writes them, and signature checks by ring. Private keys never come here.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::{Deserialize, Serialize};

use super::{Error, sign};
use crate::id::Digest;

/// A public key in metadata. Its id is whatever the metadata calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEntry {
    /// The kind of key, e.g. `ed25519`.
    pub keytype: String,
    /// The signature scheme, e.g. `ed25519`.
    pub scheme: String,
    /// The key itself; for the kinds that are known here a text under `public`.
    pub keyval: serde_json::Value,
}

impl KeyEntry {
    /// An Ed25519 key.
    pub fn ed25519(public: &[u8]) -> Self {
        Self {
            keytype: "ed25519".into(),
            scheme: "ed25519".into(),
            keyval: serde_json::json!({ "public": hex::encode(public) }),
        }
    }

    /// The key's id by TUF's rule: the SHA-256 of its canonical JSON.
    pub fn id(&self) -> Result<Digest, Error> {
        sign::canonical(self).map(|bytes| Digest::of(&bytes))
    }

    /// The usable key; none for kinds and schemes that this build does not know, which count as absent.
    fn public_key(&self) -> Option<PublicKey> {
        let text = self.keyval.get("public")?.as_str()?;
        let (algorithm, bytes): (&'static dyn VerificationAlgorithm, _) =
            match (self.keytype.as_str(), self.scheme.as_str()) {
                ("ed25519", "ed25519") => (&ED25519, hex::decode(text).ok()?),
                ("ecdsa" | "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp256") => {
                    (&ECDSA_P256_SHA256_ASN1, pem_key(text, OID_EC_PUBLIC_KEY)?)
                }
                ("rsa", "rsassa-pss-sha256") => (&RSA_PSS_2048_8192_SHA256, pem_key(text, OID_RSA)?),
                ("rsa", "rsa-pkcs1v15-sha256") => (&RSA_PKCS1_2048_8192_SHA256, pem_key(text, OID_RSA)?),
                _ => return None,
            };
        Some(PublicKey { algorithm, bytes })
    }
}

struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

/// How many different keys of `key_ids` have signed `message`.
///
/// Keys are told apart by their bytes, not by their ids: one key under ten names, or one signature
/// given ten times, counts once. `enough` ends the count early.
pub(super) fn count_signers<'a>(
    keys: &BTreeMap<String, KeyEntry>,
    key_ids: &[String],
    enough: u64,
    message: &[u8],
    signatures: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> u64 {
    let allowed: BTreeSet<&str> = key_ids.iter().map(String::as_str).collect();
    let mut signers = BTreeSet::new();
    for (id, signature) in signatures {
        if signers.len() as u64 >= enough {
            break;
        }
        let Some(key) = keys.get(id).filter(|_| allowed.contains(id)).and_then(KeyEntry::public_key) else { continue };
        if signers.contains(&key.bytes) {
            continue;
        }
        if UnparsedPublicKey::new(key.algorithm, &key.bytes).verify(message, signature).is_ok() {
            signers.insert(key.bytes);
        }
    }
    signers.len() as u64
}

/// rsaEncryption, RFC 8017 appendix A.
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// id-ecPublicKey, RFC 5480 section 2.1.1. The curve is not looked at: ring refuses a point off P-256.
const OID_EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// The bare key in a PEM `PUBLIC KEY` (SubjectPublicKeyInfo, RFC 5280 section 4.1), as ring wants it.
fn pem_key(pem: &str, oid: &[u8]) -> Option<Vec<u8>> {
    let body = pem.trim().strip_prefix("-----BEGIN PUBLIC KEY-----")?.strip_suffix("-----END PUBLIC KEY-----")?;
    let base64: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(base64).ok()?;
    let (info, rest) = der_item(0x30, &der)?;
    let (algorithm, bits) = der_item(0x30, info)?;
    let (found, _parameters) = der_item(0x06, algorithm)?;
    let (key, after) = der_item(0x03, bits)?;
    let whole = rest.is_empty() && after.is_empty() && found == oid;
    // The first byte of a bit string tells how many of its last bits are unused: none in a key.
    key.strip_prefix(&[0]).filter(|_| whole).map(<[u8]>::to_vec)
}

/// Splits one DER item with `tag` off the front: its content, and what follows.
fn der_item(tag: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.strip_prefix(&[tag])?.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}
