//! Traces and metrics of a scoring server by OTLP, over HTTP with protobuf: the only user of OpenTelemetry's crates.
//! A span is made when its request is over, from what the API noted of it; metrics are read where `/metrics` reads them.
//!
//! Nothing here waits for the collector but threads of its own. Spans wait in a queue; what does not fit, or is not
//! taken by the collector, is dropped and counted (invariant 10).

mod client;
mod metrics;
mod queue;
mod settings;
mod spans;

use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};

use crate::api::{Finished, Observer, Services};
use crate::engine::Executor;

use client::Client;
use metrics::Durations;
use queue::Tally;
use spans::Spans;

pub use settings::{Export, Headers, Settings};

/// How long the collector may take over one export, tries again included.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last export.
const FLUSH: Duration = Duration::from_secs(5);

/// Why nothing can be exported. A retry helps only after the configuration was mended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the document or of a variable cannot be used.
    #[error("{0}")]
    Setting(String),
    /// The exporter refuses a variable of OpenTelemetry, such as a compression that it does not have.
    #[error("OTLP cannot be exported: {0}; look at the variables OTEL_EXPORTER_OTLP_*")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The system's certificate authorities cannot be read.
    #[error("the collector's certificate cannot be checked, {}: {source}; install the system's authorities or name a file by SSL_CERT_FILE", path.display())]
    Authorities {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// What metrics are read from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The services.
    pub services: Arc<Services>,
    /// What runs their inferences; it may end before the last export.
    pub executor: Weak<Executor>,
}

/// A running export.
#[derive(Debug)]
pub struct Telemetry {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
    spans: Spans,
    durations: Durations,
    tally: Arc<Tally>,
}

impl Telemetry {
    /// Starts to export as `export` says. `is_tls` says which scheme callers use.
    pub fn start(export: Export, source: Source, is_tls: bool) -> Result<Self, Error> {
        let tally = Arc::<Tally>::default();
        let client = Client::new(&export, Arc::clone(&tally))?;
        let span_exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", export.endpoint))
            .with_timeout(PATIENCE)
            .build()?;
        let metric_exporter = MetricExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/metrics", export.endpoint))
            .with_timeout(PATIENCE)
            .build()?;
        let attributes = export.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let resource = Resource::builder_empty().with_attributes(attributes).build();
        let traces = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(export.sample))))
            .with_span_processor(queue::bounded(span_exporter, Arc::clone(&tally)))
            .with_resource(resource.clone())
            .build();
        let reader = PeriodicReader::builder(metric_exporter).with_interval(export.interval).build();
        let metrics = SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build();

        let scope = InstrumentationScope::builder("muster-agent").with_version(env!("CARGO_PKG_VERSION")).build();
        let scheme = if is_tls { "https" } else { "http" };
        let spans = Spans::new(traces.tracer_with_scope(scope.clone()), scheme);
        let durations = metrics::register(&metrics, scope, source, Arc::clone(&tally), scheme);
        tracing::info!(endpoint = export.endpoint, sample = export.sample, "traces and metrics are exported");
        Ok(Self { traces, metrics, spans, durations, tally })
    }

    /// Sends what is left, for at most 5 s.
    pub async fn stop(&self) {
        let (traces, metrics) = (self.traces.clone(), self.metrics.clone());
        let (sender, done) = tokio::sync::oneshot::channel();
        // A thread that the process need not wait for.
        let flush = move || {
            let failed = [traces.shutdown_with_timeout(FLUSH), metrics.shutdown_with_timeout(FLUSH)];
            // Whoever waited may have given up.
            let _ = sender.send(failed.into_iter().find_map(Result::err));
        };
        let flushing = std::thread::Builder::new().name("otlp-flush".into()).spawn(flush);
        let ended = tokio::time::timeout(FLUSH, done).await;
        if flushing.is_err() || !matches!(ended, Ok(Ok(None))) {
            tracing::warn!(dropped = self.tally.dropped(), "the last traces and metrics may not have arrived");
        }
    }
}

impl Observer for Telemetry {
    fn finished(&self, request: &Finished) {
        self.durations.record(request);
        self.spans.record(request);
    }

    fn dropped(&self) -> u64 {
        self.tally.dropped()
    }
}

#[cfg(test)]
pub(crate) mod tests;
