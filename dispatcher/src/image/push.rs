//! Sends a layout to a registry: the only user of oci-client. Must not know what an image is made of.
//!
//! Blobs that the registry has are not sent again; documents follow their blobs, and the tag moves last, so that a
//! push that breaks off leaves the old image in its place.

mod failure;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use tokio::io::AsyncReadExt;

use super::auth::Auth;
use super::document::{BlobDigest, Descriptor, INDEX, Index};
use super::layout::{self, Content, Document, Layout, to_json};
use super::name::{self, Name};

pub use failure::Failure;

/// How to reach a registry.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Speak HTTP without TLS.
    pub insecure_http: bool,
    /// Certificates of authorities to trust beside the system's, as PEM.
    pub certificates: Option<Vec<u8>>,
    /// The proxy for HTTPS.
    pub https_proxy: Option<String>,
    /// Hosts to reach without the proxy, as in `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// How long to wait before a second try; twice that before a third, which is the last.
    pub pause: Duration,
}

impl Default for Connection {
    fn default() -> Self {
        Self {
            insecure_http: false,
            certificates: None,
            https_proxy: None,
            no_proxy: None,
            pause: Duration::from_secs(1),
        }
    }
}

impl Connection {
    /// Takes the proxy from the environment, as other clients do; `variable` looks into it.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let set = |name: &str| variable(name).filter(|value| !value.is_empty());
            set(name).or_else(|| set(&name.to_lowercase()))
        };
        Self { https_proxy: either("HTTPS_PROXY"), no_proxy: either("NO_PROXY"), ..Self::default() }
    }
}

/// What is in the registry now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The image by its digest, such as `hub.example/vision/digits@sha256:…`.
    pub reference: String,
    /// The image's digest.
    pub digest: BlobDigest,
    /// How many blobs were sent.
    pub sent: usize,
    /// Their size in bytes.
    pub sent_bytes: u64,
    /// How many blobs were there already.
    pub present: usize,
}

