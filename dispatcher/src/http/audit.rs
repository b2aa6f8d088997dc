//! The audit log: who changed what, when.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::List;
use super::auth::Viewer;
use super::extract::Params;
use super::problem::Result;
use crate::app::{App, AuditEntry};

/// How many lines there are without a limit.
const USUAL_LIMIT: u32 = 100;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Read the audit log
///
/// Newest first. For the next page, send the smallest `seq` of this one as `before`.
#[utoipa::path(get, path = "/v1/audit", operation_id = "listAudit", tag = "keys",
    params(
        ("before" = Option<u64>, Query, description = "Only lines with a smaller number."),
        ("limit" = Option<u32>, Query, description = "How many lines; 100 by default, at most 1000.")),
    responses((status = 200, description = "The lines.", body = List<AuditEntry>)),
    security(("bearer" = ["viewer"])))]
async fn list(_: Viewer, State(app): State<App>, query: Params) -> Result<axum::Json<List<AuditEntry>>> {
    let query = query.only(&["before", "limit"])?;
    let limit = query.one("limit")?.unwrap_or(USUAL_LIMIT);
    Ok(axum::Json(app.audit(query.one("before")?, limit).await?.into()))
}
