//! Who asks, and until when an answer is of use: what a request's head says of both.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};

use super::keys::Hash;

/// The form in which API gateways and Azure's clients may send a key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// How long Envoy still waits, in milliseconds.
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// The caller of one request.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    /// The hash of the key that was presented.
    pub key: Option<Hash>,
    /// When nobody waits any more.
    pub deadline: Option<Instant>,
}

impl Caller {
    /// What `headers` say, at `now`.
    pub fn of(headers: &HeaderMap, now: Instant) -> Self {
        Self { key: key(headers).map(Hash::of), deadline: patience(headers).and_then(|wait| now.checked_add(wait)) }
    }

    /// With a limit of the request itself; the shorter one counts.
    pub fn within(self, limit: Option<Duration>) -> Self {
        let own = limit.and_then(|limit| Instant::now().checked_add(limit));
        let deadline = match (self.deadline, own) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self { deadline, ..self }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers, Instant::now()))
    }
}

/// `Authorization: Bearer KEY` (RFC 6750), or `x-api-key: KEY`.
fn key(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| headers.get(API_KEY).and_then(|value| value.to_str().ok()).map(str::trim))
}

fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let envoy = text(&EXPECTED_TIMEOUT).and_then(|text| text.trim().parse().ok()).map(Duration::from_millis);
    let grpc = text(&HeaderName::from_static("grpc-timeout")).and_then(grpc_timeout);
    [envoy, grpc].into_iter().flatten().min()
}

/// At most eight digits and a unit, as the gRPC protocol over HTTP/2 has it.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count = (digits.len() <= 8).then(|| digits.parse::<u64>().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(count.saturating_mul(3600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    type Headers = &'static [(&'static str, &'static str)];

    fn headers(pairs: Headers) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn keys_come_as_bearer_or_alone() {
        let table: [(Headers, Option<&str>); 6] = [
            (&[("authorization", "Bearer abc")], Some("abc")),
            (&[("authorization", "bearer  abc ")], Some("abc")),
            (&[("authorization", "Basic abc")], None),
            (&[("x-api-key", "abc")], Some("abc")),
            (&[("authorization", "Bearer one"), ("x-api-key", "two")], Some("one")),
            (&[], None),
        ];
        for (pairs, want) in table {
            assert_eq!(key(&headers(pairs)), want, "{pairs:?}");
        }
    }

    #[test]
    fn the_shortest_patience_counts() {
        let table: [(Headers, Option<u64>); 7] = [
            (&[("grpc-timeout", "1S")], Some(1000)),
            (&[("grpc-timeout", "250m")], Some(250)),
            (&[("grpc-timeout", "123456789S")], None),
            (&[("grpc-timeout", "S")], None),
            (&[("grpc-timeout", "")], None),
            (&[("x-envoy-expected-rq-timeout-ms", "15"), ("grpc-timeout", "1H")], Some(15)),
            (&[], None),
        ];
        for (pairs, want) in table {
            assert_eq!(patience(&headers(pairs)), want.map(Duration::from_millis), "{pairs:?}");
        }
        let now = Instant::now();
        let caller = Caller { key: None, deadline: Some(now + Duration::from_secs(9)) };
        assert!(caller.within(Some(Duration::from_secs(1))).deadline < caller.deadline);
        assert_eq!(caller.within(Some(Duration::from_secs(60))).deadline, caller.deadline);
        assert_eq!(caller.within(None).deadline, caller.deadline);
    }
}
