//! Services on clusters: one keeper per cluster and namespace, which all services there share, so that each kind of
//! object is watched once. What keepers report becomes what is observed of a service.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{Error, LEAVING, Observed, Wanted};
use crate::cluster::watch::{Keeper, Patience, Report};
use crate::cluster::{self, Cluster, Kind};
use crate::domain::service::{Kubernetes, Route, Service, State, Target};

/// Reports that may wait.
const REPORTS: usize = 256;

/// Where a keeper works: kubeconfig, context, namespace, and whether it watches what not every cluster has.
type Place = (Option<String>, Option<String>, String, Option<Kind>);

/// All keepers. Clones share them.
#[derive(Clone, Default)]
pub struct Clusters(Arc<Mutex<BTreeMap<Place, Namespace>>>);

struct Namespace {
    wanted: watch::Sender<Arc<BTreeMap<String, Service>>>,
    tell: Arc<Mutex<BTreeMap<String, watch::Sender<Observed>>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Clusters {
    /// Keeps the service of `wanted` as it is to be until it is gone, and tells how it is.
    pub(super) async fn supervise(self, mut wanted: watch::Receiver<Wanted>, tell: watch::Sender<Observed>) {
        let patience = Patience::default();
        let mut failures = 0u32;
        loop {
            let now = wanted.borrow_and_update().clone();
            let done = match now.gone {
                true => {
                    tell.send_if_modified(|last| {
                        let is_news = !last.reason.starts_with(LEAVING);
                        if is_news {
                            *last = Observed::new(State::Transitioning, LEAVING, now.service.generation);
                        }
                        is_news
                    });
                    self.end(&now.service).await
                }
                false => self.keep(&now.service, &tell).await,
            };
            match done {
                Ok(()) if now.gone => {
                    tell.send_modify(|last| last.gone = true);
                    return;
                }
                Ok(()) => {
                    failures = 0;
                    if wanted.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    failures += 1;
                    let mut trouble = trouble(&now.service, &error);
                    if now.gone {
                        trouble.reason = format!("{LEAVING}, but {}", trouble.reason);
                    }
                    tell.send_replace(trouble);
                    tokio::select! {
                        changed = wanted.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(patience.pause(failures)) => {}
                    }
                }
            }
        }
    }

    /// Hands the service to the keeper of its namespace, which is made where there is none.
    async fn keep(&self, service: &Service, tell: &watch::Sender<Observed>) -> Result<(), cluster::Error> {
        let Some((place, target)) = place(service) else { return Ok(()) };
        if !self.all().contains_key(&place) {
            // Asked before it is kept, so that a cluster that is away or refuses is told at once.
            let cluster = Cluster::connect(target).await?;
            cluster.version().await?;
            let made = Namespace::new(cluster, target, place.3);
            self.all().entry(place.clone()).or_insert(made);
        }
        let all = self.all();
        let Some(namespace) = all.get(&place) else { return Ok(()) };
        locked(&namespace.tell).insert(service.name.clone(), tell.clone());
        namespace.wanted.send_modify(|wanted| {
            Arc::make_mut(wanted).insert(service.name.clone(), service.clone());
        });
        Ok(())
    }

    /// Deletes everything of the service.
    async fn end(&self, service: &Service) -> Result<(), cluster::Error> {
        self.release(service);
        let Target::Kubernetes(target) = &service.target else { return Ok(()) };
        // The keeper deletes it as well; what it has not been told of yet, this does.
        Cluster::connect(target).await?.delete_service(service).await.map(drop)
    }

    /// Has the keeper of its namespace keep the service no more; it deletes what it can reach.
    pub(super) fn release(&self, service: &Service) {
        let Some((place, _)) = place(service) else { return };
        if let Some(namespace) = self.all().get(&place) {
            locked(&namespace.tell).remove(&service.name);
            namespace.wanted.send_modify(|wanted| {
                Arc::make_mut(wanted).remove(&service.name);
            });
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Place, Namespace>> {
        locked(&self.0)
    }
}

impl Namespace {
    fn new(cluster: Cluster, target: &Kubernetes, optional: Option<Kind>) -> Self {
        let (wanted, receiver) = watch::channel(Arc::default());
        let (sender, mut reports) = mpsc::channel::<Report>(REPORTS);
        let optional: Vec<Kind> = optional.into_iter().collect();
        let keeper = Keeper::new(cluster, &target.namespace, Patience::default(), &optional);
        let keeping = tokio::spawn(keeper.run(receiver, sender));
        let tell: Arc<Mutex<BTreeMap<String, watch::Sender<Observed>>>> = Arc::default();
        let told = Arc::clone(&tell);
        let telling = tokio::spawn(async move {
            while let Some(report) = reports.recv().await {
                for (subject, field) in &report.put_back {
                    tracing::warn!(service = report.service, subject, field, "somebody changed it; it was put back");
                }
                let told = locked(&told);
                let Some(tell) = told.get(&report.service) else { continue };
                tell.send_modify(|last| {
                    let next = observed(&report, last);
                    if (next.state, &next.reason) != (last.state, &last.reason) {
                        let (service, state, reason) = (&report.service, next.state, &next.reason);
                        tracing::info!(service, %state, reason, generation = report.generation, "service");
                    }
                    let same = (next.state, &next.reason) == (last.state, &last.reason);
                    let since = if same { last.since } else { next.since };
                    *last = Observed { since, ..next };
                });
            }
        });
        Self { wanted, tell, tasks: [keeping, telling] }
    }
}

fn place(service: &Service) -> Option<(Place, &Kubernetes)> {
    let Target::Kubernetes(target) = &service.target else { return None };
    let optional = target.route.as_ref().map(|route| match route {
        Route::Ingress { .. } => Kind::Ingress,
        Route::Gateway { .. } => Kind::HttpRoute,
    });
    let place = (target.kubeconfig.clone(), target.context.clone(), target.namespace.clone(), optional);
    Some((place, target))
}

fn observed(report: &Report, last: &Observed) -> Observed {
    let (state, mut reason) = match (&report.error, &report.status) {
        (Some(error), _) => (State::Unhealthy, format!("{error} [{}]; {}", error.code(), error.next_step())),
        (None, Some(status)) => (status.state, status.reason.clone()),
        (None, None) => (State::Transitioning, "the cluster is being looked at".into()),
    };
    if let Some(stale) = &report.stale {
        reason = format!("{reason} (this may be old: {stale})");
    }
    let url = last.url.clone();
    Observed { url, ..Observed::new(state, reason, report.generation) }
}

fn trouble(service: &Service, error: &cluster::Error) -> Observed {
    let state = if error.is_transient() { State::Unhealthy } else { State::Failed };
    Observed::new(state, format!("{error} [{}]; {}", error.code(), error.next_step()), service.generation)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses a service that no cluster would take.
pub(super) fn check(service: &Service) -> Result<(), Error> {
    let planned = cluster::plan(service);
    planned.map(drop).map_err(|error| Error::Planned(format!("{error}; {}", error.next_step())))
}
