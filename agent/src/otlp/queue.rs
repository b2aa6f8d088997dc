//! The queue of spans. The SDK's own one drops silently; this counts before it what does not fit, and behind it what the
//! collector did not take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

/// The most spans that wait or are on their way.
pub const QUEUE: usize = 2048;

/// What became of the spans.
#[derive(Debug, Default)]
pub struct Tally {
    pending: AtomicUsize,
    dropped: AtomicU64,
}

impl Tally {
    /// How many spans were not exported.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lose(&self, count: usize) {
        self.dropped.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// A queue before `exporter`, which counts into `tally` what it drops.
pub fn bounded<E: SpanExporter + 'static>(exporter: E, tally: Arc<Tally>) -> impl SpanProcessor + 'static {
    let counted = Counted { exporter, tally: Arc::clone(&tally) };
    let config = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
    Bounded { batches: BatchSpanProcessor::new(counted, config), tally }
}

#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    tally: Arc<Tally>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        // What is being sent counts as well, so the queue behind is never full itself.
        if self.tally.pending.fetch_add(1, Ordering::Relaxed) < QUEUE {
            self.batches.on_end(span);
        } else {
            self.tally.pending.fetch_sub(1, Ordering::Relaxed);
            self.tally.lose(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    tally: Arc<Tally>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let exported = self.exporter.export(batch).await;
        self.tally.pending.fetch_sub(count, Ordering::Relaxed);
        if exported.is_err() {
            self.tally.lose(count);
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
