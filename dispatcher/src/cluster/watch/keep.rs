//! Keeping the services of a namespace as they are wanted, for as long as it runs.
//!
//! The wanted services come by a channel of which only the latest counts. A change on either side leads to the same
//! question: what is missing, what drifted, what is too much. What others change again and again is put back
//! [`MAX_PUT_BACK`] times in a generation and then reported as a conflict: two controllers must not fight for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::super::api::{Cluster, Ownership};
use super::super::error::Conflict;
use super::super::state::{self, Status};
use super::super::{Error, Kind};
use super::{Patience, View};
use crate::domain::service::Service;

/// How often in a generation an object is put back.
pub const MAX_PUT_BACK: u32 = 3;

/// The services that are wanted, by name.
pub type Wanted = Arc<BTreeMap<String, Service>>;

/// What is told of a service when it changes.
#[derive(Debug)]
pub struct Report {
    /// The service.
    pub service: String,
    /// The generation that this is about.
    pub generation: u64,
    /// How it is, if the cluster has been seen whole.
    pub status: Option<Status>,
    /// What had drifted and was put back, with the first field of each.
    pub put_back: BTreeMap<String, String>,
    /// What could not be done; it is tried again where that may help.
    pub error: Option<Error>,
    /// Why the status may be old: a watch that fails.
    pub stale: Option<String>,
}

/// Keeps the services of a namespace.
pub struct Keeper {
    cluster: Cluster,
    namespace: String,
    patience: Patience,
    optional: Vec<Kind>,
    view: View,
    /// What is known of each service that was ever wanted here.
    kept: BTreeMap<String, Kept>,
}

#[derive(Default)]
struct Kept {
    /// What was last tried, and whether it was applied.
    tried: Option<Service>,
    applied: bool,
    status: Option<Status>,
    stale: Option<String>,
    /// How often each object was put back in this generation.
    put_back: BTreeMap<String, u32>,
    failures: u32,
    retry: Option<Instant>,
}

impl Keeper {
    /// A keeper of `namespace`. `optional` are kinds that not every cluster has and that are to be watched as well
    /// (Ingress, HTTPRoute).
    pub fn new(cluster: Cluster, namespace: &str, patience: Patience, optional: &[Kind]) -> Self {
        Self {
            cluster,
            namespace: namespace.into(),
            patience,
            optional: optional.to_vec(),
            view: View::default(),
            kept: BTreeMap::new(),
        }
    }

