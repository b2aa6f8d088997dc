//! The HTTP API of a device, on a loopback address and a Unix socket: the Open Inference Protocol, simple
//! scoring, status and metrics. It asks the executor and the slots and knows neither the store nor the
//! network behind the agent; its router is also what a pod serves.

mod answers;
mod azure;
mod body;
mod caller;
mod document;
pub(crate) mod error;
mod exchange;
mod find;
mod gate;
mod grpc;
mod guard;
mod keys;
mod metrics;
mod mlflow;
pub(crate) mod nested;
mod object;
mod observe;
mod page;
mod patience;
pub(crate) mod rows;
pub(crate) mod score;
mod serve;
mod services;
pub(crate) mod table;
mod v1;
mod v2;
mod verbs;
mod veto;
pub(crate) mod walk;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde_json::json;
use tokio::sync::watch;

use crate::config::Config;
use crate::driver::Status;
use crate::engine::{Executor, Loaded, Tensor, executor};
use crate::run;
use crate::veto::Vetoes;

use caller::Caller;
use find::Found;
use gate::Pass;

pub use error::Error;
pub use guard::Exposure;
pub use keys::{Hash, Keys};
pub use observe::{End, Finished, Head, Observer, Part, Work};
pub use serve::Server;
pub use services::{Revision, RevisionView, Service, Services, Settings, View};

/// A model's inputs by name.
type Inputs = BTreeMap<String, Tensor>;

const DIGEST: HeaderName = HeaderName::from_static("muster-bundle-digest");
const VERSION: HeaderName = HeaderName::from_static("muster-model-version");

/// What a request may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body in bytes, as sent and unpacked.
    pub body: usize,
    /// All bodies that are held at once, in bytes.
    pub bodies: usize,
    /// From a request's head to its answer.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: 64 << 20, bodies: 256 << 20, time: Duration::from_secs(60) }
    }
}

/// What the routes answer from.
#[derive(Debug)]
pub struct Api {
    executor: Arc<Executor>,
    status: Option<watch::Receiver<Status>>,
    disk: Option<PathBuf>,
    vetoes: Option<Arc<Vetoes>>,
    services: Option<Arc<Services>>,
    watch: observe::Watch,
    budget: body::Budget,
    limits: Limits,
}

impl Api {
    /// Answers with what the executor's slots hold.
    pub fn new(executor: Arc<Executor>, limits: Limits) -> Self {
        let budget = body::Budget::new(limits.body, limits.bodies);
        Self { executor, status: None, disk: None, vetoes: None, services: None, watch: None, budget, limits }
    }

    /// Also tells what the agent does.
    pub fn with_status(self, status: watch::Receiver<Status>) -> Self {
        Self { status: Some(status), ..self }
    }

    /// Also tells how much room is left where `folder` lies.
    pub fn with_disk(self, folder: PathBuf) -> Self {
        Self { disk: Some(folder), ..self }
    }

    /// Also takes vetoes.
    pub fn with_vetoes(self, vetoes: Arc<Vetoes>) -> Self {
        Self { vetoes: Some(vetoes), ..self }
    }

    /// Answers with these services, each behind its keys and its gate, instead of with the slots.
    pub fn with_services(self, services: Arc<Services>) -> Self {
        Self { services: Some(services), ..self }
    }

