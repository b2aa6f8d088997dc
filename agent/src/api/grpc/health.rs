//! gRPC's health check: of the server, of the inference service, and of each model by its name.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status};

use super::super::Api;
use super::super::caller::Caller;
use super::super::error::Error;
use super::super::find;
use proto::health_check_response::ServingStatus;
use proto::health_server::Health;
use proto::{HealthCheckRequest, HealthCheckResponse};

/// The messages and the service.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod proto {
    include!("generated/grpc.health.v1.rs");
}

/// How often a watched state is looked at.
const PERIOD: Duration = Duration::from_secs(1);

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

    fn status(&self, caller: Caller, service: &str) -> ServingStatus {
        match service {
            "" | "inference.GRPCInferenceService" if !find::is_ready(&self.api) => ServingStatus::NotServing,
            "" | "inference.GRPCInferenceService" => ServingStatus::Serving,
            model => match self.api.find(caller, model, None) {
                Ok(_) => ServingStatus::Serving,
                Err(Error::NotReady(_)) => ServingStatus::NotServing,
                Err(_) => ServingStatus::ServiceUnknown,
            },
        }
    }
}

#[tonic::async_trait]
impl Health for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let caller = super::service::caller(&request);
        let service = request.into_inner().service;
        match self.status(caller, &service) {
            ServingStatus::ServiceUnknown => Err(Error::unknown_model(&service).into()),
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = super::service::caller(&request);
        let state = (self.clone(), request.into_inner().service, None);
        let changes = stream::unfold(state, move |(watched, service, told)| async move {
            let mut status = watched.status(caller, &service);
            while told == Some(status) {
                tokio::time::sleep(PERIOD).await;
                status = watched.status(caller, &service);
            }
            Some((Ok(HealthCheckResponse { status: status.into() }), (watched, service, Some(status))))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