    /// Keeps what `wanted` says until its sender or the receiver of `reports` is dropped. A service that is not wanted
    /// any more is deleted, if it was wanted before in the same run; else [`Cluster::delete_service`] does it.
    pub async fn run(mut self, mut wanted: watch::Receiver<Wanted>, reports: mpsc::Sender<Report>) {
        let mut watching = self.cluster.watch(&self.namespace, &self.optional, self.patience);
        let mut touched: BTreeSet<String> = wanted.borrow_and_update().keys().cloned().collect();
        loop {
            // Not marked as seen: what changes after the last look at what is touched is still to be told.
            let now = Arc::clone(&wanted.borrow());
            for name in std::mem::take(&mut touched) {
                let Some(report) = self.look(&name, now.get(&name)).await else { continue };
                if reports.send(report).await.is_err() {
                    return;
                }
            }
            let retry = self.kept.values().filter_map(|kept| kept.retry).min();
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    touched.extend(wanted.borrow().keys().chain(self.kept.keys()).cloned());
                }
                change = watching.next() => {
                    let Some(change) = change else { return };
                    let before = self.view.failure().is_some();
                    touched.extend(self.view.take(change));
                    while let Some(change) = watching.ready() {
                        touched.extend(self.view.take(change));
                    }
                    if before != self.view.failure().is_some() {
                        touched.extend(wanted.borrow().keys().cloned());
                    }
                }
                () = tokio::time::sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                    let now = Instant::now();
                    touched.extend(self.kept.iter().filter(|(_, kept)| kept.retry.is_some_and(|at| at <= now)).map(|(name, _)| name.clone()));
                }
            }
        }
    }

    /// Does what is due for one service; a report if there is anything new.
    async fn look(&mut self, name: &str, wanted: Option<&Service>) -> Option<Report> {
        let Some(service) = wanted else { return self.forget(name).await };
        let kept = self.kept.entry(name.to_owned()).or_default();
        if kept.tried.as_ref() != Some(service) {
            let (status, stale) = (kept.status.take(), kept.stale.take());
            *kept = Kept { tried: Some(service.clone()), status, stale, ..Kept::default() };
        }
        if kept.retry.is_some_and(|at| at > Instant::now()) {
            return self.report(service, BTreeMap::new(), None);
        }
        let is_new = !kept.applied;
        let outcome = self.act(service, is_new).await;
        let kept = self.kept.entry(name.to_owned()).or_default();
        kept.applied = outcome.is_ok();
        match outcome {
            Ok(put_back) => {
                (kept.failures, kept.retry) = (0, None);
                self.report(service, put_back, None)
            }
            Err(error) => {
                kept.failures += 1;
                // What only a person can mend is looked at again by itself too, but rarely.
                let failures = if error.is_transient() { kept.failures } else { u32::MAX };
                kept.retry = Some(Instant::now() + self.patience.pause(failures));
                self.report(service, BTreeMap::new(), Some(error))
            }
        }
    }

    /// Applies, puts back and prunes; what had drifted.
    async fn act(&mut self, service: &Service, is_new: bool) -> Result<BTreeMap<String, String>, Error> {
        let mut put_back = BTreeMap::new();
        if is_new {
            let applied = self.cluster.apply(service, Ownership::Respect).await?;
            self.view.note(applied.live);
        } else if self.view.is_whole() {
            put_back = self.view.drift(service)?;
            if !put_back.is_empty() {
                self.count(service, &put_back)?;
                let applied = self.cluster.apply(service, Ownership::Respect).await?;
                self.view.note(applied.live);
            }
        }
        // Not every kind is watched: after a change all are looked at.
        if is_new || (self.view.is_whole() && self.view.has_surplus(service)?) {
            self.cluster.prune(service).await?;
        }
        Ok(put_back)
    }

    /// Counts what is put back, and refuses where it was too often.
    fn count(&mut self, service: &Service, drift: &BTreeMap<String, String>) -> Result<(), Error> {
        let kept = self.kept.entry(service.name.clone()).or_default();
        for (subject, field) in drift {
            let times = kept.put_back.entry(subject.clone()).or_default();
            *times += 1;
            if *times > MAX_PUT_BACK {
                let manager = format!("somebody who changed it {times} times");
                let fields = vec![Conflict { manager, field: field.clone() }];
                return Err(Error::Conflict { subject: subject.clone(), fields });
            }
        }
        Ok(())
    }

    /// Deletes a service that is not wanted any more.
    async fn forget(&mut self, name: &str) -> Option<Report> {
        let kept = self.kept.get(name)?;
        let service = kept.tried.clone()?;
        let failures = kept.failures + 1;
        let error = self.cluster.delete_service(&service).await.err();
        if error.is_none() {
            self.kept.remove(name);
        } else if let Some(kept) = self.kept.get_mut(name) {
            (kept.failures, kept.retry) = (failures, Some(Instant::now() + self.patience.pause(failures)));
        }
        Some(Report {
            service: name.into(),
            generation: service.generation,
            status: None,
            put_back: BTreeMap::new(),
            error,
            stale: None,
        })
    }

    /// A report, if it says anything that the last one did not.
    fn report(
        &mut self,
        service: &Service,
        put_back: BTreeMap<String, String>,
        error: Option<Error>,
    ) -> Option<Report> {
        let status = self.view.is_whole().then(|| state::derive(service, &self.view.observed(service)));
        let kept = self.kept.entry(service.name.clone()).or_default();
        let stale = self.view.failure().map(ToString::to_string);
        let changed = kept.status != status || kept.stale.is_some() != stale.is_some();
        kept.stale.clone_from(&stale);
        kept.status.clone_from(&status);
        let worth = changed || error.is_some() || !put_back.is_empty();
        worth.then(|| Report {
            service: service.name.clone(),
            generation: service.generation,
            status,
            put_back,
            error,
            stale,
        })
    }
}
