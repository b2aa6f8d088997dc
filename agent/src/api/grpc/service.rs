//! The protocol's methods.

use std::pin::Pin;
use std::sync::Arc;

use axum::http::HeaderMap;
use futures_util::{Stream, StreamExt, stream};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status, Streaming};

use super::super::caller::Caller;
use super::super::error::Error;
use super::super::find::{self, Found};
use super::super::observe::Record;
use super::super::v2::{self, model};
use super::super::{Api, provenance};
use super::proto::grpc_inference_service_server::GrpcInferenceService;
use super::proto::infer_parameter::ParameterChoice;
use super::proto::*;
use super::status::Deadline;
use super::{documents, infer};
use crate::engine::Loaded;

/// Answers with what the API's slots hold.
#[derive(Debug, Clone)]
pub struct Service {
    api: Arc<Api>,
}

impl Service {
    /// Answers for `api`.
    pub fn new(api: Arc<Api>) -> Self {
        Self { api }
    }

    fn find(&self, caller: Caller, name: &str, version: &str) -> Result<Found, Error> {
        self.api.find(caller, name, Some(version).filter(|version| !version.is_empty()))
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    type ModelStreamInferStream = Pin<Box<dyn Stream<Item = Result<ModelStreamInferResponse, Status>> + Send>>;

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Result<Response<ServerLiveResponse>, Status> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Result<Response<ServerReadyResponse>, Status> {
        Ok(Response::new(ServerReadyResponse { ready: find::is_ready(&self.api) }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Result<Response<ModelReadyResponse>, Status> {
        let caller = caller(&request);
        let ModelReadyRequest { name, version } = request.into_inner();
        match self.find(caller, &name, &version) {
            Ok(_) => Ok(Response::new(ModelReadyResponse { ready: true })),
            Err(Error::NotFound(_) | Error::NotReady(_)) => Ok(Response::new(ModelReadyResponse { ready: false })),
            Err(error) => Err(error.into()),
        }
    }

    async fn server_metadata(
        &self,
        _: Request<ServerMetadataRequest>,
    ) -> Result<Response<ServerMetadataResponse>, Status> {
        Ok(Response::new(ServerMetadataResponse {
            name: "muster-agent".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            extensions: v2::EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<ModelMetadataRequest>,
    ) -> Result<Response<ModelMetadataResponse>, Status> {
        let caller = caller(&request);
        let ModelMetadataRequest { name, version } = request.into_inner();
        let found = self.find(caller, &name, &version)?;
        Ok(from(&found.1, documents::metadata(&found)))
    }

    async fn model_config(
        &self,
        request: Request<ModelConfigRequest>,
    ) -> Result<Response<ModelConfigResponse>, Status> {
        let caller = caller(&request);
        let ModelConfigRequest { name, version } = request.into_inner();
        let found = self.find(caller, &name, &version)?;
        Ok(from(&found.1, ModelConfigResponse { config: Some(documents::config(&found)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<ModelStatisticsRequest>,
    ) -> Result<Response<ModelStatisticsResponse>, Status> {
        let caller = caller(&request);
        let ModelStatisticsRequest { name, version } = request.into_inner();
        let found =
            if name.is_empty() { self.api.answering(caller) } else { vec![self.find(caller, &name, &version)?] };
        Ok(Response::new(ModelStatisticsResponse { model_stats: found.iter().map(documents::statistics).collect() }))
    }

    async fn repository_index(
        &self,
        request: Request<RepositoryIndexRequest>,
    ) -> Result<Response<RepositoryIndexResponse>, Status> {
        let caller = caller(&request);
        let models =
            model::index(&self.api, caller, request.into_inner().ready).into_iter().map(documents::entry).collect();
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Result<Response<ModelInferResponse>, Status> {
        let caller = caller(&request);
        // The extensions hold what is counted for the message.
        let (_, extensions, message) = request.into_parts();
        let (answer, loaded) = infer::infer(&self.api, caller, message, deadline(&self.api, &extensions)).await?;
        Ok(from(&loaded, answer))
    }

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let caller = caller(&request);
        let (_, extensions, messages) = request.into_parts();
        // Answers are made when this call has long returned.
        let first = (messages, extensions, Arc::clone(&self.api), Record::current());
        let answers = stream::unfold(Some(first), move |state| async move {
            let (mut messages, extensions, api, record) = state?;
            let end = |status: Status| {
                record.iter().for_each(|record| record.ended(status.code().into()));
                Some((Err(status), None))
            };
            let all = extensions.get::<Deadline>().copied();
            let next = match all {
                Some(all) => all.bound(messages.next()).await,
                None => Ok(messages.next().await),
            };
            match next {
                Err(late) => end(late.into()),
                Ok(None) => None,
                // A message that cannot be read leaves nothing to go on with.
                Ok(Some(Err(broken))) => end(broken),
                Ok(Some(Ok(message))) => {
                    let answer = Record::within(record.clone(), answer(&api, caller, message, all)).await;
                    Some((Ok(answer), Some((messages, extensions, api, record))))
                }
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Who asks, by the key that came with the call. Its deadline is [`Deadline`]'s matter.
pub fn caller<T>(request: &Request<T>) -> Caller {
    let headers = request.metadata().clone().into_headers();
    Caller { deadline: None, ..Caller::of(&headers, std::time::Instant::now()) }
}

/// One answer of a stream; a fault is its request's alone.
async fn answer(
    api: &Api,
    caller: Caller,
    message: ModelInferRequest,
    all: Option<Deadline>,
) -> ModelStreamInferResponse {
    let (id, model_name) = (message.id.clone(), message.model_name.clone());
    let limit = api.time();
    let deadline = all.map_or_else(|| Deadline::after(limit), |all| all.within(limit));
    match infer::infer(api, caller, message, deadline).await {
        Ok((mut answer, _)) => {
            // One answer for one request is always the last.
            let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
            answer.parameters.insert("triton_final_response".into(), last);
            ModelStreamInferResponse { infer_response: Some(answer), ..Default::default() }
        }
        Err(status) => ModelStreamInferResponse {
            error_message: status.message().to_owned(),
            infer_response: Some(ModelInferResponse { id, model_name, ..Default::default() }),
        },
    }
}

fn deadline(api: &Api, extensions: &Extensions) -> Deadline {
    extensions.get::<Deadline>().copied().unwrap_or_else(|| Deadline::after(api.time()))
}

/// An answer whose metadata says which bundle it is from.
fn from<T>(loaded: &Loaded, message: T) -> Response<T> {
    let mut headers = HeaderMap::new();
    provenance(loaded, &mut headers);
    Response::from_parts(MetadataMap::from_headers(headers), message, Extensions::default())
}
