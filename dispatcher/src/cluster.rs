//! Services on Kubernetes, and the same service as files for other runtimes.
//!
//! [`plan()`], [`render`] and [`state`] are pure. [`Cluster`] alone holds the client: it applies a plan, watches what
//! became of it, and puts back what others change. The module must not know MQTT, SQL or HTTP routes of ours.

mod api;
mod apply;
mod compare;
mod connect;
mod error;
pub mod jobs;
mod names;
mod object;
pub mod plan;
pub mod render;
mod resources;
pub mod state;
pub mod watch;

pub use api::{Cluster, Collection, Ownership};
pub use apply::{Applied, Pruned};
pub use error::{Conflict, Error};
pub use object::{Kind, Object};
pub use plan::plan;
pub use resources::{RESOURCE_VERSION, Resource};

/// The field manager under which everything is applied.
pub const MANAGER: &str = "muster";
