//! Removing what a service does not want any more, and never sooner than what replaces it answers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::super::api::{Cluster, Selection};
use super::super::names::{REVISION, of_revision, query};
use super::super::object::{number, text};
use super::super::plan::target;
use super::super::{Error, Kind, plan};
use super::replicas::HANDOVER;
use crate::domain::service::Service;

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What was deleted.
    pub deleted: Vec<String>,
    /// What stays until the wanted revisions answer.
    pub waiting: Vec<String>,
}

impl Cluster {
    /// Deletes what carries the service's labels and is not in its plan. Older revisions shrink as the wanted ones
    /// come up, so that a full cluster is no dead end, and go when all wanted replicas answer.
    pub async fn prune(&self, service: &Service) -> Result<Pruned, Error> {
        let wanted: BTreeSet<(Kind, String)> =
            plan(service)?.into_iter().map(|object| (object.kind, object.name)).collect();
        let deployments = self.own(Kind::Deployment, service).await?;
        let missing = missing(service, &deployments);
        let mut pruned = Pruned::default();
        // Backwards: what routes to a pod goes before the pod, and what a pod needs after it.
        for kind in Kind::ALL.into_iter().rev() {
            let live = if kind == Kind::Deployment { deployments.clone() } else { self.own(kind, service).await? };
            for object in
                live.iter().filter(|object| !wanted.contains(&(kind, text(object, "/metadata/name").to_owned())))
            {
                let subject = format!("{} {}", kind.name(), text(object, "/metadata/name"));
                let of_revision =
                    object.pointer("/metadata/labels").is_some_and(|labels| labels.get(REVISION).is_some());
                // An autoscaler goes at once: it would undo the shrinking.
                let waits = of_revision && missing.replicas > 0 && kind != Kind::HorizontalPodAutoscaler;
                if !waits {
                    self.delete(kind, object).await?;
                    pruned.deleted.push(subject);
                    continue;
                }
                if kind == Kind::Deployment {
                    self.shrink(service, object, missing).await?;
                }
                pruned.waiting.push(subject);
            }
        }
        Ok(pruned)
    }

    /// Deletes everything that carries the service's labels; how many objects that were.
    pub async fn delete_service(&self, service: &Service) -> Result<usize, Error> {
        let mut count = 0;
        for kind in Kind::ALL.into_iter().rev() {
            for object in self.own(kind, service).await? {
                self.delete(kind, &object).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// The service's objects of a kind. A cluster without the Gateway API, or an account without rights on it, has none.
    async fn own(&self, kind: Kind, service: &Service) -> Result<Vec<Value>, Error> {
        let selection = Selection { labels: query(service), fields: String::new() };
        match self.list(kind.into(), &target(service).namespace, &selection).await {
            Err(Error::Missing { .. } | Error::Forbidden { .. }) if kind == Kind::HttpRoute => Ok(Vec::new()),
            other => other.map(|(objects, _)| objects),
        }
    }

    /// Takes as many replicas from an old revision as the wanted ones have gained; the last one stays.
    async fn shrink(&self, service: &Service, old: &Value, missing: Missing) -> Result<(), Error> {
        if !missing.some_answer {
            return Ok(());
        }
        let there = number(old, "/spec/replicas");
        let keep = i64::from(missing.replicas.max(1));
        if keep >= there {
            return Ok(());
        }
        let keep = u32::try_from(keep).unwrap_or(1);
        self.scale(&target(service).namespace, text(old, "/metadata/name"), keep, HANDOVER).await
    }
}

/// What the wanted revisions lack.
#[derive(Debug, Clone, Copy)]
struct Missing {
    replicas: u32,
    some_answer: bool,
}

fn missing(service: &Service, deployments: &[Value]) -> Missing {
    let mut sum = Missing { replicas: 0, some_answer: false };
    for revision in &service.revisions {
        let name = of_revision(service, revision);
        let Some(live) = deployments.iter().find(|live| text(live, "/metadata/name") == name) else {
            sum.replicas += 1;
            continue;
        };
        let wanted = u32::try_from(number(live, "/spec/replicas")).unwrap_or_default();
        let fresh = number(live, "/status/observedGeneration") >= number(live, "/metadata/generation");
        let current = number(live, "/status/availableReplicas").min(number(live, "/status/updatedReplicas"));
        let ready = if fresh { u32::try_from(current).unwrap_or_default() } else { 0 };
        sum.replicas += wanted.saturating_sub(ready);
        sum.some_answer |= ready > 0;
    }
    sum
}
