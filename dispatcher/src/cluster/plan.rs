//! From a service to all objects that it wants: pure, complete, and the same for the same service.
//!
//! Two revisions are two Deployments behind one Service. Without a gateway a canary's share is as near as numbers of
//! replicas come to it ([`replicas::shares`] tells how near); with one it is exact. The Service, its name and the
//! Secret never change their identity, so that the URL and the keys outlive every update.

pub(super) mod check;
mod config;
mod deployment;
pub mod job;
mod network;
mod pod;
pub mod quantity;
pub mod replicas;
mod scale;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::names::{APPLIED, GENERATION, labels, revision_labels};
use super::{Error, Kind, Object};
use crate::domain::service::{Kubernetes, Revision, Route, Service, Target};

pub use config::{BUNDLE, bounds};
pub(super) use config::{FOLDER, SECRETS, plain_files, secret_files};
pub(super) use pod::{HTTP_PORT, USER, grace_seconds, memory};

/// All objects of `service`, in the order in which they are applied.
pub fn plan(service: &Service) -> Result<Vec<Object>, Error> {
    check::check(service)?;
    let mut plan = Plan::new(service);
    plan.shared(Kind::ServiceAccount, network::service_account(&plan));
    plan.shared(Kind::Secret, config::secret(service));
    for (index, revision) in service.revisions.iter().enumerate() {
        plan.own(revision, Kind::ConfigMap, config::config_map(service, revision));
        plan.own(revision, Kind::Deployment, deployment::deployment(&plan, index, revision));
        if let Some(scaler) = scale::scaler(service, index, revision) {
            plan.own(revision, Kind::HorizontalPodAutoscaler, scaler);
        }
        if matches!(plan.target.route, Some(Route::Gateway { .. })) {
            plan.own(revision, Kind::Service, network::revision_service(service, revision));
        }
    }
    plan.shared(Kind::Service, network::service(&plan));
    plan.shared(Kind::PodDisruptionBudget, scale::budget(service));
    if plan.target.network_policy {
        plan.shared(Kind::NetworkPolicy, network::policy(&plan));
    }
    match &plan.target.route {
        None => {}
        Some(Route::Ingress { .. }) => plan.shared(Kind::Ingress, network::ingress(&plan)),
        Some(Route::Gateway { .. }) => plan.shared(Kind::HttpRoute, network::http_route(&plan)),
    }
    plan.objects.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(plan.objects)
}

/// What a cluster is where nothing was said of one.
static DEFAULT: std::sync::LazyLock<Kubernetes> = std::sync::LazyLock::new(Kubernetes::default);

/// The part of `service` that is about its cluster.
pub fn target(service: &Service) -> &Kubernetes {
    match &service.target {
        Target::Kubernetes(target) => target,
        // What is rendered for elsewhere is planned as a cluster would have it by default.
        Target::Local(_) => &DEFAULT,
    }
}

struct Plan<'a> {
    service: &'a Service,
    target: &'a Kubernetes,
    objects: Vec<Object>,
}

impl<'a> Plan<'a> {
    fn new(service: &'a Service) -> Self {
        Self { service, target: target(service), objects: Vec::new() }
    }

    /// Adds an object under the service's own name.
    fn shared(&mut self, kind: Kind, body: Value) {
        self.add(kind, self.service.name.clone(), json!(labels(self.service)), body);
    }

    /// Adds an object of one revision.
    fn own(&mut self, revision: &Revision, kind: Kind, body: Value) {
        let name = super::names::of_revision(self.service, revision);
        self.add(kind, name, json!(revision_labels(self.service, revision)), body);
    }

    fn add(&mut self, kind: Kind, name: String, labels: Value, body: Value) {
        let mut value = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.name(),
            "metadata": { "name": name, "namespace": self.target.namespace, "labels": labels },
        });
        value["metadata"]["labels"][GENERATION] = json!(self.service.generation.to_string());
        for (key, part) in body.as_object().into_iter().flatten() {
            match key.as_str() {
                "annotations" => value["metadata"][key] = part.clone(),
                _ => value[key] = part.clone(),
            }
        }
        let applied = fingerprint(&value);
        value["metadata"]["annotations"][APPLIED] = json!(applied);
        self.objects.push(Object { kind, name, namespace: self.target.namespace.clone(), value });
    }
}

/// A short digest of `value`, whatever the order of its keys.
pub(super) fn fingerprint(value: &Value) -> String {
    let mut hex = hex::encode(digest(&SHA256, value.to_string().as_bytes()));
    hex.truncate(16);
    hex
}
