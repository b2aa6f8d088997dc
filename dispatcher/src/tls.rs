//! TLS for the doors of the dispatcher: configurations from what the authority issued, and a listener that hands out
//! connections whose handshake is done.
//!
//! Owns which certificates are accepted and what a peer is called afterwards. It must not know HTTP routes, MQTT, or
//! what a peer may do.

mod listener;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use x509_parser::x509::AttributeTypeAndValue;

pub use listener::Listener;

use crate::ca::Identity;

/// Why a TLS configuration cannot be made, or a door not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates or the key are not PEM; a retry cannot help.
    #[error("the {0} cannot be read as PEM")]
    Pem(&'static str, #[source] rustls::pki_types::pem::Error),
    /// Certificate and key do not fit together, or the library does not support them; a retry cannot help.
    #[error("the certificate and its key cannot be used for TLS")]
    Identity(#[source] rustls::Error),
    /// The authority that peers are to be checked against cannot be used; a retry cannot help.
    #[error("peers cannot be checked against the certificate authority: {0}")]
    Authority(String),
    /// Another program has the address; a retry helps once it is gone.
    #[error("cannot listen on {0}: another program already does; stop it or choose another port")]
    InUse(SocketAddr),
    /// The address cannot be listened on for another reason, e.g. a privileged port.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
}

/// Whether a server asks its clients for a certificate, and which authority must have signed it (in DER).
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// Clients are not asked.
    None,
    /// A client may show a certificate; a wrong one ends the handshake, none is let through without an identity.
    Optional(CertificateDer<'static>),
    /// A client without a right certificate does not get past the handshake.
    Required(CertificateDer<'static>),
}

/// Whom a verified client certificate names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The device, or the service of ours.
    pub common_name: String,
    /// The workspace.
    pub organization: String,
}

/// The other end of an accepted connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it comes from.
    pub addr: SocketAddr,
    /// Whom its verified certificate names; `None` if it showed none.
    pub identity: Option<Subject>,
}

/// Makes ring the process's cryptography, for libraries that ask for the default (rumqttc, ureq). Idempotent.
pub fn ensure_provider() {
    // An error only says that there is a default already.
    let _ = ring::default_provider().install_default();
}

/// The server side of TLS 1.2 and 1.3 with `identity`, checking client certificates as `clients` says.
///
/// # Errors
/// [`Error::Pem`] and [`Error::Identity`] if `identity` cannot be used, [`Error::Authority`] if the CA cannot.
pub fn server_config(identity: &Identity, clients: ClientAuth) -> Result<ServerConfig, Error> {
    let verifier = match clients {
        ClientAuth::None => WebPkiClientVerifier::no_client_auth(),
        ClientAuth::Optional(ca) => client_verifier(ca)?.allow_unauthenticated().build().map_err(unusable)?,
        ClientAuth::Required(ca) => client_verifier(ca)?.build().map_err(unusable)?,
    };
    let (chain, key) = parse(identity)?;
    ServerConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_safe_default_protocol_versions()
        .map_err(Error::Identity)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(Error::Identity)
}

/// The client side: trusts servers that `ca` (DER) signed, and shows `identity` if there is one.
///
/// # Errors
/// As [`server_config`].
pub fn client_config(ca: CertificateDer<'static>, identity: Option<&Identity>) -> Result<ClientConfig, Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca)?, provider()).build().map_err(unusable)?;
    let config = ClientConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_safe_default_protocol_versions()
        .map_err(Error::Identity)?
        .with_webpki_verifier(verifier);
    match identity {
        None => Ok(config.with_no_client_auth()),
        Some(identity) => {
            let (chain, key) = parse(identity)?;
            config.with_client_auth_cert(chain, key).map_err(Error::Identity)
        }
    }
}

/// Whom a certificate names. One common name and one organization, as our authority writes them; anything else could
/// be read in two ways.
///
/// # Errors
/// A sentence on what is wrong with the certificate.
pub fn subject(certificate: &CertificateDer<'_>) -> Result<Subject, &'static str> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|_| "the certificate cannot be parsed")?;
    let name = parsed.subject();
    Ok(Subject {
        common_name: only(name.iter_common_name()).ok_or("the certificate does not have exactly one common name")?,
        organization: only(name.iter_organization()).ok_or("the certificate does not have exactly one organization")?,
    })
}

fn only<'a>(mut values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>) -> Option<String> {
    match (values.next()?.as_str(), values.next()) {
        (Ok(text), None) if !text.is_empty() => Some(text.to_owned()),
        _ => None,
    }
}

/// The system's clock, but never before 1970, where rustls's own panics. Our certificates hold from 1970 on, so that
/// a machine without a battery-backed clock talks TLS from its first second.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Some(UnixTime::since_unix_epoch(since))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn roots(ca: CertificateDer<'static>) -> Result<Arc<RootCertStore>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(unusable)?;
    Ok(Arc::new(roots))
}

fn client_verifier(ca: CertificateDer<'static>) -> Result<rustls::server::ClientCertVerifierBuilder, Error> {
    Ok(WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider()))
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::Authority(error.to_string())
}

fn parse(identity: &Identity) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = CertificateDer::pem_slice_iter(identity.certificates_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::Pem("certificate chain", e))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(|e| Error::Pem("private key", e))?;
    Ok((chain, key))
}
