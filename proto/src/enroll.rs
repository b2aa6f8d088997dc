//! How a machine becomes a device: the invitation that an operator hands over, the request that the
//! agent makes of it over HTTPS, and the answer. It does not know certificates or HTTP.
//!
//! ```
//! use muster_proto::enroll::Invitation;
//! use muster_proto::id::Digest;
//!
//! let invitation = Invitation {
//!     api: "https://hub.example:8443".into(),
//!     ca_fingerprint: Digest::of(b"certificate"),
//!     secret: "once".into(),
//! };
//! let token = invitation.to_string();
//! assert!(token.starts_with("muster1."));
//! assert_eq!(token.parse(), Ok(invitation));
//! ```

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, Digest, Workspace};
use crate::report::AgentInfo;

/// Begins every invitation, with its version.
const PREFIX: &str = "muster1.";
/// The longest invitation that is parsed, in bytes.
const MAX_INVITATION: usize = 1024;

/// What an operator hands to whoever sets up a device, as one word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The dispatcher's API, e.g. `https://hub.example:8443`.
    pub api: String,
    /// The SHA-256 digest of the CA certificate's DER, by which the first connection is checked.
    pub ca_fingerprint: Digest,
    /// What lets the device in, once.
    pub secret: String,
}

/// Why a word is not an invitation. Retrying cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not an enrolment token ({0}): copy the whole word that `muster device enroll-token` printed")]
pub struct Error(&'static str);

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = postcard::to_stdvec(self).map_err(|_| fmt::Error)?;
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Invitation {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        let word = word.trim();
        if word.len() > MAX_INVITATION {
            return Err(Error("too long"));
        }
        let body = word.strip_prefix(PREFIX).ok_or(Error("it does not begin with muster1."))?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| Error("not base64"))?;
        match postcard::take_from_bytes::<Invitation>(&bytes) {
            Ok((invitation, [])) => Ok(invitation),
            _ => Err(Error("part of it is missing")),
        }
    }
}

/// What the agent asks, as JSON: `POST {api}/v1/enroll`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollRequest {
    /// The invitation's secret.
    pub secret: String,
    /// The name that the device wants.
    pub device: DeviceId,
    /// The PKCS#10 request of the device's own P-256 key, DER in base64.
    pub csr: String,
    /// What the device is.
    pub agent: AgentInfo,
}

/// All that an enrolled device needs, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrollment {
    /// The workspace.
    pub workspace: Workspace,
    /// The device.
    pub device: DeviceId,
    /// The device's certificate as PEM.
    pub certificate_pem: String,
    /// The certificate of the authority that signed it and the broker's, as PEM.
    pub ca_pem: String,
    /// Where the broker is.
    pub broker: BrokerAddress,
    /// The newest root of the model repository, the device's trust anchor, as JSON text.
    pub root_json: String,
    /// The newest root of the director, as JSON text.
    pub director_root_json: String,
}

/// Where devices reach the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerAddress {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether to connect with TLS and the device's certificate.
    pub tls: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_or_foreign_word_is_refused() {
        let invitation =
            Invitation { api: "https://h:1".into(), ca_fingerprint: Digest::of(b"c"), secret: "s".repeat(43) };
        let word = invitation.to_string();
        assert_eq!(format!(" {word}\n").parse(), Ok(invitation));
        for bad in ["", "muster1.", "muster2.AAAA", &word[..word.len() - 4], &format!("{word}AAAA"), &"x".repeat(2000)]
        {
            assert!(bad.parse::<Invitation>().is_err(), "{bad:?} was accepted");
        }
    }
}
