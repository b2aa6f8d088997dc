//! Who this device is: its key, its certificate, whom it trusts, and where its dispatcher is. Made once by
//! enrolment, read at each start.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_proto::code::Code;
use muster_proto::enroll::{BrokerAddress, Enrollment};
use muster_proto::id::{DeviceId, Workspace};
use muster_proto::report::{Report, SignedReport};
use muster_proto::{trust, wire};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::store::atomic;

/// Why there is no usable identity. A retry helps only after what the message names was mended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device has not been enrolled.
    #[error("this device is not enrolled ({} is missing): run `muster-agent enroll TOKEN`", .0.display())]
    NotEnrolled(PathBuf),
    /// A file cannot be read or understood.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::NotEnrolled(_) => Code::Unauthorized,
            Error::Unusable { .. } => Code::ConfigInvalid,
            Error::Store(error) => error.code(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Names {
    workspace: Workspace,
    device: DeviceId,
    api: String,
    broker: BrokerAddress,
}

/// The identity of an enrolled device.
pub struct Identity {
    /// Its workspace.
    pub workspace: Workspace,
    /// Its id.
    pub device: DeviceId,
    /// The dispatcher's API.
    pub api: String,
    /// Where the broker is.
    pub broker: BrokerAddress,
    /// The model repository's root as of the enrolment.
    pub root: Vec<u8>,
    /// The director's root as of the enrolment.
    pub director_root: Vec<u8>,
    certificates: Vec<CertificateDer<'static>>,
    ca: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    signer: EcdsaKeyPair,
}

const NAMES: &str = "identity.json";
const KEY: &str = "device.key.pem";
const CERTIFICATE: &str = "device.pem";
const CA: &str = "ca.pem";
const ROOT: &str = "root.json";
const DIRECTOR_ROOT: &str = "director-root.json";

impl Identity {
    /// Stores what enrolment gave. The names come last: without them the device is not enrolled.
    pub fn save(dir: &Path, api: &str, key_pem: &str, enrollment: &Enrollment) -> Result<(), Error> {
        fs::create_dir_all(dir).map_err(|e| unusable(dir, e))?;
        atomic::write(&dir.join(KEY), key_pem.as_bytes(), 0o600)?;
        atomic::write(&dir.join(CERTIFICATE), enrollment.certificate_pem.as_bytes(), 0o644)?;
        atomic::write(&dir.join(CA), enrollment.ca_pem.as_bytes(), 0o644)?;
        atomic::write(&dir.join(ROOT), enrollment.root_json.as_bytes(), 0o644)?;
        atomic::write(&dir.join(DIRECTOR_ROOT), enrollment.director_root_json.as_bytes(), 0o644)?;
        let names = Names {
            workspace: enrollment.workspace.clone(),
            device: enrollment.device.clone(),
            api: api.to_owned(),
            broker: enrollment.broker.clone(),
        };
        let path = dir.join(NAMES);
        let json = serde_json::to_vec_pretty(&names).map_err(|e| unusable(&path, e))?;
        Ok(atomic::write(&path, &json, 0o644)?)
    }

    /// Whether the device in `dir` is enrolled.
    pub fn exists(dir: &Path) -> bool {
        dir.join(NAMES).exists()
    }

    /// Reads an identity.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(NAMES);
        if !path.exists() {
            return Err(Error::NotEnrolled(path));
        }
        let names: Names = serde_json::from_slice(&read(&path)?).map_err(|e| unusable(&path, e))?;
        let key_path = dir.join(KEY);
        let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?).map_err(|e| unusable(&key_path, e))?;
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_der(), &SystemRandom::new())
            .map_err(|e| unusable(&key_path, e))?;
        Ok(Self {
            workspace: names.workspace,
            device: names.device,
            api: names.api,
            broker: names.broker,
            root: read(&dir.join(ROOT))?,
            director_root: read(&dir.join(DIRECTOR_ROOT))?,
            certificates: certificates(&dir.join(CERTIFICATE))?,
            ca: certificates(&dir.join(CA))?,
            key,
            signer,
        })
    }

    /// The certificate of the authority that the device trusts, in DER.
    pub fn ca(&self) -> &[CertificateDer<'static>] {
        &self.ca
    }

    /// The device's own certificate chain, in DER.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Signs a report with the device's own key.
    pub fn sign(&self, report: &Report) -> Result<Vec<u8>, wire::Error> {
        let payload = wire::encode(report)?;
        let input = trust::sign::report_signing_input(&payload);
        let failed = |_| wire::Error::Invalid { name: "report", reason: "the device's key cannot sign".into() };
        let signature = self.signer.sign(&SystemRandom::new(), &input).map_err(failed)?;
        wire::encode(&SignedReport::V1 { payload, signature: signature.as_ref().to_vec() })
    }

    /// TLS with the device's certificate, trusting the workspace's authority alone.
    pub fn tls(&self) -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in &self.ca {
            roots.add(certificate.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(self.certificates.clone(), self.key.clone_key())?;
        Ok(Arc::new(config))
    }
}

fn unusable(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Unusable { path: path.to_owned(), reason: reason.to_string() }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| unusable(path, e))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(unusable(path, "there is no certificate in it")),
        Err(error) => Err(unusable(path, error)),
    }
}
