//! Inputs from URLs and results to them: into a file and out of one, tried again with a growing pause.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use muster_proto::id::{Digest, Hasher};
use serde::{Deserialize, Serialize};

use super::Error;
use super::inputs::{Input, Place, Unit};
use super::options::without_query;
use crate::serve::fetch::authorities;

/// How often a transfer is tried, and the pause after the first time; it doubles each time.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);
/// How long a server may take to answer, and a whole transfer.
const PATIENCE: Duration = Duration::from_secs(60);
const WHOLE: Duration = Duration::from_secs(6 * 3600);
/// The most bytes that Azure Blob Storage and S3 take in one PUT, about.
const MAX_PUT: u64 = 5000 << 20;

/// What a file behind a URL was when it was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Bytes.
    pub size: u64,
    /// Of its content.
    pub digest: Digest,
}

/// What was fetched in a run and those before it, by name.
pub type Known = Arc<Mutex<BTreeMap<String, Fetched>>>;

/// Talks to servers.
#[derive(Clone)]
pub struct Web {
    agent: ureq::Agent,
    pause: Duration,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Web").finish_non_exhaustive()
    }
}

/// Whether another try may help.
enum Trouble {
    Once(String, String),
    Again(String),
}

impl Web {
    /// A client that trusts the authorities in `ca`, or the system's. Without any of these it talks to `http:` only.
    pub fn new(ca: Option<&Path>, stop: &Arc<AtomicBool>) -> Result<Self, Error> {
        crate::ensure_crypto_provider();
        let certificates = match (authorities(ca), ca) {
            (Ok(certificates), _) => certificates,
            (Err(_), None) => Vec::new(),
            (Err((path, error)), Some(_)) => {
                let what = format!("{} cannot be used: {error}", path.display());
                return Err(Error::usage(what, "give a PEM file with certificates by --ca"));
            }
        };
        let roots = ureq::tls::RootCerts::Specific(Arc::new(certificates));
        let config = ureq::Agent::config_builder()
            .tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build())
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_global(Some(WHOLE))
            .build();
        Ok(Self { agent: ureq::Agent::new_with_config(config), pause: PAUSE, stop: Arc::clone(stop) })
    }

    /// The same with another first pause.
    #[cfg(test)]
    pub fn with_pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Writes what is behind `url` into `path`: at most `limit` bytes.
    pub fn download(&self, url: &str, path: &Path, limit: u64) -> Result<Fetched, Error> {
        let name = without_query(url);
        self.try_again(|| {
            let answer = self.agent.get(url).call().map_err(|error| Trouble::Again(format!("{name}: {error}")))?;
            let status = answer.status().as_u16();
            judge(status, &format!("{name} cannot be fetched"), "check the URL; a signed one may have expired")?;
            let failed =
                |error: std::io::Error| Trouble::Once(Error::output(path, &error).to_string(), FREE_ROOM.into());
            let mut file = File::create(path).map_err(failed)?;
            let mut reader = answer.into_body().into_reader().take(limit.saturating_add(1));
            let (mut hasher, mut size, mut buffer) = (Hasher::new(), 0u64, vec![0; 64 << 10]);
            loop {
                let count = reader.read(&mut buffer).map_err(|error| Trouble::Again(format!("{name}: {error}")))?;
                if count == 0 {
                    break;
                }
                if self.is_stopped() {
                    return Err(Trouble::Again(format!("{name} was not fetched to its end")));
                }
                hasher.update(&buffer[..count]);
                file.write_all(&buffer[..count]).map_err(failed)?;
                size += count as u64;
            }
            if size > limit {
                let what = format!("{name} has more than {limit} bytes");
                return Err(Trouble::Once(what, "allow more by --max-download, or split the file".into()));
            }
            Ok(Fetched { size, digest: hasher.finish() })
        })
    }

    /// Sends the file at `path` to `url` by PUT.
    pub fn upload(&self, path: &Path, url: &str) -> Result<(), Error> {
        let name = without_query(url);
        let unreadable = |error: std::io::Error| Error::output(path, &error);
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_PUT {
            let what = format!("{} has {size} bytes, and one PUT takes at most {MAX_PUT}", path.display());
            return Err(Error::Transfer { what, next: "do the run in shards, each with a part of its own".into() });
        }
        self.try_again(|| {
            let file = File::open(path).map_err(|error| Trouble::Once(error.to_string(), String::new()))?;
            let mut request = self.agent.put(url).header("content-type", "application/octet-stream");
            request = request.header("content-length", size.to_string());
            if is_azure(url) {
                // Azure Blob Storage refuses a PUT that does not say what kind of blob it makes.
                request = request.header("x-ms-blob-type", "BlockBlob");
            }
            let answer = request.send(&file).map_err(|error| Trouble::Again(format!("{name}: {error}")))?;
            let next = "check that the URL may be written to; a signed one may have expired or be for reading only";
            judge(answer.status().as_u16(), &format!("{name} does not take the results"), next)
        })
    }

    fn try_again<T>(&self, mut one: impl FnMut() -> Result<T, Trouble>) -> Result<T, Error> {
        let mut pause = self.pause;
        let mut tries = 1;
        loop {
            match one() {
                Ok(done) => return Ok(done),
                Err(Trouble::Once(what, next)) => return Err(Error::Transfer { what, next }),
                Err(Trouble::Again(what)) if tries == TRIES || self.is_stopped() => {
                    let what = format!("{what} (tried {tries} times)");
                    let next =
                        "check the network and the server, then run the same command: it goes on where it stopped";
                    return Err(Error::Transfer { what, next: next.into() });
                }
                Err(Trouble::Again(_)) => {
                    let until = Instant::now() + pause;
                    while Instant::now() < until && !self.is_stopped() {
                        thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
                    }
                    (pause, tries) = (pause * 2, tries + 1);
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

const FREE_ROOM: &str = "free some room on that disk, then run the same command: it goes on where it stopped";

fn judge(status: u16, what: &str, next: &str) -> Result<(), Trouble> {
    match status {
        200..=299 => Ok(()),
        408 | 425 | 429 | 500.. => Err(Trouble::Again(format!("{what}: the server answers {status}"))),
        status => Err(Trouble::Once(format!("{what}: the server answers {status}"), next.to_owned())),
    }
}

fn is_azure(url: &str) -> bool {
    let host = url.split_once("://").map_or("", |(_, rest)| rest).split(['/', '?', ':']).next().unwrap_or_default();
    let host = host.to_ascii_lowercase();
    [".blob.core.windows.net", ".blob.core.chinacloudapi.cn", ".blob.core.usgovcloudapi.net"]
        .iter()
        .any(|end| host.ends_with(end))
}

/// Fetches the files of a unit before it is read.
#[derive(Debug)]
pub struct Fetcher {
    web: Option<Web>,
    folder: PathBuf,
    limit: u64,
    known: Known,
    here: Vec<PathBuf>,
}

impl Fetcher {
    /// Fetches into `folder`, at most `limit` bytes a file; `known` is what the runs before this one got.
    pub fn new(web: Option<Web>, folder: PathBuf, limit: u64, known: Known) -> Self {
        Self { web, folder, limit, known, here: Vec::new() }
    }

    /// The unit with all files here; none where they are already.
    pub fn fetch(&mut self, unit: &Unit) -> Result<Option<Unit>, Error> {
        if unit.files().iter().all(|input| matches!(input.place, Place::File(_))) {
            return Ok(None);
        }
        Ok(Some(match unit {
            Unit::Table(input) => Unit::Table(self.fetch_one(input)?),
            Unit::Images(images) => {
                Unit::Images(images.iter().map(|image| self.fetch_one(image)).collect::<Result<_, _>>()?)
            }
        }))
    }

    fn fetch_one(&mut self, input: &Input) -> Result<Input, Error> {
        let (Place::Url(url), Some(web)) = (&input.place, &self.web) else { return Ok(input.clone()) };
        let path = self.folder.join(format!("input-{}", self.here.len()));
        self.here.push(path.clone());
        let fetched = web.download(url, &path, self.limit)?;
        let size = fetched.size;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&input.name) {
            Some(before) if *before != fetched => {
                let what = format!("{} is not what it was when the run began", input.name);
                return Err(Error::Conflict { what, next: "begin again with --restart".into() });
            }
            _ => {}
        }
        known.insert(input.name.clone(), fetched);
        drop(known);
        Ok(input.fetched(path, size))
    }

    /// Removes what was fetched.
    pub fn forget(&mut self) {
        for path in self.here.drain(..) {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests;