/// Told for each blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// The registry has it.
    Present(&'a Descriptor),
    /// It is being sent.
    Sending(&'a Descriptor),
}

/// Why an image is not in the registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none, or names no registry.
    #[error(transparent)]
    Name(#[from] name::Error),
    /// The layout does not read.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// The layout has no image.
    #[error("{0} names no image; build it again")]
    Unnamed(String),
    /// The machine trusts no authority, so no registry could prove who it is.
    #[error("this machine has no certificates of authorities; install ca-certificates or set SSL_CERT_FILE")]
    NoRoots,
    /// The given certificates or proxy do not read.
    #[error("the certificates or the proxy for the registry do not read: {0}")]
    Setup(String),
    /// A token with characters that a header may not have.
    #[error("the token for {0} has characters that no token has; look for a line break in it")]
    Token(String),
    /// The registry, or the way to it.
    #[error("{failure}")]
    Registry {
        /// What went wrong, with what to do.
        failure: Failure,
        /// What the client said.
        #[source]
        source: OciDistributionError,
    },
    /// The registry takes longer than any does.
    #[error("{0} does not get on; try again, what it has is not sent twice")]
    Stalled(String),
    /// The registry says that the tag has another digest than what was sent; somebody else pushed at the same time.
    #[error("{name} has the digest {found} instead of {expected}; somebody else pushed it at the same time")]
    Changed {
        /// The image.
        name: String,
        /// What was sent.
        expected: BlobDigest,
        /// What is there.
        found: String,
    },
}

/// How long a question or a document may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The slowest line that a blob is sent over, in bytes per second.
const SLOWEST: u64 = 32 * 1024;
/// How often a thing that may pass is tried.
const TRIES: u32 = 3;

/// Sends the image in `layout` to `name`, under that tag whatever tag it was built with.
pub async fn push(
    layout: &Layout,
    name: &Name,
    auth: &Auth,
    connection: &Connection,
    on: &mut (dyn FnMut(Progress<'_>) + Send),
) -> Result<Pushed, Error> {
    let registry = name.require_registry()?;
    let image = layout.image()?.ok_or_else(|| Error::Unnamed(layout.folder().display().to_string()))?;
    let documents = layout.documents()?;
    let remote = Remote::new(name, registry, auth, connection)?;
    remote.login().await?;

    let (mut sent, mut sent_bytes, mut present) = (0, 0, 0);
    for blob in layout::blobs(&documents) {
        let (place, digest) = (remote.tag(name.tag()), blob.digest.to_string());
        if remote.ask(|| remote.client.blob_exists(&place, &digest)).await? {
            on(Progress::Present(&blob));
            present += 1;
            continue;
        }
        on(Progress::Sending(&blob));
        remote.send(&layout.blob(&blob.digest), &blob).await?;
        sent += 1;
        sent_bytes += blob.size;
    }
    for document in &documents {
        remote.put(&document.descriptor.digest.to_string(), &document.descriptor.media_type, &document.bytes).await?;
    }
    for document in &documents {
        remote.refer(document).await?;
    }
    let top = documents.iter().find(|d| d.descriptor.digest == image.digest);
    let top = top.ok_or_else(|| Error::Unnamed(layout.folder().display().to_string()))?;
    remote.put(name.tag(), INDEX, &top.bytes).await?;
    let place = remote.tag(name.tag());
    let found = remote.ask(|| remote.client.fetch_manifest_digest(&place, &remote.auth)).await?;
    if found != image.digest.to_string() {
        return Err(Error::Changed { name: name.to_string(), expected: image.digest, found });
    }
    let reference = format!("{registry}/{}@{}", name.repository(), image.digest);
    Ok(Pushed { reference, digest: image.digest, sent, sent_bytes, present })
}

/// A repository in a registry.
struct Remote<'a> {
    client: Client,
    name: &'a Name,
    registry: &'a str,
    auth: RegistryAuth,
    pause: Duration,
}

impl<'a> Remote<'a> {
    fn new(name: &'a Name, registry: &'a str, auth: &Auth, connection: &Connection) -> Result<Self, Error> {
        // The client panics where it finds no provider or no roots, even if it will speak HTTP alone.
        // Somebody may have installed a provider already; the first one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if rustls_native_certs::load_native_certs().certs.is_empty() {
            return Err(Error::NoRoots);
        }
        let plain = connection.insecure_http || is_loopback(registry) && connection.certificates.is_none();
        let certificates = connection
            .certificates
            .iter()
            .map(|pem| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone() });
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            // One PUT for each blob: every registry takes it, and some take no chunks.
            use_monolithic_push: true,
            extra_root_certificates: certificates.collect(),
            connect_timeout: Some(Duration::from_secs(20)),
            user_agent: concat!("muster/", env!("CARGO_PKG_VERSION")),
            https_proxy: connection.https_proxy.clone(),
            no_proxy: connection.no_proxy.clone(),
            platform_resolver: None,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|e| Error::Setup(failure::chain(&e)))?;
        let auth = match auth {
            Auth::Anonymous => RegistryAuth::Anonymous,
            Auth::Basic { username, password } => RegistryAuth::Basic(username.clone(), password.clone()),
            Auth::Bearer(token) => RegistryAuth::Bearer(token.clone()),
        };
        Ok(Self { client, name, registry, auth, pause: connection.pause })
    }

    /// Gets a token, if the registry works with tokens. Without this step the client would go on unknown.
    async fn login(&self) -> Result<(), Error> {
        if let RegistryAuth::Bearer(token) = &self.auth {
            self.check_token(token)?;
        }
        let place = self.tag(self.name.tag());
        for operation in [RegistryOperation::Push, RegistryOperation::Pull] {
            if let Some(token) = self.ask(|| self.client.auth(&place, &self.auth, operation)).await? {
                self.check_token(&token)?;
            }
        }
        Ok(())
    }

    /// The client panics on a token that does not go into a header.
    fn check_token(&self, token: &str) -> Result<(), Error> {
        if token.bytes().all(|b| b.is_ascii_graphic()) { Ok(()) } else { Err(Error::Token(self.registry.to_owned())) }
    }

    /// A document of the repository, by tag, or by a digest written as if it were one: the client panics where a
    /// registry answers a push by digest without a place, unless it believes the digest to be the tag.
    fn tag(&self, tag: &str) -> Reference {
        Reference::with_tag(self.registry.to_owned(), self.name.repository().to_owned(), tag.to_owned())
    }

    async fn send(&self, path: &Path, blob: &Descriptor) -> Result<(), Error> {
        let patience = PATIENCE + Duration::from_secs(blob.size / SLOWEST);
        let place = self.tag(self.name.tag());
        let digest = blob.digest.to_string();
        self.within(patience, || async {
            let file = tokio::fs::File::open(path).await?;
            self.client.push_blob_stream(&place, content(file), &digest, Some(blob.size)).await
        })
        .await?;
        Ok(())
    }

    async fn put(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Result<(), Error> {
        let place = self.tag(tag);
        self.ask(|| async {
            let kind = media_type
                .parse()
                .map_err(|_| OciDistributionError::UnsupportedMediaTypeError(media_type.to_owned()))?;
            self.client.push_manifest_raw(&place, bytes.to_vec(), kind).await
        })
        .await?;
        Ok(())
    }

    /// Lists an artifact beside what it is about, in a registry that does not do so by itself.
    ///
    /// Source: OCI distribution 1.1, "Pushing Manifests with Subject" and "Referrers Tag Schema".
    async fn refer(&self, document: &Document) -> Result<(), Error> {
        let Content::Manifest(manifest) = &document.content else { return Ok(()) };
        let Some(subject) = &manifest.subject else { return Ok(()) };
        let place = Reference::with_digest(
            self.registry.to_owned(),
            self.name.repository().to_owned(),
            subject.digest.to_string(),
        );
        // A registry that cannot answer has no list that could be lost.
        let listed = self.client.pull_referrers(&place, None).await.map(|index| index.manifests).unwrap_or_default();
        let mut entries: Vec<Descriptor> = listed
            .into_iter()
            .filter_map(|entry| {
                Some(Descriptor {
                    media_type: entry.media_type,
                    digest: entry.digest.parse().ok()?,
                    size: u64::try_from(entry.size).ok()?,
                    artifact_type: entry.artifact_type,
                    platform: None,
                    annotations: entry.annotations.unwrap_or_default(),
                })
            })
            .collect();
        if entries.iter().any(|e| e.digest == document.descriptor.digest) {
            return Ok(());
        }
        entries.push(Descriptor {
            artifact_type: manifest.artifact_type.clone(),
            annotations: manifest.annotations.clone(),
            ..document.descriptor.clone()
        });
        let index = to_json(&Index::new(entries, BTreeMap::new()));
        self.put(&subject.digest.to_string().replace(':', "-"), INDEX, &index).await
    }

    async fn ask<T, F: Future<Output = Result<T, OciDistributionError>>>(
        &self,
        question: impl Fn() -> F,
    ) -> Result<T, Error> {
        self.within(PATIENCE, question).await
    }

    /// Tries what may pass a few times, and says in words why it did not work.
    async fn within<T, F: Future<Output = Result<T, OciDistributionError>>>(
        &self,
        patience: Duration,
        question: impl Fn() -> F,
    ) -> Result<T, Error> {
        let mut tried = 1;
        loop {
            let answer = tokio::time::timeout(patience, question()).await;
            let source = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(source)) => source,
                Err(_) => return Err(Error::Stalled(self.registry.to_owned())),
            };
            let known = !matches!(self.auth, RegistryAuth::Anonymous);
            let failure = Failure::of(&source, self.registry, self.name.repository(), known);
            if tried == TRIES || !failure.may_pass() {
                return Err(Error::Registry { failure, source });
            }
            tokio::time::sleep(self.pause * tried).await;
            tried += 1;
        }
    }
}

/// A file in pieces, so that a blob of gigabytes needs no memory.
fn content(file: tokio::fs::File) -> impl Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
    stream::try_unfold(file, |mut file| async move {
        let mut piece = Vec::with_capacity(1 << 17);
        (&mut file).take(1 << 17).read_to_end(&mut piece).await?;
        Ok(if piece.is_empty() { None } else { Some((Bytes::from(piece), file)) })
    })
}

fn is_loopback(registry: &str) -> bool {
    let host = registry.split(':').next().unwrap_or_default();
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
