//! `GET /metrics`: the text format of Prometheus, version 0.0.4. Names and labels are words of this program and the
//! workspace's name, which hold nothing that would have to be escaped.

use std::fmt::{Display, Write as _};

use axum::extract::State;
use axum::http::{HeaderName, header};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Viewer;
use super::problem::Result;
use crate::app::{App, Info, RolloutStatus};

const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Each status with its word.
const STATUSES: [(RolloutStatus, &str); 7] = [
    (RolloutStatus::Pending, "pending"),
    (RolloutStatus::Running, "running"),
    (RolloutStatus::Paused, "paused"),
    (RolloutStatus::Completed, "completed"),
    (RolloutStatus::Recalling, "recalling"),
    (RolloutStatus::Recalled, "recalled"),
    (RolloutStatus::Cancelled, "cancelled"),
];

type Page = ([(HeaderName, &'static str); 1], String);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(metrics))
}

/// Figures for Prometheus
///
/// The text format, version 0.0.4. Counters begin at 0 with each start, and are here from the first time that they
/// count something.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "info",
    responses((status = 200, description = "Devices, rollouts, the link to the broker, what was refused.", body = String, content_type = "text/plain")),
    security(("bearer" = ["viewer"])))]
async fn metrics(_: Viewer, State(app): State<App>) -> Result<Page> {
    let info = app.info().await?;
    let rollouts = STATUSES.map(|(status, word)| (word, app.count_rollouts(status)));
    Ok(([(header::CONTENT_TYPE, FORMAT)], render(&info, &rollouts)))
}

fn render(info: &Info, rollouts: &[(&str, usize)]) -> String {
    let mut page = String::new();
    family(&mut page, "build_info", "gauge", "What the dispatcher is; always 1.");
    let labels = format!("{{version=\"{}\",workspace=\"{}\"}}", info.version, info.workspace);
    sample(&mut page, "build_info", &labels, 1);
    single(&mut page, "start_time_seconds", "gauge", "When it started, in seconds since 1970.", info.started_at);
    single(&mut page, "devices", "gauge", "Devices enrolled.", info.devices);
    single(&mut page, "devices_online", "gauge", "Devices connected.", info.devices_online);
    let link_up = u8::from(info.link_up);
    single(&mut page, "link_up", "gauge", "Whether the link to the broker is up.", link_up);
    family(&mut page, "rollouts", "gauge", "Rollouts by status.");
    for (status, count) in rollouts {
        sample(&mut page, "rollouts", &format!("{{status=\"{status}\"}}"), count);
    }
    for (reason, count) in &info.counters {
        let help = format!("Refused or dropped since the start: {}.", reason.replace('_', " "));
        single(&mut page, &format!("{reason}_total"), "counter", &help, count);
    }
    page
}

fn family(page: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(page, "# HELP muster_dispatcher_{name} {help}\n# TYPE muster_dispatcher_{name} {kind}");
}

fn sample(page: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = writeln!(page, "muster_dispatcher_{name}{labels} {value}");
}

/// A family of one sample without labels.
fn single(page: &mut String, name: &str, kind: &str, help: &str, value: impl Display) {
    family(page, name, kind, help);
    sample(page, name, "", value);
}

#[cfg(test)]
mod tests {
    use muster_proto::enroll::BrokerAddress;

    use super::*;

    #[test]
    fn each_figure_has_its_help_and_type() {
        let info = Info {
            version: "0.1.0".into(),
            workspace: "plant-1".parse().expect("valid"),
            api_url: "https://hub.example:8420".into(),
            broker: BrokerAddress { host: "hub.example".into(), port: 8883, tls: true },
            ca_fingerprint: String::new(),
            started_at: 1_700_000_000,
            link_up: true,
            devices: 3,
            devices_online: 2,
            counters: [("inbox_full".to_owned(), 7)].into(),
        };
        let want = "\
# HELP muster_dispatcher_build_info What the dispatcher is; always 1.
# TYPE muster_dispatcher_build_info gauge
muster_dispatcher_build_info{version=\"0.1.0\",workspace=\"plant-1\"} 1
# HELP muster_dispatcher_start_time_seconds When it started, in seconds since 1970.
# TYPE muster_dispatcher_start_time_seconds gauge
muster_dispatcher_start_time_seconds 1700000000
# HELP muster_dispatcher_devices Devices enrolled.
# TYPE muster_dispatcher_devices gauge
muster_dispatcher_devices 3
# HELP muster_dispatcher_devices_online Devices connected.
# TYPE muster_dispatcher_devices_online gauge
muster_dispatcher_devices_online 2
# HELP muster_dispatcher_link_up Whether the link to the broker is up.
# TYPE muster_dispatcher_link_up gauge
muster_dispatcher_link_up 1
# HELP muster_dispatcher_rollouts Rollouts by status.
# TYPE muster_dispatcher_rollouts gauge
muster_dispatcher_rollouts{status=\"running\"} 1
muster_dispatcher_rollouts{status=\"paused\"} 0
# HELP muster_dispatcher_inbox_full_total Refused or dropped since the start: inbox full.
# TYPE muster_dispatcher_inbox_full_total counter
muster_dispatcher_inbox_full_total 7
";
        assert_eq!(render(&info, &[("running", 1), ("paused", 0)]), want);
    }
}
