//! A service as a process beside the dispatcher. The process outlives the dispatcher: a restart of the one costs no
//! request of the other. It is steered over a Unix socket in the service's folder.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_agent::api::{Hash, Keys, View};
use muster_agent::serve::config::{Model, Service as Asked};
use muster_agent::serve::{self, Document};
use muster_proto::code::Code;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::bundles::Bundles;
use super::process;
use super::socket::{self, Answer, Request};
use super::{Error, Observed, Wanted};
use crate::cluster::plan::bounds;
use crate::domain::service::{Service, State, Target};

/// How often a service is looked at where nothing changes.
const LOOK: Duration = Duration::from_secs(1);
/// How often while it is on its way.
const LOOK_SOON: Duration = Duration::from_millis(100);
/// How long a process may take to open its socket.
const START: Duration = Duration::from_secs(20);
/// How long one may take to end.
const END: Duration = Duration::from_secs(40);
/// The longest wait before another start.
const BACK_OFF: Duration = Duration::from_secs(30);
/// So many starts in a row without an answer, and the service has failed, though it is tried on.
const HOPELESS: u32 = 3;

/// What fits into an address of a Unix socket, with the name that it is bound under at first (sun_path, 108 bytes).
const MAX_SOCKET: usize = 98;
const SOCKET: &str = "admin.sock";
const DOCUMENT: &str = "serve.json";
/// The operator's own key of this run of the dispatcher; the server knows its hash.
const KEY: &str = "operator-key";

/// Where a service with this base answers in the simple form.
pub fn scoring_url(base: &str) -> String {
    format!("{base}/score")
}

/// Keeps the service of `wanted` as it is to be until it is gone, and tells how it is.
pub(super) async fn supervise(
    bundles: Bundles,
    folder: PathBuf,
    mut wanted: watch::Receiver<Wanted>,
    tell: watch::Sender<Observed>,
) {
    let mut server = Server { bundles, folder, child: None, applied: None, starts: 0, next_start: Instant::now() };
    loop {
        let now = wanted.borrow_and_update().clone();
        if now.gone {
            server.end().await;
            tell.send_modify(|last| last.gone = true);
            return;
        }
        let observed = match server.turn(&now.service).await {
            Ok(observed) => observed,
            Err(error) => server.trouble(&now.service, &error),
        };
        let soon = observed.state == State::Transitioning;
        tell.send_if_modified(|last| {
            let same =
                (last.state, &last.reason, last.generation) == (observed.state, &observed.reason, observed.generation);
            if !same {
                let (service, state, reason) = (&now.service.name, observed.state, &observed.reason);
                tracing::info!(service, %state, reason, generation = observed.generation, "service");
            }
            let since = if same { last.since } else { observed.since };
            let changed = !same || last.url != observed.url || last.answered != observed.answered;
            *last = Observed { since, ..observed };
            changed
        });
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(if soon { LOOK_SOON } else { LOOK }) => {}
        }
    }
}

/// Asks the service in `folder` at `url` with the operator's key.
pub(super) async fn ask(folder: &Path, url: &str, request: Request) -> Result<Answer, Error> {
    let key = tokio::fs::read_to_string(folder.join(KEY)).await.ok();
    let address = url.strip_prefix("http://").unwrap_or(url);
    socket::over_tcp(address, Request { key, ..request }).await
}

struct Server {
    bundles: Bundles,
    folder: PathBuf,
    /// The process, where this dispatcher has started it.
    child: Option<Child>,
    /// The generation that the server has taken.
    applied: Option<u64>,
    /// Starts since the server last answered.
    starts: u32,
    next_start: Instant,
}

#[derive(Deserialize)]
struct Shown {
    services: Vec<View>,
}

impl Server {
    /// One look, and what follows from it.
    async fn turn(&mut self, service: &Service) -> Result<Observed, Error> {
        let on_its_way = |reason: &str| Ok(Observed::new(State::Transitioning, reason, service.generation));
        let shown = self.steer("GET", "/v1/services", Bytes::new()).await;
        let Ok(answer) = shown else {
            self.applied = None;
            return self.bring_up(service).await;
        };
        if self.applied == Some(service.generation) {
            self.starts = 0;
            return self.seen(service, &answer);
        }
        let document = self.document(service).await?;
        // What the server would read again is what it is told now.
        self.write(&document).await?;
        let change = json!({"service": document.services}).to_string();
        let answer = self.steer("PUT", "/v1/services", change.into()).await?;
        if answer.status != 200 {
            return Err(refused(&answer));
        }
        self.applied = Some(service.generation);
        self.starts = 0;
        match self.seen(service, &answer)? {
            Observed { state: State::Transitioning, reason, .. } => on_its_way(&reason),
            seen => Ok(seen),
        }
    }

