//! What happens around every request: who may call, the time limit, panics, the request's id and the
//! access log. It knows no route.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::Api;
use super::error::{Error, clip};
use super::grpc;
use super::observe::{Record, Watch};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest request id that is sent back.
const REQUEST_ID_LENGTH: usize = 128;

/// Who can reach a listener, and so what has to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// A Unix socket: no browser gets there, and the file's mode says who may.
    Socket,
    /// A loopback address: every program of this machine, and through its browser every web page.
    Loopback,
    /// Any other address.
    Network,
}

/// Refuses web pages: requests that change or cost something from another site's page, and names that
/// somebody has pointed at this machine (DNS rebinding).
pub async fn admit(State(exposure): State<Exposure>, request: Request, next: Next) -> Response {
    match check(exposure, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) if grpc::is_call(request.headers()) => grpc::refuse(error),
        Err(error) => error.into_response(),
    }
}

fn check(exposure: Exposure, method: &Method, headers: &HeaderMap) -> Result<(), Error> {
    if exposure == Exposure::Socket {
        return Ok(());
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    if exposure == Exposure::Loopback
        && let Some(host) = headers.get(HOST).map(text)
        && !is_local_or_numeric(&host)
    {
        let message = format!("Host {:?} is refused: use localhost or an IP address", clip(&host));
        return Err(Error::Forbidden(message));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if let (false, Some(origin)) = (reads, headers.get(ORIGIN).map(text)) {
        let host = origin.split_once("://").map(|(_, host)| host);
        if !host.is_some_and(is_loopback) {
            return Err(Error::Forbidden(format!("requests from the web page of {:?} are refused", clip(&origin))));
        }
    }
    Ok(())
}

/// A host without its port, and without the brackets of IPv6.
fn bare_host(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

fn is_local_or_numeric(host: &str) -> bool {
    let host = bare_host(host);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

fn is_loopback(host: &str) -> bool {
    let host = bare_host(host);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Answers in the usual form where a request takes longer than it may; its inference is not begun then.
pub async fn limit_time(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(api.time(), next.run(request)).await {
        Ok(response) => response,
        Err(_) => Error::Late.into_response(),
    }
}

/// Gives each request an id, logs it, tells whoever watches, and keeps a panic from ending the connection without an answer.
pub async fn observe(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let record = Record::begin(&watch, &request, &id);
    let answered = AssertUnwindSafe(Record::within(record.clone(), next.run(request))).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        tracing::error!(%method, path, "a request made the API panic");
        Error::Internal.into_response()
    });
    tracing::debug!(
        %method,
        path,
        status = response.status().as_u16(),
        micros = started.elapsed().as_micros() as u64,
        id = id.to_str().unwrap_or_default(),
        "request"
    );
    if let Some(record) = record {
        record.answered(&response);
    }
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

fn request_id(headers: &HeaderMap) -> HeaderValue {
    let given = headers
        .get(REQUEST_ID)
        .filter(|id| (1..=REQUEST_ID_LENGTH).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic));
    given.cloned().unwrap_or_else(|| {
        // Hexadecimal digits and hyphens are a header's value.
        HeaderValue::from_str(&new_id()).unwrap_or(HeaderValue::from_static("-"))
    })
}

/// A random id in the form of a UUID, version 4 (RFC 9562).
pub fn new_id() -> String {
    let mut bytes = [0u8; 16];
    // Without randomness, ids repeat; nothing relies on them.
    let _ = getrandom::fill(&mut bytes);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let digits = hex::encode(bytes);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn web_pages_are_refused_and_programs_are_not() {
        let post = Method::POST;
        type Headers<'a> = &'a [(HeaderName, &'static str)];
        let table: [(Exposure, &Method, Headers, bool); 16] = [
            (Exposure::Loopback, &post, &[(HOST, "127.0.0.1:8421")], true),
            (Exposure::Loopback, &post, &[(HOST, "[::1]:8421")], true),
            (Exposure::Loopback, &post, &[(HOST, "LocalHost")], true),
            (Exposure::Loopback, &post, &[(HOST, "192.168.1.5:80")], true),
            (Exposure::Loopback, &post, &[], true),
            (Exposure::Loopback, &Method::GET, &[(HOST, "rebound.example:8421")], false),
            (Exposure::Loopback, &Method::GET, &[(HOST, "localhost.example")], false),
            (Exposure::Network, &Method::GET, &[(HOST, "pod.example")], true),
            (Exposure::Socket, &post, &[(HOST, "anything"), (ORIGIN, "https://page.example")], true),
            (Exposure::Loopback, &post, &[(ORIGIN, "https://page.example")], false),
            (Exposure::Loopback, &post, &[(ORIGIN, "https://127.0.0.1.page.example")], false),
            (Exposure::Loopback, &post, &[(ORIGIN, "null")], false),
            (Exposure::Network, &post, &[(ORIGIN, "https://page.example")], false),
            (Exposure::Loopback, &post, &[(ORIGIN, "http://localhost:3000")], true),
            (Exposure::Loopback, &post, &[(ORIGIN, "http://[::1]:3000")], true),
            (Exposure::Loopback, &Method::GET, &[(ORIGIN, "https://page.example")], true),
        ];
        for (exposure, method, headers, good) in table {
            let map = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
            assert_eq!(check(exposure, method, &map).is_ok(), good, "{exposure:?} {method} {headers:?}");
        }
    }

    #[test]
    fn ids_are_sent_back_where_they_are_harmless() {
        let with = |id: &str| {
            let value = HeaderValue::from_str(id).expect("a header");
            request_id(&HeaderMap::from_iter([(REQUEST_ID, value)])).to_str().expect("text").to_owned()
        };
        assert_eq!(with("job-17"), "job-17");
        for odd in ["", "two words", &"x".repeat(129)] {
            assert_ne!(with(odd), odd);
        }
        let (a, b) = (new_id(), new_id());
        assert!(a != b && a.len() == 36 && a.as_bytes()[14] == b'4', "{a}");
    }
}
