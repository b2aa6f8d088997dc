//! Fetches a version from a dispatcher over HTTPS into a folder, with the signed metadata of that moment. It trusts
//! nothing of what it fetches: the folder is opened afterwards as any other.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_proto::code::Code;
use muster_proto::id::{ModelName, Version};
use muster_proto::manifest::{BundleManifest, MAX_MANIFEST};
use muster_proto::trust::{self, MAX_TARGETS, choose, verify_manifest};

use super::bundle::{MANIFEST, TRUST};
use super::config::Dispatcher;
use super::metadata::{self, Collected, collect};

/// How long the dispatcher may take to begin an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a file may take in all.
const FILE_PATIENCE: Duration = Duration::from_secs(3600);

/// Where Debian and images made by `muster image` keep the authorities.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why a version cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The dispatcher does not answer, or broke off. A retry may help.
    #[error("the dispatcher at {url} does not answer: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// The cause.
        reason: String,
    },
    /// It refuses. A retry helps once the key or the name was mended.
    #[error("the dispatcher answers {status} to {path}")]
    Refused {
        /// The status.
        status: u16,
        /// What was asked for.
        path: String,
    },
    /// What it sent does not follow from the trust root. A retry cannot help.
    #[error("what the dispatcher sent is not trusted: {0}")]
    Trust(#[from] trust::Error),
    /// The cache, the key or the authority's certificate cannot be used. A retry may help.
    #[error("{} cannot be used: {source}", path.display())]
    Disk {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Error::Unreachable { .. } => Code::TransferStalled,
            Error::Refused { status: 401, .. } => Code::Unauthorized,
            Error::Refused { status: 403, .. } => Code::Forbidden,
            Error::Refused { .. } => Code::NotFound,
            Error::Trust(error) => error.code(),
            Error::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull => Code::DiskFull,
            Error::Disk { .. } => Code::StoreFailed,
        }
    }
}

/// The folder with `model:version`, fetched where it is not there yet. `root` is what it has to follow from; without one,
/// the dispatcher's certificate is all that speaks for its root.
pub fn fetch(from: &Dispatcher, root: Option<&[u8]>, model: &ModelName, version: Version) -> Result<PathBuf, Error> {
    let client = Client::new(from)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
    let collected = collect(root, now, |name| client.find(&format!("/tuf/metadata/{name}"), MAX_TARGETS));
    let Collected { repository, files } = collected.map_err(|error| match error {
        metadata::Error::Source(error) => error,
        metadata::Error::Missing(path) => Error::Refused { status: 404, path },
        metadata::Error::Trust(error) => error.into(),
    })?;
    let target = choose(&repository, &muster_proto::manifest::target_path(model, version))?;
    let folder = from.cache.join(target.digest.to_string());
    if folder.exists() {
        return Ok(folder);
    }
    let base = format!("/v1/models/{}/versions/{version}", escape(model.as_str()));
    let bytes = client.get(&format!("{base}/manifest"), MAX_MANIFEST)?;
    let manifest = verify_manifest(&target, &bytes)?;
    let staging = from.cache.join(format!(".{}.{}", target.digest, std::process::id()));
    let _ = fs::remove_dir_all(&staging);
    let made = fill(&client, &staging, &base, &manifest, &bytes, &files);
    if let Err(error) = made {
        let _ = fs::remove_dir_all(&staging);
        return Err(error);
    }
    fs::rename(&staging, &folder).map_err(|source| Error::Disk { path: folder.clone(), source })?;
    Ok(folder)
}

/// Writes everything of a version into `folder`.
fn fill(
    client: &Client,
    folder: &Path,
    base: &str,
    manifest: &BundleManifest,
    bytes: &[u8],
    metadata: &[(String, Vec<u8>)],
) -> Result<(), Error> {
    let trust = folder.join(TRUST);
    fs::create_dir_all(&trust).map_err(|source| Error::Disk { path: trust.clone(), source })?;
    for (name, bytes) in metadata {
        write(&trust.join(name), bytes)?;
    }
    write(&folder.join(MANIFEST), bytes)?;
    for file in &manifest.files {
        let path = folder.join(file.path.as_str());
        let failed = |source| Error::Disk { path: path.clone(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let reader = client.open(&format!("{base}/files/{}", file.digest), FILE_PATIENCE)?;
        let mut target = File::create(&path).map_err(failed)?;
        // One byte more tells a longer file from the right one when the folder is opened.
        io::copy(&mut reader.take(file.size.saturating_add(1)), &mut target).map_err(failed)?;
        target.sync_all().map_err(failed)?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    fs::write(path, bytes).map_err(|source| Error::Disk { path: path.to_owned(), source })
}

/// Slashes of a model's name are part of one segment of the API's paths.
fn escape(name: &str) -> String {
    name.replace('/', "%2F")
}

/// A client of the dispatcher's API.
struct Client {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
}

impl Client {
    fn new(from: &Dispatcher) -> Result<Self, Error> {
        crate::ensure_crypto_provider();
        let cannot = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Disk { path, source }
        };
        fs::create_dir_all(&from.cache).map_err(cannot(&from.cache))?;
        let token = match &from.token {
            Some(path) => Some(fs::read_to_string(path).map_err(cannot(path))?.trim().to_owned()),
            None => std::env::var("MUSTER_TOKEN").ok(),
        };
        let authorities = authorities(from.ca.as_deref()).map_err(|(path, source)| Error::Disk { path, source })?;
        let roots = ureq::tls::RootCerts::Specific(Arc::new(authorities));
        let tls = ureq::tls::TlsConfig::builder().root_certs(roots).build();
        let config = ureq::Agent::config_builder().tls_config(tls).http_status_as_error(false);
        let config = config.timeout_recv_response(Some(PATIENCE)).timeout_connect(Some(PATIENCE)).build();
        Ok(Self { agent: ureq::Agent::new_with_config(config), url: from.url.trim_end_matches('/').to_owned(), token })
    }

    fn open(&self, path: &str, limit: Duration) -> Result<impl Read + use<>, Error> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let answer = request.config().timeout_global(Some(limit)).build().call();
        let answer = answer.map_err(|error| self.unreachable(error.to_string()))?;
        match answer.status().as_u16() {
            200 => Ok(answer.into_body().into_reader()),
            status => Err(Error::Refused { status, path: path.to_owned() }),
        }
    }

    /// At most `limit` bytes and one, which is enough for the parser to refuse them.
    fn get(&self, path: &str, limit: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = self.open(path, PATIENCE)?.take(limit as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.unreachable(error.to_string()))?;
        Ok(bytes)
    }

    /// As [`Client::get`]; none where there is no such thing.
    fn find(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        match self.get(path, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { url: self.url.clone(), reason }
    }
}

/// The certificates in `ca`, or of the system.
pub(crate) fn authorities(ca: Option<&Path>) -> Result<Vec<ureq::tls::Certificate<'static>>, (PathBuf, io::Error)> {
    let path = match ca {
        Some(path) => path.to_owned(),
        None => std::env::var_os("SSL_CERT_FILE").map_or_else(|| SYSTEM_AUTHORITIES.into(), PathBuf::from),
    };
    let pem = fs::read(&path).map_err(|source| (path.clone(), source))?;
    let certificates: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err((path, io::Error::new(io::ErrorKind::InvalidData, "there is no certificate in it"))),
        false => Ok(certificates),
    }
}
