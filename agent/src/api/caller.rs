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

/// gRPC's own timeout is the matter of its routes.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(&EXPECTED_TIMEOUT)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_millis)
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
        let table: [(Headers, Option<u64>); 4] = [
            (&[("x-envoy-expected-rq-timeout-ms", "15")], Some(15)),
            (&[("x-envoy-expected-rq-timeout-ms", "soon")], None),
            (&[("x-envoy-expected-rq-timeout-ms", "-1")], None),
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
