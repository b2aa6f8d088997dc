//! `GET /metrics`: the text format of Prometheus, version 0.0.4. Labels are slots, digests and words of
//! this program, never anything that a caller sent.

use std::fmt::{Display, Write};
use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use muster_proto::report::{LATENCY_BOUNDS_US, Phase};

use super::Api;
use super::error::Error;
use super::find::Found;
use super::services::Services;
use crate::driver::Status;
use crate::vitals;

const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PHASES: [Phase; 8] = [
    Phase::Offered,
    Phase::Fetching,
    Phase::Verified,
    Phase::Staged,
    Phase::Active,
    Phase::Healthy,
    Phase::Failed,
    Phase::Removed,
];

pub async fn metrics(State(api): State<Arc<Api>>) -> Result<impl IntoResponse, Error> {
    let mut page = Page::default();
    match &api.services {
        Some(services) => of_services(&mut page, services),
        None => slots(&mut page, &api.executor.slots().all()),
    }
    page.family("muster_queue_depth", "gauge", "Requests that wait for a thread, of all slots.");
    page.sample("muster_queue_depth", &[], api.executor.queued());
    if let Some(observer) = &api.watch {
        let help = "Spans that were not exported: the queue was full, or the collector away.";
        page.single("muster_spans_dropped_total", "counter", help, observer.dropped());
    }
    if let Some(status) = &api.status {
        agent(&mut page, &status.borrow().clone());
    }
    let disk = api.disk.clone();
    // The system's files are read, and a sensor may take its time.
    let text = super::compute(true, move || {
        system(&mut page, disk);
        Ok(page.0)
    });
    Ok(([(CONTENT_TYPE, FORMAT)], text.await?))
}

/// A page of metrics: families one after another, each with its samples.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{escaped}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family of one sample without labels.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }
}

fn of_services(page: &mut Page, services: &Services) {
    let all = services.answering();
    let revisions = all.iter().flat_map(|service| {
        service.revisions.iter().map(|revision| (service.name.clone(), Arc::clone(&revision.loaded)))
    });
    slots(page, &revisions.collect::<Vec<_>>());
    let views = services.views();
    page.family("muster_service_ready", "gauge", "1 where what was asked for answers.");
    for view in &views {
        page.sample("muster_service_ready", &[("service", view.name.as_str())], u8::from(view.ready));
    }
    page.family("muster_service_running", "gauge", "Requests that passed the service's gate and are not answered.");
    for view in &views {
        page.sample("muster_service_running", &[("service", view.name.as_str())], view.running);
    }
    page.family("muster_service_queue_depth", "gauge", "Requests that wait at the service's gate.");
    for view in &views {
        page.sample("muster_service_queue_depth", &[("service", view.name.as_str())], view.waiting);
    }
    page.family("muster_service_refused_total", "counter", "Requests that the gate refused, by reason.");
    for service in &all {
        for (reason, count) in service.gate.refused() {
            let labels = [("service", service.name.as_str()), ("reason", reason)];
            page.sample("muster_service_refused_total", &labels, count);
        }
    }
}

fn slots(page: &mut Page, answering: &[Found]) {
    let each: Vec<_> = answering.iter().map(|(slot, loaded)| (slot.as_str(), loaded.digest.short(), loaded)).collect();

    page.family("muster_slot_info", "gauge", "Which version answers in a slot; always 1.");
    for (slot, digest, loaded) in &each {
        let version = loaded.manifest.version.to_string();
        let model = loaded.manifest.model.as_str();
        page.sample(
            "muster_slot_info",
            &[("slot", slot), ("digest", digest), ("model", model), ("version", &version)],
            1,
        );
    }
    page.family("muster_inferences_total", "counter", "Inferences since the model was loaded, by outcome.");
    for (slot, digest, loaded) in &each {
        let totals = loaded.stats.totals();
        for (outcome, count) in [("ok", totals.ok), ("error", totals.errors), ("rejected", totals.rejected)] {
            let labels = [("slot", *slot), ("digest", digest.as_str()), ("outcome", outcome)];
            page.sample("muster_inferences_total", &labels, count);
        }
    }
    page.family("muster_inference_seconds", "histogram", "Time of successful inferences, without their wait.");
    for (slot, digest, loaded) in &each {
        let totals = loaded.stats.totals();
        let mut below = 0u64;
        for (index, count) in totals.latency.iter().enumerate() {
            below += count;
            let bound = LATENCY_BOUNDS_US.get(index).map_or("+Inf".to_owned(), |us| seconds(*us).to_string());
            let labels = [("slot", *slot), ("digest", digest.as_str()), ("le", bound.as_str())];
            page.sample("muster_inference_seconds_bucket", &labels, below);
        }
        let labels = [("slot", *slot), ("digest", digest.as_str())];
        page.sample("muster_inference_seconds_sum", &labels, seconds(totals.latency_us));
        page.sample("muster_inference_seconds_count", &labels, below);
    }
    page.family("muster_batches_total", "counter", "How often several requests were computed at once.");
    for (slot, digest, loaded) in &each {
        page.sample("muster_batches_total", &[("slot", slot), ("digest", digest)], loaded.stats.batches().0);
    }
    page.family("muster_batched_requests_total", "counter", "Requests that were computed with others.");
    for (slot, digest, loaded) in &each {
        page.sample("muster_batched_requests_total", &[("slot", slot), ("digest", digest)], loaded.stats.batches().1);
    }
    if let Some(sampler) = each.iter().find_map(|(_, _, loaded)| loaded.mirror.sampler()) {
        let help = "Samples of requests that could not be kept fast enough.";
        page.single("muster_samples_dropped_total", "counter", help, sampler.dropped());
    }
    page.family(
        "muster_shadow_requests_total",
        "counter",
        "Requests of a version in the shadow, by what became of them.",
    );
    for (slot, _, loaded) in &each {
        let Some(run) = loaded.mirror.run() else { continue };
        let (digest, counts) = (run.shadow().digest.short(), run.counts());
        let disagreed = counts.compared - counts.agreed;
        let outcomes = [("agreed", counts.agreed), ("disagreed", disagreed), ("failed", counts.failed)];
        for (outcome, count) in outcomes.into_iter().chain([("skipped", counts.skipped)]) {
            let labels = [("slot", *slot), ("digest", digest.as_str()), ("outcome", outcome)];
            page.sample("muster_shadow_requests_total", &labels, count);
        }
    }
    page.family("muster_slot_queue_depth", "gauge", "Requests that wait for a thread.");
    for (slot, digest, loaded) in &each {
        page.sample("muster_slot_queue_depth", &[("slot", slot), ("digest", digest)], loaded.stats.queued());
    }
    page.family("muster_model_memory_bytes", "gauge", "Memory that the loaded model takes, as estimated.");
    for (slot, digest, loaded) in &each {
        page.sample("muster_model_memory_bytes", &[("slot", slot), ("digest", digest)], loaded.model.memory_bytes());
    }
}

