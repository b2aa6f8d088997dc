//! The Open Inference Protocol, version 2, over gRPC, with gRPC's own health check and reflection. It serves the
//! same models by the same rules as the REST form, and leaves connections to the server that carries it.
//!
//! `generated/` and `proto/descriptors.bin` are made of `proto/*.proto` by protox 0.9 and tonic-prost-build 0.14,
//! without transport, with clients only for tests, and with `Bytes` for the raw and the BYTES contents.

mod contents;
mod documents;
mod frames;
mod health;
mod infer;
mod request;
mod response;
mod service;
mod status;
mod weigh;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use tonic::Status;
use tonic::codec::CompressionEncoding;

use super::Api;
use super::error::Error;
use frames::Gate;
use health::proto::health_server::HealthServer;
use proto::grpc_inference_service_server::GrpcInferenceServiceServer;

/// The protocol's messages and its service.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
mod proto {
    include!("grpc/generated/inference.rs");
}

/// Both services as reflection tells them.
const DESCRIPTORS: &[u8] = include_bytes!("grpc/proto/descriptors.bin");

/// Whether a request with these headers is a call of gRPC, whose answers are told by its own status.
pub fn is_call(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Refuses a call before any service has seen it.
pub fn refuse(error: Error) -> Response {
    Status::from(error).into_http()
}

/// All services, as routes for a listener that speaks HTTP/2.
pub fn routes(api: Arc<Api>) -> Router {
    let most = api.limits.body;
    let inference = GrpcInferenceServiceServer::new(service::Service::new(Arc::clone(&api)))
        .max_decoding_message_size(most)
        .max_encoding_message_size(most)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Deflate);
    let health = HealthServer::new(health::Service::new(Arc::clone(&api)));
    let mut routes = Router::new()
        .route_service("/inference.GRPCInferenceService/{method}", inference)
        .route_service("/grpc.health.v1.Health/{method}", health);
    let reflection =
        || tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(current), Ok(old)) => {
            routes = routes
                .route_service("/grpc.reflection.v1.ServerReflection/{method}", current)
                .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", old);
        }
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "gRPC reflection is not offered"),
    }
    routes.layer(from_fn_with_state(Gate::new(api), frames::receive))
}

#[cfg(test)]
mod tests;
