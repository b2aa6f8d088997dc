//! What happens, as it happens: server-sent events of everything, or of one rollout until it ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Stopping;
use super::auth::Viewer;
use super::extract::At;
use super::problem::Result;
use crate::app::{App, RolloutDetail, RolloutId, WatchEvent};

/// How often a silent stream says that it lives, so that no proxy cuts it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After so long without an event the rollout's numbers are told, if something happened since.
const PROGRESS: Duration = Duration::from_millis(500);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(everything)).routes(routes!(rollout))
}

/// Watch everything
///
/// Server-sent events named `device`, `rollout`, `rollout_device`, `decision` and `registration`, and `lagged` where this
/// watcher was too slow and lost some.
#[utoipa::path(get, path = "/v1/events", operation_id = "watch", tag = "info",
    responses((status = 200, description = "A stream that does not end.", body = WatchEvent, content_type = "text/event-stream")),
    security(("bearer" = ["viewer"])))]
async fn everything(_: Viewer, State(app): State<App>, stopping: Option<Extension<Stopping>>) -> impl IntoResponse {
    let events = stream::unfold(app.events(), |mut receiver| async {
        let event = match receiver.recv().await {
            Ok(happened) => event(name(&happened), &happened),
            Err(RecvError::Lagged(missed)) => event("lagged", &missed),
            Err(RecvError::Closed) => return None,
        };
        Some((event, receiver))
    });
    answer(events, stopping)
}

/// Watch a rollout
///
/// Server-sent events. The first, `snapshot`, is the rollout as it stands; then each `rollout_device`, `decision` and
/// `rollout` of it, and once a second while something happens a `progress` without the devices; a last `snapshot` once
/// it has ended, and the stream ends as well. A watcher that was too slow gets a `snapshot`
/// in place of what it lost.
#[utoipa::path(get, path = "/v1/rollouts/{id}/events", operation_id = "watchRollout", tag = "rollouts",
    params(("id" = String, Path, description = "The rollout.", example = "r12")),
    responses((status = 200, description = "A stream that ends with the rollout.", body = RolloutDetail, content_type = "text/event-stream")),
    security(("bearer" = ["viewer"])))]
async fn rollout(
    _: Viewer,
    State(app): State<App>,
    At(id): At<RolloutId>,
    stopping: Option<Extension<Stopping>>,
) -> Result<impl IntoResponse> {
    // Subscribed before the snapshot is taken: what happens in between is told twice rather than lost.
    let receiver = app.events();
    let first = app.show_rollout(id).await?;
    let watch =
        Watch { app, id, receiver, queue: VecDeque::new(), ended: first.rollout.status.has_ended(), changed: false };
    let events = stream::unfold(watch.queued(event("snapshot", &first)), Watch::next);
    Ok(answer(events, stopping))
}

/// One rollout's stream.
struct Watch {
    app: App,
    id: RolloutId,
    receiver: Receiver<WatchEvent>,
    queue: VecDeque<Event>,
    ended: bool,
    /// Something happened since the last progress was told.
    changed: bool,
}

impl Watch {
    fn queued(mut self, event: Event) -> Self {
        self.queue.push_back(event);
        self
    }

    async fn next(mut self) -> Option<(Event, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some((event, self));
            }
            if self.ended {
                return None;
            }
            match tokio::time::timeout(PROGRESS, self.receiver.recv()).await {
                Ok(Ok(happened)) => self.take(&happened).await,
                Ok(Err(RecvError::Lagged(_))) => self.snapshot().await,
                Ok(Err(RecvError::Closed)) => return None,
                Err(_quiet) => self.progress().await,
            }
        }
    }

    async fn take(&mut self, happened: &WatchEvent) {
        match happened {
            WatchEvent::RolloutDevice { rollout, .. } | WatchEvent::Decision { rollout, .. } if *rollout == self.id => {
                self.changed = true;
                self.queue.push_back(event(name(happened), happened));
            }
            WatchEvent::Rollout { rollout, status, .. } if *rollout == self.id => {
                self.queue.push_back(event(name(happened), happened));
                self.changed = true;
                if status.has_ended() {
                    self.snapshot().await;
                }
            }
            _ => {}
        }
    }

    async fn progress(&mut self) {
        if std::mem::take(&mut self.changed)
            && let Ok(view) = self.app.view_rollout(self.id).await
        {
            self.queue.push_back(event("progress", &view));
        }
    }

    /// A rollout that can no longer be read has ended.
    async fn snapshot(&mut self) {
        match self.app.show_rollout(self.id).await {
            Ok(detail) => {
                self.ended = detail.rollout.status.has_ended();
                self.queue.push_back(event("snapshot", &detail));
            }
            Err(error) => {
                tracing::warn!(rollout = %self.id, %error, "a watched rollout cannot be read");
                self.ended = true;
            }
        }
    }
}

fn answer(
    events: impl Stream<Item = Event> + Send + 'static,
    stopping: Option<Extension<Stopping>>,
) -> impl IntoResponse {
    // Without a server there is none that stops, as in tests.
    let stopped = async move {
        match stopping {
            Some(Extension(stopping)) => stopping.wait().await,
            None => std::future::pending().await,
        }
    };
    Sse::new(events.take_until(Box::pin(stopped)).map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn name(happened: &WatchEvent) -> &'static str {
    match happened {
        WatchEvent::Device { .. } => "device",
        WatchEvent::RolloutDevice { .. } => "rollout_device",
        WatchEvent::Rollout { .. } => "rollout",
        WatchEvent::Decision { .. } => "decision",
        WatchEvent::Registration { .. } => "registration",
    }
}

fn event(name: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_string(data).expect("views serialise");
    Event::default().event(name).data(data)
}
