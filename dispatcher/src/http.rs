//! The HTTP API: routes, who may call them, what errors look like, and the document that describes it all.
//!
//! One file per resource. It owns DTOs of the wire, status codes and roles; it talks only to [`App`] and must not know
//! SQL, MQTT or where keys are kept.

pub mod problem;

mod access;
mod auth;
mod extract;
mod openapi;
mod page;

mod audit;
mod devices;
mod enroll;
mod events;
pub mod groups;
mod health;
mod info;
mod keys;
mod metrics;
pub mod models;
mod rollouts;
mod services;
mod telemetry;
mod tuf;
mod uploads;

#[cfg(test)]
mod tests;

use std::future::Future;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::serve::Listener;
use axum::{Extension, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;

/// The largest JSON body in bytes. Samples travel in it: 64 of a 224 × 224 × 3 image are about 90 MB of text, and who
/// needs those registers fewer.
pub const MAX_JSON: usize = 32 << 20;

/// A list as it is answered: an object, so that later versions can add members beside the items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items }
    }
}

/// Every route over `app`.
pub fn router(app: App) -> Router {
    let asks = from_fn_with_state(app.clone(), auth::authenticate);
    let (routes, _) = open().merge(guarded().route_layer(asks)).split_for_parts();
    routes
        .route_layer(from_fn(access::limit_time))
        .merge(openapi::routes(&document()))
        .merge(page::routes())
        .method_not_allowed_fallback(problem::wrong_method)
        .fallback(problem::unknown_route)
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(from_fn(access::log))
        .with_state(app)
}

/// The OpenAPI 3.1 document of those routes.
pub fn document() -> serde_json::Value {
    openapi::finish(open().merge(guarded()).into_openapi())
}

/// The routes that ask for no token.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::base())
        .merge(health::routes())
        .merge(info::public_routes())
        .merge(enroll::routes())
}

/// The routes that ask for a token; one layer stands before all of them, so that none can be forgotten (invariant 14).
fn guarded() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .merge(models::routes())
        .merge(uploads::routes())
        .merge(devices::routes())
        .merge(groups::routes())
        .merge(enroll::token_routes())
        .merge(rollouts::routes())
        .merge(services::routes())
        .merge(events::routes())
        .merge(telemetry::routes())
        .merge(keys::routes())
        .merge(audit::routes())
        .merge(info::routes())
        .merge(metrics::routes())
        .merge(tuf::routes())
}

/// Tells streams that never end by themselves that the server is about to stop.
#[derive(Debug, Clone)]
struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Waits until the server stops.
    async fn wait(mut self) {
        // An error means that the server is gone already.
        let _ = self.0.wait_for(|stopping| *stopping).await;
    }
}

/// Serves `router` on `listener` until `shutdown`, then lets the requests in flight finish; event streams end at once.
/// How long that may take is the caller's to limit.
///
/// # Errors
/// What `axum::serve` reports; it retries failed accepts by itself.
pub async fn serve<L>(
    listener: L,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let (stop, stopping) = watch::channel(false);
    let router = router.layer(Extension(Stopping(stopping)));
    let signal = async move {
        shutdown.await;
        stop.send_replace(true);
    };
    axum::serve(listener, router).with_graceful_shutdown(signal).await
}
