//! Enrolment: tokens that operators make, and the one route that a machine without any identity may call.

use axum::extract::State;
use axum::http::StatusCode;
use muster_proto::enroll::{EnrollRequest, Enrollment};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Operator;
use super::extract::Json;
use super::problem::Result;
use crate::app::{App, EnrollToken, EnrollTokenRequest};

/// What an agent sends. `muster-agent enroll` does all of this.
#[derive(ToSchema)]
#[schema(as = EnrollRequest)]
#[allow(dead_code, reason = "it only describes the type of muster-proto, which knows no OpenAPI")]
struct EnrollRequestDocument {
    /// The invitation's secret.
    secret: String,
    /// The name that the device wants.
    device: String,
    /// The PKCS#10 request of the device's own P-256 key, DER in base64.
    csr: String,
    /// What the device is.
    #[schema(value_type = Object)]
    agent: (),
}

/// All that an enrolled device needs.
#[derive(ToSchema)]
#[schema(as = Enrollment)]
#[allow(dead_code, reason = "it only describes the type of muster-proto, which knows no OpenAPI")]
struct EnrollmentDocument {
    /// The workspace.
    workspace: String,
    /// The device.
    device: String,
    /// The device's certificate as PEM.
    certificate_pem: String,
    /// The certificate of the authority that signed it and the broker's, as PEM.
    ca_pem: String,
    /// Where the broker is: `host`, `port`, `tls`.
    #[schema(value_type = Object)]
    broker: (),
    /// The newest root of the model repository, as JSON text.
    root_json: String,
    /// The newest root of the director, as JSON text.
    director_root_json: String,
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(enroll))
}

pub(super) fn token_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create_token))
}

/// Enrol a device
///
/// Asks for no bearer token: the body carries the one-time secret of an enrolment token.
#[utoipa::path(post, path = "/v1/enroll", operation_id = "enroll", tag = "devices",
    request_body = EnrollRequestDocument,
    responses((status = 200, description = "The device is enrolled.", body = EnrollmentDocument)))]
async fn enroll(State(app): State<App>, Json(request): Json<EnrollRequest>) -> Result<axum::Json<Enrollment>> {
    Ok(axum::Json(app.enroll(request).await?))
}

/// Make an enrolment token
///
/// It is shown once. One device may use it within an hour, unless the body says otherwise.
#[utoipa::path(post, path = "/v1/enroll-tokens", operation_id = "createEnrollToken", tag = "devices",
    request_body(content = EnrollTokenRequest, example = json!({ "groups": ["line-a"], "uses": 12 })),
    responses((status = 201, description = "The token.", body = EnrollToken)),
    security(("bearer" = ["operator"])))]
async fn create_token(
    by: Operator,
    State(app): State<App>,
    Json(request): Json<EnrollTokenRequest>,
) -> Result<(StatusCode, axum::Json<EnrollToken>)> {
    Ok((StatusCode::CREATED, axum::Json(app.create_enroll_token(request, &by.0).await?)))
}