    /// Starts the process where none runs.
    async fn bring_up(&mut self, service: &Service) -> Result<Observed, Error> {
        let waiting = |reason: String| Ok(Observed::new(State::Transitioning, reason, service.generation));
        if let Some(child) = &mut self.child {
            match child.try_wait() {
                Ok(None) if Instant::now() < self.next_start => {
                    return waiting("the scoring server is starting".into());
                }
                Ok(None) => {
                    process::kill(child.id());
                    let _ = child.wait();
                }
                _ => {}
            }
            self.child = None;
            let wait = Duration::from_millis(250).saturating_mul(1 << self.starts.min(10)).min(BACK_OFF);
            self.next_start = Instant::now() + wait;
        }
        let failed = (self.starts >= HOPELESS).then(|| self.last_words());
        if Instant::now() < self.next_start {
            return match failed {
                Some(words) => Ok(Observed::new(State::Failed, words, service.generation)),
                None => waiting("the scoring server ended and is started again".into()),
            };
        }
        let socket = self.folder.join(SOCKET);
        if socket.as_os_str().len() > MAX_SOCKET {
            let long = socket.display();
            return Err(Error::Program(format!(
                "{long} is too long for a Unix socket: give the dispatcher a data folder with a shorter path"
            )));
        }
        tokio::fs::create_dir_all(&self.folder).await.map_err(at(&self.folder))?;
        let document = self.document(service).await?;
        let path = self.write(&document).await?;
        self.child = Some(process::start(&self.folder, &path)?);
        self.starts += 1;
        self.next_start = Instant::now() + START;
        match failed {
            Some(words) => Ok(Observed::new(State::Failed, words, service.generation)),
            None => waiting("the scoring server is starting".into()),
        }
    }

    /// What the server shows, in the words of a service.
    fn seen(&self, service: &Service, answer: &Answer) -> Result<Observed, Error> {
        let shown: Shown = serde_json::from_slice(&answer.body)
            .map_err(|error| Error::Unreachable(format!("its answer cannot be read: {error}")))?;
        let generation = service.generation;
        let Some(view) = shown.services.into_iter().find(|view| view.name.as_str() == service.name) else {
            return Ok(Observed::new(State::Transitioning, "the scoring server takes the service on", generation));
        };
        let loading = view.reason.as_deref() == Some("it is being loaded");
        let answering: Vec<String> = view.revisions.iter().map(|revision| revision.model.clone()).collect();
        let (state, reason) = match view.reason {
            None => (State::Healthy, String::new()),
            Some(reason) if loading => (State::Transitioning, reason),
            Some(reason) if answering.is_empty() => (State::Failed, reason),
            Some(reason) => (State::Failed, format!("{reason}; {} goes on answering", answering.join(" and "))),
        };
        let answered = view.revisions.iter().map(|revision| revision.ok).collect();
        let url = self.held_port().map(|port| format!("http://127.0.0.1:{port}"));
        Ok(Observed { url, answered, ..Observed::new(state, reason, generation) })
    }

    fn trouble(&self, service: &Service, error: &Error) -> Observed {
        let transient = matches!(error, Error::Unreachable(_));
        let state = if transient { State::Unhealthy } else { State::Failed };
        let url = self.held_port().map(|port| format!("http://127.0.0.1:{port}"));
        Observed { url, ..Observed::new(state, format!("{error} [{}]", error.code()), service.generation) }
    }

