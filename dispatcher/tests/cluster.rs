//! Services against an API server of ours, over loopback.

#[allow(clippy::unwrap_used, dead_code)]
#[path = "apiserver/mod.rs"]
mod apiserver;
#[allow(clippy::unwrap_used)]
#[path = "cluster/apply.rs"]
mod apply;
#[allow(clippy::unwrap_used)]
#[path = "cluster/connect.rs"]
mod connect;
#[allow(clippy::unwrap_used)]
#[path = "cluster/control.rs"]
mod control;
#[allow(clippy::unwrap_used)]
#[path = "cluster/controllers.rs"]
mod controllers;
#[allow(clippy::unwrap_used, dead_code)]
#[path = "http/fixture.rs"]
mod fixture;
#[allow(clippy::unwrap_used)]
#[path = "cluster/jobs.rs"]
mod jobs;
#[allow(clippy::unwrap_used)]
#[path = "cluster/keep.rs"]
mod keep;
#[allow(clippy::unwrap_used)]
#[path = "cluster/support.rs"]
mod support;