fn agent(page: &mut Page, status: &Status) {
    let report = &status.report;
    page.family("muster_update_phase", "gauge", "How far a slot's update has come: 1 for the phase that it is in.");
    for slot in &report.slots {
        for phase in PHASES {
            let labels = [("slot", slot.slot.as_str()), ("phase", name_of(phase))];
            page.sample("muster_update_phase", &labels, u8::from(slot.phase == phase));
        }
    }
    page.family("muster_update_failed", "gauge", "Why a slot's update failed or waits; 1 where it does.");
    for slot in &report.slots {
        if let Some(failure) = &slot.failure {
            let labels = [("slot", slot.slot.as_str()), ("code", failure.code.name())];
            page.sample("muster_update_failed", &labels, 1);
        }
    }
    let info =
        [("version", report.agent.version.as_str()), ("engine", &report.agent.engine), ("arch", &report.agent.arch)];
    page.family("muster_agent_info", "gauge", "What the agent is; always 1.");
    page.sample("muster_agent_info", &info, 1);
    let online = u8::from(status.online);
    page.single("muster_online", "gauge", "Whether the connection to the broker is up.", online);
    let settled = u8::from(status.settled);
    page.single("muster_settled", "gauge", "Whether every slot's update has reached an end.", settled);
    page.single("muster_generation", "gauge", "The newest accepted desired state.", report.generation);
    page.single("muster_outbox_messages", "gauge", "Messages that wait for the dispatcher.", status.outbox_messages);
    page.single("muster_outbox_bytes", "gauge", "Their size.", status.outbox_bytes);
    let dropped = status.outbox_dropped;
    page.single("muster_agent_outbox_dropped_total", "counter", "Messages that the outbox had to drop.", dropped);
}

fn system(page: &mut Page, disk: Option<PathBuf>) {
    page.single("process_resident_memory_bytes", "gauge", "Resident memory of this process.", vitals::rss_bytes());
    let cpu = vitals::cpu_time().as_secs_f64();
    page.single("process_cpu_seconds_total", "counter", "Processor time of this process.", cpu);
    let available = vitals::memory_available();
    page.single("muster_memory_available_bytes", "gauge", "Memory that can be had without swapping.", available);
    if let Some(stat) = disk.and_then(|folder| rustix::fs::statvfs(folder).ok()) {
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        page.single("muster_disk_free_bytes", "gauge", "Free bytes on the disk of the store.", free);
    }
    if let Some(thousandths) = vitals::temperature_millicelsius() {
        let celsius = f64::from(thousandths) / 1000.0;
        page.single("muster_temperature_celsius", "gauge", "The hottest sensor.", celsius);
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn name_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Offered => "offered",
        Phase::Fetching => "fetching",
        Phase::Verified => "verified",
        Phase::Staged => "staged",
        Phase::Active => "active",
        Phase::Healthy => "healthy",
        Phase::Failed => "failed",
        Phase::Removed => "removed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.sample("x", &[("a", "b\"c\\d\ne"), ("f", "g")], 1.5);
        page.single("y", "gauge", "Some help.", 2);
        assert_eq!(page.0, "x{a=\"b\\\"c\\\\d\\ne\",f=\"g\"} 1.5\n# HELP y Some help.\n# TYPE y gauge\ny 2\n");
    }
}
