//! The workspace's certificate authority: it says who a server, a device or the dispatcher itself is.
//!
//! Owns the authority's key, the file that holds it, and the form of every certificate that it signs. It must not
//! know HTTP or MQTT, nor who is let in: a certificate only names its holder, and the registry decides what that
//! name may do. So certificates do not expire and nothing is revoked here.
//!
//! All certificates hold from 1970-01-01, because a device without a real-time clock boots in 1970 and would call any
//! later one "not yet valid" (Invariant 11), until 9999-12-31, which RFC 5280 section 4.1.2.5 reserves for "no
//! well-defined expiration date".

mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::code::Code;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SerialNumber, SubjectPublicKeyInfo, date_time_ymd,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::OID_SIG_ECDSA_WITH_SHA256;
use x509_parser::prelude::FromDer as _;

/// Longest certificate request that is parsed at all, in bytes; a P-256 request takes about 300.
pub const MAX_REQUEST_BYTES: usize = 4096;

/// Longest common name and organization, in bytes: X.520's upper bound for both, which some TLS stacks enforce.
const MAX_NAME_BYTES: usize = 64;

/// Why the authority cannot be opened, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the authority cannot be read or written; a retry helps once the cause is mended.
    #[error("cannot {action} {}", .path.display())]
    File {
        /// What was tried, e.g. `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The key file is there but holds no usable authority; it is left as it is, and a retry cannot help.
    #[error(
        "{} does not hold a whole certificate authority ({reason}): restore it from a backup; or, to start a new \
         authority with which every device must enroll again, move it and {} away",
        .path.display(), store::CERTIFICATE_FILE
    )]
    Damaged {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key file is gone but an authority existed, so that devices may trust it; a retry cannot help.
    #[error(
        "{} is missing although {} shows that there was an authority: restore it from a backup; or, to start a new \
         authority with which every device must enroll again, move the certificate away",
        .key.display(), .certificate.display()
    )]
    KeyMissing {
        /// The missing key file.
        key: PathBuf,
        /// The certificate that was found.
        certificate: PathBuf,
    },
    /// A name cannot stand in a certificate; a retry cannot help.
    #[error("{name:?} cannot be named in a certificate: {reason}")]
    Name {
        /// The offending name.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A device's certificate request is refused; the device has to make a new one.
    #[error("the certificate request is refused: {0}")]
    Request(&'static str),
    /// The key or the certificate could not be made.
    #[error("cannot make the certificate of {subject:?}")]
    Sign {
        /// Whose certificate it was to be.
        subject: String,
        /// What the library answered.
        #[source]
        source: rcgen::Error,
    },
    /// The system gave no random bytes; a retry may help.
    #[error("the system gives no random bytes for a serial number")]
    Random,
}

impl Error {
    /// The stable code, for whoever starts a dispatcher.
    pub fn code(&self) -> Code {
        match self {
            Error::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => Code::DiskFull,
            Error::File { .. } => Code::StoreFailed,
            Error::Damaged { .. } | Error::KeyMissing { .. } | Error::Name { .. } => Code::ConfigInvalid,
            Error::Request(_) => Code::BadRequest,
            Error::Sign { .. } | Error::Random => Code::Internal,
        }
    }
}

/// A certificate with its private key, for one end of a TLS connection.
#[derive(Clone)]
pub struct Identity {
    /// The certificate first, then the rest of its chain, as PEM.
    pub certificates_pem: String,
    /// The private key as PKCS#8 PEM. A secret: store it with mode 0600, never log it.
    pub key_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates_pem", &self.certificates_pem).finish_non_exhaustive()
    }
}

/// A certificate signed for a device, which keeps its private key to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCert {
    /// The certificate as PEM.
    pub pem: String,
    /// The certificate as DER.
    pub der: Vec<u8>,
    /// The device's public key, an uncompressed P-256 point: what `ring::signature::ECDSA_P256_SHA256_ASN1` takes to
    /// verify what the device signs.
    pub public_key: [u8; 65],
}

