//! Putting a plan into effect: apply, prune, delete. Each may be repeated at any time and ends at the same.
//!
//! Fields that another manager holds are reported and never taken unless asked; with one exception. An object that
//! carries the digest of this very plan was applied as a whole, so that each of its fields was ours; a field that is
//! not any more was changed behind our back (`kubectl edit`), and is taken back.

mod prune;
mod replicas;

use serde_json::Value;

use super::api::{Cluster, Ownership};
use super::names::{APPLIED, MANAGED_BY, SERVICE, WORKSPACE};
use super::object::text;
use super::{Error, Kind, MANAGER, Object, plan};
use crate::domain::service::Service;

pub use prune::Pruned;

/// What an apply did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Objects that did not exist.
    pub created: Vec<String>,
    /// Objects of which others had changed fields that were ours, with the first such field.
    pub put_back: Vec<String>,
    /// The objects as they then were.
    pub(super) live: Vec<(Kind, Value)>,
}

impl Cluster {
    /// Applies all objects of `service`. None is touched where one of them is somebody else's.
    pub async fn apply(&self, service: &Service, ownership: Ownership) -> Result<Applied, Error> {
        let objects = plan(service)?;
        let mut pairs = Vec::with_capacity(objects.len());
        for object in objects {
            let live = self.get(object.kind, &object.namespace, &object.name).await?;
            if let Some(live) = &live {
                check_owner(service, &object, live)?;
            }
            pairs.push((object, live));
        }
        let mut applied = Applied::default();
        for (object, live) in &pairs {
            let handover = self.hand_replicas_over(&pairs, object, live.as_ref()).await?;
            self.apply_one(object, live.as_ref(), ownership, &mut applied).await?;
            self.finish_handover(object, handover).await?;
        }
        Ok(applied)
    }

    async fn apply_one(
        &self,
        object: &Object,
        live: Option<&Value>,
        ownership: Ownership,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let now = match self.patch(object, MANAGER, ownership).await {
            Ok(now) => now,
            Err(Error::Conflict { fields, .. }) if live.is_some_and(|live| was_applied(object, live)) => {
                let first = fields.first().map(ToString::to_string).unwrap_or_default();
                applied.put_back.push(format!("{} ({first})", object.subject()));
                self.patch(object, MANAGER, Ownership::Take).await?
            }
            Err(error) => return Err(error),
        };
        applied.live.push((object.kind, now));
        if live.is_none() {
            applied.created.push(object.subject());
        }
        Ok(())
    }
}

/// Whether `live` was applied as a whole from this very plan.
fn was_applied(object: &Object, live: &Value) -> bool {
    let digest = |value: &Value| value.pointer("/metadata/annotations").and_then(|all| all.get(APPLIED)).cloned();
    digest(live).is_some() && digest(live) == digest(&object.value)
}

fn check_owner(service: &Service, object: &Object, live: &Value) -> Result<(), Error> {
    let label =
        |name: &str| live.pointer("/metadata/labels").and_then(|labels| labels.get(name)).and_then(Value::as_str);
    let (name, workspace) = (label(SERVICE), label(WORKSPACE));
    if name == Some(&service.name) && workspace == Some(&service.workspace) {
        return Ok(());
    }
    let owner = match (name, workspace, label(MANAGED_BY)) {
        (Some(name), Some(workspace), _) => format!("of the service {name:?} in the workspace {workspace:?}"),
        (_, _, Some(manager)) => format!("managed by {manager:?}"),
        _ => {
            let first =
                live.pointer("/metadata/managedFields/0").map(|entry| text(entry, "/manager")).unwrap_or_default();
            format!("made by {first:?}")
        }
    };
    Err(Error::Taken { subject: object.subject(), owner })
}
