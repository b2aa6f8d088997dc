//! `ModelService`, the kind of our own: what a controller asks of an API server.

use serde_json::Value;

use super::api::{Cluster, Collection, Ownership, Selection};
use super::object::text;
use super::watch::{Patience, Watching};
use super::{Error, Kind, MANAGER, Object};

/// Group and version of the resource.
pub const RESOURCE_VERSION: &str = "muster.dev/v1alpha1";
/// Where it is.
const RESOURCES: Collection = Collection { api_version: RESOURCE_VERSION, plural: "modelservices" };

/// Which part of a resource is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Its metadata.
    Itself,
    /// Its status, which is a subresource.
    Status,
}

impl Cluster {
    /// Starts to watch the resources of `namespace`.
    pub fn watch_resources(&self, namespace: &str, patience: Patience) -> Watching {
        Watching::start(self, namespace, vec![(RESOURCES, Selection::default())], patience)
    }

    /// A merge patch of the resource that was looked at.
    pub async fn write_resource(&self, part: Resource, object: &Value, patch: &Value) -> Result<(), Error> {
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let part = if part == Resource::Status { "/status" } else { "" };
        let path = format!("{}/{name}{part}?fieldManager={MANAGER}", RESOURCES.path(namespace));
        let subject = format!("ModelService {namespace}/{name}");
        self.request(&subject, "PATCH", &path, Some(patch), "application/merge-patch+json").await.map(drop)
    }

    /// Whether there is a secret of that name.
    pub async fn has_secret(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        Ok(self.get(Kind::Secret, namespace, name).await?.is_some())
    }

    /// Applies a secret that no plan has.
    pub async fn apply_secret(&self, secret: &Object) -> Result<(), Error> {
        self.patch(secret, MANAGER, Ownership::Take).await.map(drop)
    }
}