    /// Also tells `observer` what becomes of each scoring request.
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { watch: Some(observer), ..self }
    }

    /// How long a request may take in all.
    fn time(&self) -> Duration {
        self.services.as_ref().map_or(self.limits.time, |services| services.longest())
    }

    /// What the body of a request to `found` may take.
    fn budget_of(&self, (slot, _): &Found) -> body::Budget {
        let service = self.services.as_ref().and_then(|services| services.get(slot)).and_then(Result::ok);
        match service {
            Some(service) => self.budget.with_limit(service.settings.body_bytes.min(self.limits.bodies)),
            None => self.budget.clone(),
        }
    }

    /// Runs `inputs` on what was found, once its service lets the request through. Whoever gives up waiting is not
    /// computed for.
    async fn infer(&self, caller: Caller, found: &Found, inputs: Inputs) -> Result<executor::Inference, Error> {
        // A request that cannot be computed takes nobody's turn.
        found.1.model.check(&inputs)?;
        let turn = self.turn(caller, found).await?;
        turn.within(Work::Inference, self.executor.infer_on(Arc::clone(&found.1), inputs)).await
    }

    /// Waits until the service of what was found lets a request through.
    async fn turn(&self, caller: Caller, (slot, _): &Found) -> Result<Turn, Error> {
        let service = self.services.as_ref().and_then(|services| services.get(slot)).and_then(Result::ok);
        let Some(service) = service else { return Ok(Turn { caller, _pass: None }) };
        let caller = caller.within(Some(service.settings.timeout()));
        let waiting = observe::begin(Work::Gate);
        let pass = service.gate.enter(caller.key, caller.deadline).await?;
        drop(waiting);
        Ok(Turn { caller, _pass: Some(pass) })
    }
}

/// A request whose turn it is. Dropping it lets the next one through.
#[derive(Debug)]
struct Turn {
    caller: Caller,
    _pass: Option<Pass>,
}

impl Turn {
    /// The outcome of `run`, or [`Error::Late`] where the caller's deadline comes first.
    async fn within<T>(&self, work: Work, run: impl Future<Output = Result<T, executor::Error>>) -> Result<T, Error> {
        let _timed = observe::begin(work);
        match self.caller.deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), run).await {
                Ok(answer) => Ok(answer?),
                Err(_) => Err(Error::Late),
            },
            None => Ok(run.await?),
        }
    }
}

/// Starts listening on the address and the socket of `config`.
pub async fn start(
    config: &Config,
    executor: Arc<Executor>,
    status: watch::Receiver<Status>,
    vetoes: Arc<Vetoes>,
) -> Result<Server, run::Error> {
    let api = Api::new(executor, Limits::default());
    let api = api.with_status(status).with_disk(config.data.clone()).with_vetoes(vetoes);
    let (api, mut server) = (Arc::new(api), Server::default());
    if let Some(address) = config.http {
        let exposure = if address.ip().is_loopback() { Exposure::Loopback } else { Exposure::Network };
        if exposure == Exposure::Network {
            tracing::warn!(%address, "the local API asks nobody who they are: everyone who reaches this address may use it");
        }
        server.listen(address, router(&api, exposure)).await?;
    }
    if let Some(path) = &config.socket {
        server.listen_socket(path, router(&api, Exposure::Socket)).await?;
    }
    Ok(server)
}

/// The routes of an admin listener: health, metrics, and `own`.
pub fn admin_router(api: &Arc<Api>, own: Router, exposure: Exposure) -> Router {
    Router::new()
        .route("/healthz", get(v2::live))
        .route("/v2/health/live", get(v2::live))
        .route("/v2/health/ready", get(v2::ready))
        .route("/metrics", get(metrics::metrics))
        .with_state(Arc::clone(api))
        .merge(own)
        .fallback(|| async { Error::NotFound("Not Found".into()) })
        .method_not_allowed_fallback(|| async { Error::WrongVerb(None) })
        .layer(from_fn_with_state(exposure, guard::admit))
        .layer(from_fn_with_state(observe::Watch::None, guard::observe))
}

