//! The instruments. What `/metrics` tells is read from the same counters whenever it is sent; only the time of whole
//! requests is counted here, because nothing else does.

use std::sync::Arc;

use muster_proto::report::LATENCY_BOUNDS_US;
use opentelemetry::metrics::{Histogram, Meter, MeterProvider};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::metrics::SdkMeterProvider;

use super::Source;
use super::queue::Tally;
use super::spans::common;
use crate::api::Finished;
use crate::engine::Loaded;
use crate::vitals;

/// The time of requests, for HTTP and gRPC.
#[derive(Debug)]
pub struct Durations {
    http: Histogram<f64>,
    grpc: Histogram<f64>,
    scheme: &'static str,
}

impl Durations {
    /// Counts `request`.
    pub fn record(&self, request: &Finished) {
        let histogram = if request.head.is_grpc { &self.grpc } else { &self.http };
        histogram.record(request.took.as_secs_f64(), &common(request, self.scheme));
    }
}

/// Makes all instruments.
pub fn register(
    provider: &SdkMeterProvider,
    scope: InstrumentationScope,
    source: Source,
    tally: Arc<Tally>,
    scheme: &'static str,
) -> Durations {
    let meter = provider.meter_with_scope(scope);
    of_models(&meter, &source);
    of_services(&meter, &source);
    of_the_process(&meter, source, tally);
    let durations = |name: &'static str, help: &'static str| {
        let bounds = LATENCY_BOUNDS_US.iter().map(|micros| seconds(*micros)).collect();
        meter.f64_histogram(name).with_description(help).with_unit("s").with_boundaries(bounds).build()
    };
    let http = durations("http.server.request.duration", "Time of scoring requests over HTTP.");
    let grpc = durations("rpc.server.call.duration", "Time of scoring requests over gRPC.");
    Durations { http, grpc, scheme }
}

fn of_models(meter: &Meter, source: &Source) {
    let from = source.clone();
    meter
        .u64_observable_counter("muster.inferences")
        .with_description("Inferences since the model was loaded, by outcome.")
        .with_unit("{inference}")
        .with_callback(move |observer| {
            from.each(|loaded, labels| {
                let totals = loaded.stats.totals();
                for (outcome, count) in [("ok", totals.ok), ("error", totals.errors), ("rejected", totals.rejected)] {
                    labels.push(KeyValue::new("muster.outcome", outcome));
                    observer.observe(count, labels);
                    labels.pop();
                }
            });
        })
        .build();
    let from = source.clone();
    meter
        .f64_observable_counter("muster.inference.time")
        .with_description("Time of successful inferences together, without their wait.")
        .with_unit("s")
        .with_callback(move |observer| {
            from.each(|loaded, labels| observer.observe(seconds(loaded.stats.totals().latency_us), labels));
        })
        .build();
    let from = source.clone();
    meter
        .u64_observable_gauge("muster.slot.queue_depth")
        .with_description("Requests that wait for a thread.")
        .with_unit("{request}")
        .with_callback(move |observer| {
            from.each(|loaded, labels| observer.observe(loaded.stats.queued().into(), labels));
        })
        .build();
    let from = source.clone();
    meter
        .u64_observable_gauge("muster.model.memory")
        .with_description("Memory that the loaded model takes, as estimated.")
        .with_unit("By")
        .with_callback(move |observer| {
            from.each(|loaded, labels| observer.observe(loaded.model.memory_bytes(), labels));
        })
        .build();
}

fn of_services(meter: &Meter, source: &Source) {
    let gauge = |name: &'static str, help: &'static str, read: fn(&crate::api::View) -> u64| {
        let from = source.clone();
        let observe = move |observer: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
            for view in from.services.views() {
                observer.observe(read(&view), &[KeyValue::new("muster.service", view.name.to_string())]);
            }
        };
        meter.u64_observable_gauge(name).with_description(help).with_callback(observe).build();
    };
    gauge("muster.service.ready", "1 where what was asked for answers.", |view| view.ready.into());
    gauge("muster.service.running", "Requests that passed the service's gate and are not answered.", |view| {
        view.running as u64
    });
    gauge("muster.service.queue_depth", "Requests that wait at the service's gate.", |view| view.waiting as u64);
    let from = source.clone();
    meter
        .u64_observable_counter("muster.service.refused")
        .with_description("Requests that the gate refused, by reason.")
        .with_unit("{request}")
        .with_callback(move |observer| {
            for service in from.services.answering() {
                for (reason, count) in service.gate.refused() {
                    let name = KeyValue::new("muster.service", service.name.to_string());
                    observer.observe(count, &[name, KeyValue::new("muster.reason", reason)]);
                }
            }
        })
        .build();
}

fn of_the_process(meter: &Meter, source: Source, tally: Arc<Tally>) {
    meter
        .u64_observable_gauge("muster.queue_depth")
        .with_description("Requests that wait for a thread, of all services.")
        .with_unit("{request}")
        .with_callback(move |observer| {
            if let Some(executor) = source.executor.upgrade() {
                observer.observe(executor.queued() as u64, &[]);
            }
        })
        .build();
    meter
        .u64_observable_counter("muster.spans.dropped")
        .with_description("Spans that were not exported: the queue was full, or the collector away.")
        .with_unit("{span}")
        .with_callback(move |observer| observer.observe(tally.dropped(), &[]))
        .build();
    meter
        .i64_observable_up_down_counter("process.memory.usage")
        .with_description("Resident memory of this process.")
        .with_unit("By")
        .with_callback(|observer| observer.observe(i64::try_from(vitals::rss_bytes()).unwrap_or(i64::MAX), &[]))
        .build();
    meter
        .f64_observable_counter("process.cpu.time")
        .with_description("Processor time of this process.")
        .with_unit("s")
        .with_callback(|observer| observer.observe(vitals::cpu_time().as_secs_f64(), &[]))
        .build();
}

impl Source {
    /// Calls `read` with each version that answers, and what it is marked with.
    fn each(&self, mut read: impl FnMut(&Loaded, &mut Vec<KeyValue>)) {
        for service in self.services.answering() {
            for revision in &service.revisions {
                let Loaded { manifest, digest, .. } = &*revision.loaded;
                let mut labels = vec![
                    KeyValue::new("muster.service", service.name.to_string()),
                    KeyValue::new("muster.model", manifest.model.to_string()),
                    KeyValue::new("muster.version", manifest.version.to_string()),
                    KeyValue::new("muster.digest", digest.to_string()),
                ];
                read(&revision.loaded, &mut labels);
            }
        }
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
