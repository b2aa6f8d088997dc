//! The way to the collector: one request at a time on the exporter's own threads, so it may block.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};

use super::queue::Tally;
use super::{Error, Export};
use crate::serve::fetch::authorities;

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const ANSWER: u64 = 64 << 10;

/// Sends to one collector, and tells the log once when that fails and once when it goes again.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    headers: HeaderMap,
    tally: Arc<Tally>,
    failing: Arc<AtomicBool>,
}

impl Client {
    /// A client that sends what `export` says along.
    pub fn new(export: &Export, tally: Arc<Tally>) -> Result<Self, Error> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(PATIENCE))
            .user_agent(concat!("muster-agent/", env!("CARGO_PKG_VERSION")));
        if export.endpoint.starts_with("https:") {
            crate::ensure_crypto_provider();
            let authorities = authorities(None).map_err(|(path, source)| Error::Authorities { path, source })?;
            let roots = ureq::tls::RootCerts::Specific(Arc::new(authorities));
            config = config.tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build());
        }
        let header = |(name, value): (&String, &String)| {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((name.parse::<HeaderName>().ok()?, value))
        };
        // All are headers: the settings were checked.
        let headers = export.headers.0.iter().filter_map(header).collect();
        let agent = ureq::Agent::new_with_config(config.build());
        Ok(Self { agent, headers, tally, failing: Arc::default() })
    }

    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut head, body) = request.into_parts();
        let mut headers = self.headers.clone();
        // The exporter adds what OTEL_EXPORTER_OTLP_HEADERS says, which the document may have replaced.
        for name in [CONTENT_TYPE, CONTENT_ENCODING] {
            headers.extend(head.headers.remove(&name).map(|value| (name, value)));
        }
        head.headers = headers;
        let answer = self.agent.run(Request::from_parts(head, Vec::from(body)))?;
        let (head, mut body) = answer.into_parts();
        let bytes = body.with_config().limit(ANSWER).read_to_vec()?;
        Ok(Response::from_parts(head, bytes.into()))
    }

    fn tell(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let fault = match sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the collector answers {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        match (fault, self.failing.load(Ordering::Relaxed)) {
            (Some(fault), false) => {
                self.failing.store(true, Ordering::Relaxed);
                tracing::warn!(error = fault, "traces and metrics cannot be exported");
            }
            (None, true) => {
                self.failing.store(false, Ordering::Relaxed);
                tracing::info!(dropped = self.tally.dropped(), "traces and metrics are exported again");
            }
            _ => {}
        }
    }
}

impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        let sent = self.send(request);
        self.tell(&sent);
        Box::pin(ready(sent))
    }
}
