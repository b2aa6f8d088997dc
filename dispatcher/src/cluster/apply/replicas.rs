//! Who says how many replicas there are: the service, or its autoscaler.
//!
//! A field that an applier leaves out and that nobody else holds goes back to its default, here one replica, which
//! would be an outage under load. So before the service lets go of the number a second manager holds it, until the
//! autoscaler writes it; and before the service takes it from an autoscaler, that one is removed.

use serde_json::{Value, json};

use super::super::api::{Cluster, Ownership};
use super::super::object::{items, text};
use super::super::{Error, Kind, MANAGER, Object};

/// The manager that holds the number between two others, and of a revision that shrinks.
pub const HANDOVER: &str = "muster-handover";
/// The manager of the autoscaler's controller; it writes by the subresource `scale`.
const CONTROLLER: &str = "kube-controller-manager";

/// Whether the second manager is to let go after the apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// It holds nothing, or is to go on.
    Leave,
    /// It lets go.
    Release,
}

impl Cluster {
    /// Prepares a change of who says the number of replicas.
    pub(super) async fn hand_replicas_over(
        &self,
        plan: &[(Object, Option<Value>)],
        object: &Object,
        live: Option<&Value>,
    ) -> Result<Handover, Error> {
        let Some(live) = live.filter(|_| object.kind == Kind::Deployment) else { return Ok(Handover::Leave) };
        let (wanted, there) = (object.value.pointer("/spec/replicas"), live.pointer("/spec/replicas"));
        let holders = holders(live);
        let only_ours = !holders.is_empty() && holders.iter().all(|holder| holder == MANAGER);
        match (wanted, there) {
            (None, Some(number)) if only_ours => {
                self.patch(&with_replicas(object, Some(number)), HANDOVER, Ownership::Respect).await?;
                Ok(Handover::Leave)
            }
            (Some(wanted), Some(_))
                if !holders.is_empty() && holders.iter().all(|holder| holder == HANDOVER || holder == CONTROLLER) =>
            {
                self.remove_scaler(plan, object).await?;
                self.patch(&with_replicas(object, Some(wanted)), HANDOVER, Ownership::Take).await?;
                Ok(Handover::Release)
            }
            _ => Ok(Handover::Leave),
        }
    }

    /// Lets the second manager go.
    pub(super) async fn finish_handover(&self, object: &Object, handover: Handover) -> Result<(), Error> {
        if handover == Handover::Release {
            self.patch(&with_replicas(object, None), HANDOVER, Ownership::Respect).await?;
        }
        Ok(())
    }

    /// Deletes the autoscaler of `deployment` if it is not wanted any more: it would write the number again.
    async fn remove_scaler(&self, plan: &[(Object, Option<Value>)], deployment: &Object) -> Result<(), Error> {
        let kind = Kind::HorizontalPodAutoscaler;
        if plan.iter().any(|(object, _)| object.kind == kind && object.name == deployment.name) {
            return Ok(());
        }
        match self.get(kind, &deployment.namespace, &deployment.name).await? {
            Some(scaler)
                if items(&scaler, "/metadata/managedFields").iter().any(|entry| text(entry, "/manager") == MANAGER) =>
            {
                self.delete(kind, &scaler).await
            }
            _ => Ok(()),
        }
    }
}

/// The managers that hold the number of replicas.
fn holders(live: &Value) -> Vec<String> {
    let entries = items(live, "/metadata/managedFields").iter();
    let holding = entries.filter(|entry| entry.pointer("/fieldsV1/f:spec/f:replicas").is_some());
    holding.map(|entry| text(entry, "/manager").to_owned()).collect()
}

/// `object` with nothing but its number of replicas.
fn with_replicas(object: &Object, replicas: Option<&Value>) -> Object {
    let mut value = json!({
        "apiVersion": object.kind.api_version(),
        "kind": object.kind.name(),
        "metadata": { "name": object.name, "namespace": object.namespace },
    });
    if let Some(replicas) = replicas {
        value["spec"] = json!({ "replicas": replicas });
    }
    Object { value, ..object.clone() }
}