/// The authority of one workspace.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    /// Opens the authority kept in `dir`, or makes one there if there never was any.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Damaged`] and [`Error::KeyMissing`] name the file and say what to do. A key that
    /// cannot be used is never replaced: every enrolled device would be locked out.
    pub fn load_or_create(dir: &Path) -> Result<Ca, Error> {
        store::load_or_create(dir)
    }

    /// The authority's own certificate as PEM: what devices and clients have to trust.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// The authority's own certificate as DER.
    pub fn certificate_der(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// SHA-256 of the authority's certificate in DER: short enough to be compared by eye or to be pinned by a device.
    pub fn fingerprint(&self) -> [u8; 32] {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.certificate);
        digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    /// Makes a key and a certificate for a TLS server that is reached under `names`, DNS names (`*.` allowed in front)
    /// and IP addresses. The chain ends with the authority's own certificate, so that a client which knows only the
    /// fingerprint can check it.
    ///
    /// # Errors
    /// [`Error::Name`] if `names` is empty or one of them is neither; [`Error::Sign`], [`Error::Random`].
    pub fn issue_server(&self, names: &[String]) -> Result<Identity, Error> {
        let first = names.first().ok_or(Error::Name { name: String::new(), reason: "a server needs a name" })?;
        for name in names {
            let host = name.strip_prefix("*.").unwrap_or(name);
            ServerName::try_from(host).map_err(|_| Error::Name {
                name: name.clone(),
                reason: "it is neither a DNS name nor an IP address",
            })?;
        }
        let mut params = CertificateParams::new(names).map_err(|source| sign_error(first, source))?;
        // Clients look at the alternative names only; a long DNS name would not fit here anyway.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Muster server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut identity = self.issue(params, first)?;
        identity.certificates_pem.push_str(&self.certificate_pem());
        Ok(identity)
    }

    /// Makes a key and a certificate for a TLS client of ours: the dispatcher's own MQTT link.
    ///
    /// # Errors
    /// [`Error::Name`] if a name is empty, longer than 64 bytes or not printable; [`Error::Sign`], [`Error::Random`].
    pub fn issue_client(&self, workspace: &str, common_name: &str) -> Result<Identity, Error> {
        self.issue(client_params(workspace, common_name)?, common_name)
    }

    /// Signs a device's PKCS#10 request (DER), made for an ECDSA P-256 key. Only the public key is taken from it;
    /// subject, validity and usage are ours, whatever the request says.
    ///
    /// # Errors
    /// [`Error::Request`] if it is not such a request or not signed by its own key; [`Error::Name`] as in
    /// [`Ca::issue_client`]; [`Error::Sign`], [`Error::Random`].
    pub fn sign_device_request(&self, csr_der: &[u8], workspace: &str, device: &str) -> Result<IssuedCert, Error> {
        let key = requested_key(csr_der)?;
        let public_key =
            key.der_bytes().try_into().map_err(|_| Error::Request("its key is not an uncompressed point"))?;
        let params = finish(client_params(workspace, device)?)?;
        let signed = params.signed_by(&key, &self.issuer).map_err(|source| sign_error(device, source))?;
        Ok(IssuedCert { pem: signed.pem(), der: signed.der().to_vec(), public_key })
    }

    fn issue(&self, params: CertificateParams, subject: &str) -> Result<Identity, Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| sign_error(subject, source))?;
        let signed = finish(params)?.signed_by(&key, &self.issuer).map_err(|source| sign_error(subject, source))?;
        Ok(Identity { certificates_pem: signed.pem(), key_pem: key.serialize_pem() })
    }
}

fn sign_error(subject: &str, source: rcgen::Error) -> Error {
    Error::Sign { subject: subject.to_owned(), source }
}

fn client_params(organization: &str, common_name: &str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, name) in [(DnType::OrganizationName, organization), (DnType::CommonName, common_name)] {
        let reason = if name.is_empty() {
            "it is empty"
        } else if name.len() > MAX_NAME_BYTES {
            "it is longer than 64 bytes"
        } else if name.chars().any(char::is_control) {
            "it holds control characters"
        } else {
            params.distinguished_name.push(kind, name);
            continue;
        };
        return Err(Error::Name { name: name.to_owned(), reason });
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// What all our leaf certificates have in common.
fn finish(mut params: CertificateParams) -> Result<CertificateParams, Error> {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    with_validity(params)
}

/// The authority's own certificate, self-signed.
fn authority_params(key: &KeyPair) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    // A part of the key in the name keeps two authorities apart, in logs and for TLS stacks that search by name.
    let tag = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("Muster CA {}", hex::encode(&tag.as_ref()[..4])));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    with_validity(params)
}

fn with_validity(mut params: CertificateParams) -> Result<CertificateParams, Error> {
    params.not_before = date_time_ymd(1970, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.serial_number = Some(random_serial()?);
    Ok(params)
}

fn random_serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
    // A positive integer of always 16 bytes: RFC 5280 allows up to 20, and forbids zero and negative numbers.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// The public key of a request that proves to hold the private one.
fn requested_key(csr_der: &[u8]) -> Result<SubjectPublicKeyInfo, Error> {
    if csr_der.len() > MAX_REQUEST_BYTES {
        return Err(Error::Request("it is longer than 4096 bytes"));
    }
    let (rest, request) = X509CertificationRequest::from_der(csr_der)
        .map_err(|_| Error::Request("it is not a PKCS#10 request in DER"))?;
    if !rest.is_empty() {
        return Err(Error::Request("bytes follow the request"));
    }
    let info = &request.certification_request_info;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
        .map_err(|_| Error::Request("its key is not ECDSA P-256"))?;
    if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || request.signature_algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256
    {
        return Err(Error::Request("its key is not ECDSA P-256 or its signature not SHA-256"));
    }
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, key.der_bytes())
        .verify(info.raw, &request.signature_value.data)
        .map_err(|_| Error::Request("its signature is not by its own key"))?;
    Ok(key)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}