    /// The whole document of the server.
    async fn document(&self, service: &Service) -> Result<Document, Error> {
        let mut models = Vec::with_capacity(service.revisions.len());
        for revision in &service.revisions {
            let (model, version) = (revision.model.parse(), muster_proto::id::Version(u64::from(revision.version)));
            let digest = revision.digest.parse();
            let (Ok(model), Ok(digest)) = (model, digest) else {
                return Err(Error::Unknown(format!("version {}:{}", revision.model, revision.version)));
            };
            let bundle = self.bundles.lay_out(&model, version, digest).await?;
            models.push(Model {
                version: Some(format!("{model}:{version}")),
                digest: Some(digest),
                bundle: Some(bundle),
                traffic: Some(revision.traffic),
            });
        }
        let settings = &service.settings;
        let mut keys = Keys::default();
        if settings.auth {
            keys.0 = settings.key_hashes.iter().filter_map(|hash| hash.parse().ok()).collect();
            keys.0.push(Hash::of(&self.operator_key().await?));
        }
        let bounds = bounds(settings);
        let name = service.name.parse().map_err(|_| Error::Unknown(service.name.clone()))?;
        let named = match &service.target {
            Target::Local(local) => local.port,
            Target::Kubernetes(_) => None,
        };
        let port = match named.or_else(|| self.held_port()) {
            Some(port) => port,
            None => free_port().map_err(at(&self.folder))?,
        };
        Ok(Document {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            admin_socket: Some(self.folder.join(SOCKET)),
            trust_root: Some(self.bundles.root().await?),
            services: vec![Asked { name, models, keys, keys_file: None, settings: bounds }],
            ..Document::default()
        })
    }

    /// Keeps the document beside the server, and tells where. Keys are hashed in it, and still nobody else's business.
    async fn write(&self, document: &Document) -> Result<PathBuf, Error> {
        let path = self.folder.join(DOCUMENT);
        let text = serde_json::to_string_pretty(document).map_err(|error| {
            Error::Program(format!("the data folder's path cannot be written in a document: {error}"))
        })?;
        write_private(&path, text.as_bytes()).await?;
        Ok(path)
    }

    /// A key of the dispatcher's own, so that operators can ask without the service's keys, of which only hashes are kept.
    async fn operator_key(&self) -> Result<String, Error> {
        let path = self.folder.join(KEY);
        if let Ok(key) = tokio::fs::read_to_string(&path).await {
            return Ok(key);
        }
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| Error::Program(format!("no key can be made: {error}")))?;
        let key = hex::encode(bytes);
        write_private(&path, key.as_bytes()).await?;
        Ok(key)
    }

    /// The port of the last document: a service keeps its address.
    fn held_port(&self) -> Option<u16> {
        let text = std::fs::read(self.folder.join(DOCUMENT)).ok()?;
        let document: serve::Document = serde_json::from_slice(&text).ok()?;
        Some(document.listen.port()).filter(|port| *port != 0)
    }

    async fn steer(&self, method: &'static str, path: &str, body: Bytes) -> Result<Answer, Error> {
        let content_type = (!body.is_empty()).then(|| "application/json".to_owned());
        let request = Request { method, path: path.to_owned(), key: None, content_type, body };
        socket::over_socket(&self.folder.join(SOCKET), request).await
    }

    fn last_words(&self) -> String {
        let log = process::tail(&self.folder.join(process::LOG), 2).unwrap_or_default();
        let log = log.trim().replace('\n', " · ");
        let log: String = log.chars().take(400).collect();
        format!("the scoring server ended {} times in a row; its last words: {log}", self.starts)
    }

    /// Ends the process, in good order where it still listens.
    async fn end(&mut self) {
        let asked = self.steer("POST", "/v1/stop", Bytes::new()).await.is_ok();
        let until = Instant::now() + END;
        let socket = self.folder.join(SOCKET);
        // The server removes its socket last.
        while asked && Instant::now() < until && socket.exists() {
            tokio::time::sleep(LOOK_SOON).await;
        }
        if let Some(mut child) = self.child.take() {
            if !asked {
                process::terminate(child.id());
            }
            let ended = tokio::task::spawn_blocking(move || {
                while Instant::now() < until {
                    if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                        return;
                    }
                    std::thread::sleep(LOOK_SOON);
                }
                process::kill(child.id());
                let _ = child.wait();
            });
            let _ = ended.await;
        }
    }
}

fn refused(answer: &Answer) -> Error {
    #[derive(Deserialize)]
    struct Told {
        error: String,
        code: Code,
    }
    match serde_json::from_slice::<Told>(&answer.body) {
        Ok(Told { error, code }) => Error::Refused { code, message: error },
        Err(_) => Error::Unreachable(format!("status {}", answer.status)),
    }
}

/// A port that is free now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Writes what only its owner may read; a reader sees the old or the new, never a part.
async fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use tokio::io::AsyncWriteExt as _;
    let hidden = path.with_extension("new");
    let mut file = tokio::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&hidden)
        .await
        .map_err(at(&hidden))?;
    file.write_all(bytes).await.map_err(at(&hidden))?;
    file.sync_all().await.map_err(at(&hidden))?;
    tokio::fs::rename(&hidden, path).await.map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Disk { path, source }
}
