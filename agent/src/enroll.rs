//! Enrolment: from an invitation to an identity. The key is made here and never leaves the device.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::code::Code;
use muster_proto::enroll::{EnrollRequest, Enrollment, Invitation};
use muster_proto::id::{DeviceId, Digest};
use muster_proto::report::AgentInfo;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;

use crate::identity::{self, Identity};

/// How long the dispatcher may take to answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a device could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is an identity already; a retry cannot help.
    #[error(
        "this device is already enrolled as {0}: for a new identity run `muster device revoke NAME` on the dispatcher, \
         then this with --force"
    )]
    AlreadyEnrolled(String),
    /// The dispatcher does not answer; a retry may help.
    #[error("the dispatcher at {api} does not answer: {reason}")]
    Unreachable {
        /// Its address.
        api: String,
        /// The cause.
        reason: String,
    },
    /// Whoever answers is not the dispatcher that made the token.
    #[error(
        "{api} has another certificate authority than the token names: ask for a new token, or look who answers there"
    )]
    WrongAuthority {
        /// Its address.
        api: String,
    },
    /// The dispatcher refuses; a retry helps only with another token.
    #[error("the dispatcher refuses: {detail}")]
    Refused {
        /// The stable code.
        code: Code,
        /// Its words.
        detail: String,
    },
    /// The answer cannot be understood.
    #[error("the dispatcher's answer cannot be understood: {0}")]
    BadAnswer(String),
    /// The device's key could not be made.
    #[error("the device's key could not be made: {0}")]
    Key(String),
    /// The identity could not be stored or read.
    #[error(transparent)]
    Identity(#[from] identity::Error),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::AlreadyEnrolled(_) => Code::Conflict,
            Error::Unreachable { .. } => Code::TransferStalled,
            Error::WrongAuthority { .. } => Code::SignatureInvalid,
            Error::Refused { code, .. } => *code,
            Error::BadAnswer(_) => Code::MessageInvalid,
            Error::Key(_) => Code::Internal,
            Error::Identity(error) => error.code(),
        }
    }
}

/// The part of an RFC 9457 problem that is of use here.
#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    code: Option<Code>,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    title: Option<String>,
}

/// Enrols the device of `dir` under the name `device`. Blocks.
pub fn enroll(
    invitation: &Invitation,
    device: &DeviceId,
    agent: AgentInfo,
    dir: &Path,
    force: bool,
) -> Result<Enrollment, Error> {
    if Identity::exists(dir) && !force {
        let name = Identity::load(dir).map_or_else(|_| "another device".into(), |i| i.device.to_string());
        return Err(Error::AlreadyEnrolled(name));
    }
    let api = invitation.api.trim_end_matches('/');
    let roots = trusted_authority(api, &invitation.ca_fingerprint)?;
    let (key_pem, csr) = key_and_request(device)?;
    let request = EnrollRequest { secret: invitation.secret.clone(), device: device.clone(), csr, agent };
    let client = client(roots);
    let answer = client.post(format!("{api}/v1/enroll")).send_json(&request);
    let mut answer = answer.map_err(|e| unreachable(api, e))?;
    let body = answer.body_mut().with_config().limit(1 << 20).read_to_vec();
    let body = body.map_err(|e| unreachable(api, e))?;
    if !answer.status().is_success() {
        return Err(refused(answer.status().as_u16(), &body));
    }
    let enrollment: Enrollment = serde_json::from_slice(&body).map_err(|e| Error::BadAnswer(e.to_string()))?;
    Identity::save(dir, api, &key_pem, &enrollment)?;
    // What was stored has to be good for the next start.
    Identity::load(dir)?;
    Ok(enrollment)
}

/// The authority that the token names: its certificate is fetched without trust and compared by digest.
fn trusted_authority(api: &str, fingerprint: &Digest) -> Result<Option<CertificateDer<'static>>, Error> {
    if api.starts_with("http://") {
        return Ok(None);
    }
    let tls = ureq::tls::TlsConfig::builder().disable_verification(true).build();
    let client = agent_with(tls);
    let mut answer = client.get(format!("{api}/ca.pem")).call().map_err(|e| unreachable(api, e))?;
    let pem = answer.body_mut().with_config().limit(64 * 1024).read_to_vec().map_err(|e| unreachable(api, e))?;
    let certificate = CertificateDer::from_pem_slice(&pem).map_err(|e| Error::BadAnswer(e.to_string()))?;
    if Digest::of(&certificate) != *fingerprint {
        return Err(Error::WrongAuthority { api: api.to_owned() });
    }
    Ok(Some(certificate))
}

fn client(root: Option<CertificateDer<'static>>) -> ureq::Agent {
    let mut tls = ureq::tls::TlsConfig::builder();
    if let Some(root) = root {
        let certificate = ureq::tls::Certificate::from_der(&root).to_owned();
        tls = tls.root_certs(ureq::tls::RootCerts::Specific(Arc::new(vec![certificate])));
    }
    agent_with(tls.build())
}

fn agent_with(tls: ureq::tls::TlsConfig) -> ureq::Agent {
    crate::ensure_crypto_provider();
    let config =
        ureq::Agent::config_builder().tls_config(tls).timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
    ureq::Agent::new_with_config(config)
}

fn unreachable(api: &str, error: ureq::Error) -> Error {
    Error::Unreachable { api: api.to_owned(), reason: error.to_string() }
}

fn refused(status: u16, body: &[u8]) -> Error {
    let problem = serde_json::from_slice::<Problem>(body).ok();
    let code = problem.as_ref().and_then(|p| p.code).unwrap_or(Code::Unauthorized);
    let detail = problem.and_then(|p| p.detail.or(p.title)).unwrap_or_else(|| format!("status {status}"));
    Error::Refused { code, detail }
}

/// A new P-256 key as PKCS#8 PEM, and a PKCS#10 request for it, DER in base64.
fn key_and_request(device: &DeviceId) -> Result<(String, String), Error> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| Error::Key(e.to_string()))?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, device.as_str());
    let request = params.serialize_request(&key).map_err(|e| Error::Key(e.to_string()))?;
    Ok((key.serialize_pem(), STANDARD.encode(request.der())))
}
