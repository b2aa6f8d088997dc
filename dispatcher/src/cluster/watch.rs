//! What happens on a cluster, watched and not polled.
//!
//! One task per kind lists and then watches; [`View`] is what all of them have seen, and is pure. A watch that breaks
//! goes on where it stopped; one whose place is too old (410) starts again with a list, in which what was missed shows
//! as a difference.

mod keep;
mod step;
mod view;

use std::time::Duration;

use futures_util::StreamExt as _;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::api::{Cluster, Collection, Selection, refusal};
use super::names::MANAGED_BY;
use super::object::text;
use super::{Error, Kind, MANAGER};

pub use keep::{Keeper, Report};
use step::{Next, Outcome, Place};
pub use view::View;

/// v1 Pod.
pub(super) const PODS: Collection = Collection { api_version: "v1", plural: "pods" };
/// apps/v1 ReplicaSet.
pub(super) const REPLICA_SETS: Collection = Collection { api_version: "apps/v1", plural: "replicasets" };
/// v1 Event.
pub(super) const EVENTS: Collection = Collection { api_version: "v1", plural: "events" };

/// Changes that may wait to be looked at; a watch waits when there are more.
const CHANGES: usize = 1024;

/// How long a watch waits after a failure: twice as long each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After the first.
    pub first: Duration,
    /// At most.
    pub most: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(60) }
    }
}

impl Patience {
    /// The pause after so many failures in a row.
    pub fn pause(self, failures: u32) -> Duration {
        self.first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(self.most)
    }
}

/// What one of the watches saw.
#[derive(Debug)]
pub enum Change {
    /// All that there is, and the version of the list.
    Listed(Collection, Vec<Value>, String),
    /// An object is new or changed.
    Set(Collection, Box<Value>),
    /// An object is gone.
    Gone(Collection, Box<Value>),
    /// A watch has begun, or goes on after a failure.
    Resumed(Collection),
    /// The cluster could not be asked; it is tried again.
    Failed(Collection, Error),
}

/// The watches of a namespace; they end when it is dropped.
pub struct Watching {
    changes: mpsc::Receiver<Change>,
    _tasks: JoinSet<()>,
}

impl Watching {
    /// Starts a watch for each of `all`.
    pub(super) fn start(
        cluster: &Cluster,
        namespace: &str,
        all: Vec<(Collection, Selection)>,
        patience: Patience,
    ) -> Self {
        let (sender, changes) = mpsc::channel(CHANGES);
        let mut tasks = JoinSet::new();
        for (of, which) in all {
            tasks.spawn(follow(cluster.clone(), namespace.to_owned(), of, which, patience, sender.clone()));
        }
        Self { changes, _tasks: tasks }
    }

    /// The next change; none only when all watches have ended.
    pub async fn next(&mut self) -> Option<Change> {
        self.changes.recv().await
    }

    /// A change that is already here.
    pub fn ready(&mut self) -> Option<Change> {
        self.changes.try_recv().ok()
    }
}

impl Cluster {
    /// Starts to watch everything of ours in `namespace`. `optional` are kinds that a cluster may lack (HTTPRoute).
    pub fn watch(&self, namespace: &str, optional: &[Kind], patience: Patience) -> Watching {
        let ours = Selection { labels: format!("{MANAGED_BY}={MANAGER}"), fields: String::new() };
        let warnings = Selection { labels: String::new(), fields: "type=Warning".into() };
        let always = Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Ingress | Kind::HttpRoute));
        let kinds = always.chain(optional.iter().copied()).map(Collection::from);
        let all = kinds.chain([PODS, REPLICA_SETS, EVENTS]);
        let all = all.map(|of| (of, if of == EVENTS { warnings.clone() } else { ours.clone() }));
        Watching::start(self, namespace, all.collect(), patience)
    }
}

async fn follow(
    cluster: Cluster,
    namespace: String,
    of: Collection,
    which: Selection,
    patience: Patience,
    changes: mpsc::Sender<Change>,
) {
    let mut place = Place::default();
    loop {
        let outcome = match place.next() {
            Next::List => listed(&cluster, &namespace, of, &which, &changes).await,
            Next::Watch(version) => watched(&cluster, &namespace, of, &which, version, &changes).await,
        };
        if changes.is_closed() {
            return;
        }
        if let Some(failures) = place.step(outcome) {
            tokio::time::sleep(patience.pause(failures)).await;
        }
    }
}

async fn listed(
    cluster: &Cluster,
    namespace: &str,
    of: Collection,
    which: &Selection,
    changes: &mpsc::Sender<Change>,
) -> Outcome {
    match cluster.list(of, namespace, which).await {
        Ok((objects, version)) => {
            drop(changes.send(Change::Listed(of, objects, version.clone())).await);
            Outcome::Listed(version)
        }
        Err(error) => failed(of, error, None, changes).await,
    }
}

async fn watched(
    cluster: &Cluster,
    namespace: &str,
    of: Collection,
    which: &Selection,
    mut version: String,
    changes: &mpsc::Sender<Change>,
) -> Outcome {
    let mut events = match cluster.events(of, namespace, which, &version).await {
        Ok(events) => Box::pin(events),
        Err(error) => return failed(of, error, Some(version), changes).await,
    };
    drop(changes.send(Change::Resumed(of)).await);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = changes.closed() => None,
        };
        let change = match event {
            None => return Outcome::Ended(version),
            Some(Err(error)) => return failed(of, error, Some(version), changes).await,
            Some(Ok(WatchEvent::Error(status))) => {
                let error = refusal(&format!("the {} of {namespace}", of.plural), *status);
                return failed(of, error, Some(version), changes).await;
            }
            Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                version = bookmark.metadata.resource_version;
                continue;
            }
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => (object, false),
            Some(Ok(WatchEvent::Deleted(object))) => (object, true),
        };
        let (object, gone) = change;
        version = text(&object, "/metadata/resourceVersion").to_owned();
        let change = if gone { Change::Gone(of, Box::new(object)) } else { Change::Set(of, Box::new(object)) };
        drop(changes.send(change).await);
    }
}

/// A place that is too old is no failure: the list tells what was missed.
async fn failed(of: Collection, error: Error, version: Option<String>, changes: &mpsc::Sender<Change>) -> Outcome {
    if matches!(error, Error::Server { code: 410, .. }) {
        return Outcome::TooOld;
    }
    drop(changes.send(Change::Failed(of, error)).await);
    Outcome::Failed(version)
}