/// All routes.
pub fn router(api: &Arc<Api>, exposure: Exposure) -> Router {
    // Probes come often and have to be answered whatever else goes on.
    let health = Router::new()
        .route("/healthz", get(v2::live))
        .route("/v2/health/live", get(v2::live))
        .route("/v2/health/ready", get(v2::ready));
    let others = Router::new()
        .route("/", get(index))
        .route("/score", get(score::list).post(score::score_only))
        .route("/score/{*slot}", get(score::usage).post(score::score))
        .route("/v2", get(v2::server))
        .route("/v2/", get(v2::server))
        .route("/v2/models", get(v2::models))
        .route("/v2/models/{*model}", get(v2::read).post(v2::write).fallback(v2::refuse))
        .route("/v2/repository/index", post(v2::index))
        .route("/v2/repository/models/{*action}", post(|| v2::not_offered("loading and unloading by request")))
        .route("/v2/systemsharedmemory/{*action}", any(|| v2::not_offered("shared memory")))
        .route("/v2/cudasharedmemory/{*action}", any(|| v2::not_offered("shared memory")))
        .route("/v2/trace/setting", any(|| v2::not_offered("tracing by request")))
        .route("/v2/logging", any(|| v2::not_offered("changing the log by request")))
        .merge(v1::routes())
        .merge(azure::routes())
        .merge(document::routes())
        .merge(page::routes())
        .merge(if api.services.is_some() { Router::new() } else { of_a_device() })
        .layer(from_fn_with_state(Arc::clone(api), guard::limit_time));
    health
        .merge(others)
        .merge(mlflow::routes(api))
        .with_state(Arc::clone(api))
        .merge(grpc::routes(Arc::clone(api)))
        .fallback(|| async { Error::NotFound("Not Found".into()) })
        .method_not_allowed_fallback(|| async { Error::WrongVerb(None) })
        .layer(from_fn_with_state(exposure, guard::admit))
        .layer(from_fn_with_state(api.watch.clone(), guard::observe))
}

/// What only a device tells: a server with services has an admin listener for its own figures.
fn of_a_device() -> Router<Arc<Api>> {
    Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/veto", get(veto::show).put(veto::ask).delete(veto::take_back))
}

/// `GET /`: where to go from here.
async fn index(headers: HeaderMap) -> Response {
    if page::is_preferred(&headers) {
        return page::page();
    }
    let index = json!({
        // KServe's first protocol asks here whether a server is alive.
        "status": "alive",
        "name": "muster-agent",
        "version": env!("CARGO_PKG_VERSION"),
        "routes": {
            "GET /score": "which slots answer, and how to ask them",
            "POST /score/SLOT": "an inference: JSON, .npy, PNG or JPEG in, the answer after the output transforms out",
            "GET /v2": "the Open Inference Protocol, version 2",
            "GET /v2/models": "the models",
            "POST /v2/models/MODEL/infer": "an inference with the model's own tensors",
            "GET /v2/health/ready": "whether a model answers",
            "GET /healthz": "whether this process answers",
            "GET /status": "what the agent does",
            "PUT /v1/veto": "asks to wait with the switch to another version: {\"seconds\": 3600, \"reason\": \"…\"}",
            "GET /v1/veto": "the vetoes that hold now; DELETE takes back what was asked here",
            "GET /metrics": "figures for Prometheus",
            "POST /v1/models/MODEL:predict": "an inference as KServe's first protocol has it",
            "POST /invocations/SLOT": "an inference as MLflow's scoring server has it; /ping, /health and /version go with it",
            "POST /api/v1/service/SLOT/score": "an inference as Azure ML's first web services have it",
            "GET /openapi.json": "all routes and tensors in OpenAPI 3.1; /openapi/SLOT for one slot, /swagger.json in Swagger 2.0",
            "GET /ui": "a page on which models can be tried",
        }
    });
    Json(index).into_response()
}

/// `GET /status`
async fn status(State(api): State<Arc<Api>>) -> Result<Json<Status>, Error> {
    let status = api.status.as_ref().map(|status| status.borrow().clone());
    status.map(Json).ok_or_else(|| Error::NotFound("there is no agent behind this server, and so no status".into()))
}

/// The headers that say which bundle has answered.
fn provenance(loaded: &Loaded, headers: &mut HeaderMap) {
    headers.insert(VERSION, HeaderValue::from(loaded.manifest.version.0));
    // Hexadecimal digits are a header's value.
    if let Ok(digest) = HeaderValue::from_str(&loaded.digest.to_string()) {
        headers.insert(DIGEST, digest);
    }
}

/// Runs `work` here, or on a thread of its own where it would keep the others waiting.
async fn compute<T: Send + 'static>(
    is_heavy: bool,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    if !is_heavy {
        return work();
    }
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        tracing::error!(%error, "the work on a request did not end");
        Err(Error::Internal)
    })
}

#[cfg(test)]
mod tests;
