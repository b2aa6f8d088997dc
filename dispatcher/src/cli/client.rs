//! The HTTP client: the only user of ureq. It knows addresses, tokens, TLS and problems; not what is asked.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::time::Duration;

use muster_proto::code::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response, StatusCode, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, SendBody};

use super::Failure;
use super::context::Context;
use crate::http::problem::{MEDIA_TYPE, Problem};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the dispatcher may be silent. It answers ordinary requests within 60 s, and event streams say every 15 s
/// that they live.
const SILENCE: Duration = Duration::from_secs(75);
/// How long it may be silent while it registers a model; its own limit is 30 minutes.
const REGISTRATION: Duration = Duration::from_secs(31 * 60);
/// Uploads from this many bytes on wait for the dispatcher's consent: one that refused such a body while it travelled
/// would be seen as a connection that broke.
const ASK_FIRST: u64 = 1 << 20;
/// The largest JSON answer that is read.
const MAX_ANSWER: u64 = 256 << 20;
/// Where systems keep the authorities that they trust, by distribution.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A client of one dispatcher. Clones share its connections.
#[derive(Clone)]
pub(super) struct Client {
    agent: Agent,
    base: String,
    token: Option<String>,
}

/// When what was asked for is done.
pub(super) enum Done {
    Now,
    Later,
}

/// A JSON answer, as it came.
pub(super) struct Answer(String);

impl Answer {
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.0).map_err(|e| {
            Failure::new(Code::MessageInvalid, format!("the dispatcher's answer cannot be read: {e}"))
                .with_next("use the `muster` of the dispatcher's version; `muster info --output json` shows that")
        })
    }
}

impl Client {
    /// A client for `context`. Nothing is connected yet.
    pub(super) fn connect(context: &Context) -> Result<Self, Failure> {
        let base = context.url.trim_end_matches('/').to_owned();
        let wrong = || {
            Failure::config(
                format!("{base:?} is not a dispatcher's address"),
                "write it as https://host:8420 in --url, MUSTER_URL or the context",
            )
        };
        let uri: Uri = base.parse().map_err(|_| wrong())?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(wrong()) };
        if !matches!(scheme, "http" | "https") {
            return Err(wrong());
        }
        let here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        if scheme == "http" && !here && context.token.is_some() {
            eprintln!("warning: the token travels to {host} in the clear; use https");
        }
        let roots = if scheme == "https" { authorities(context)? } else { Vec::new() };
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let mut config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")));
        if here {
            // A proxy of the environment cannot reach this machine's loopback.
            config = config.proxy(None);
        }
        Ok(Self { agent: config.build().new_agent(), base, token: context.token.clone() })
    }

    pub(super) fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.json(Method::GET, path, SendBody::none(), None)
    }

    pub(super) fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.send_json(Method::POST, path, body, None)
    }

    /// As `post`, for what takes the dispatcher minutes.
    pub(super) fn post_and_wait(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.send_json(Method::POST, path, body, Some(REGISTRATION))
    }

    /// As `post`, with other bytes than JSON.
    pub(super) fn post_bytes(&self, path: &str, kind: &str, bytes: Vec<u8>) -> Result<Answer, Failure> {
        let request = self
            .request(Method::POST, path)
            .header(header::CONTENT_TYPE, kind)
            .header(header::CONTENT_LENGTH, bytes.len());
        let mut response = self.send(request, SendBody::from_owned_reader(io::Cursor::new(bytes)), None)?;
        read_answer(&mut response)
    }

    /// An answer that is plain text.
    pub(super) fn text(&self, path: &str) -> Result<String, Failure> {
        Ok(self.get(path)?.0)
    }

    pub(super) fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.send_json(Method::PUT, path, body, None)
    }

    pub(super) fn patch(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.send_json(Method::PATCH, path, body, None)
    }

    pub(super) fn delete(&self, path: &str) -> Result<Done, Failure> {
        let mut response = self.send(self.request(Method::DELETE, path), SendBody::none(), None)?;
        let done = if response.status() == StatusCode::ACCEPTED { Done::Later } else { Done::Now };
        read_answer(&mut response)?;
        Ok(done)
    }

    /// Whether there is such a thing.
    pub(super) fn exists(&self, path: &str) -> Result<bool, Failure> {
        let response = self.send(self.request(Method::HEAD, path), SendBody::none(), None)?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            // The answer to HEAD has no body that would say why; GET of the same place is refused the same way.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.get("/v1/info").err().unwrap_or_else(|| {
                Failure::new(Code::Forbidden, "the token's role does not reach: this needs the role operator")
            })),
            status => Err(Failure::new(Code::Internal, format!("the dispatcher answered {status}"))),
        }
    }

    /// Sends `length` raw bytes.
    pub(super) fn upload(&self, path: &str, length: u64, reader: impl Read + 'static) -> Result<(), Failure> {
        let mut request = self
            .request(Method::PUT, path)
            .header(header::CONTENT_LENGTH, length)
            .header(header::CONTENT_TYPE, "application/octet-stream");
        if length >= ASK_FIRST {
            request = request.header(header::EXPECT, "100-continue");
        }
        let mut response = self.send(request, SendBody::from_owned_reader(reader), None)?;
        refuse_problem(&mut response)
    }

    /// Raw bytes, and how many there will be.
    pub(super) fn download(&self, path: &str) -> Result<(Option<u64>, impl Read + use<>), Failure> {
        let mut response = self.send(self.request(Method::GET, path), SendBody::none(), None)?;
        refuse_problem(&mut response)?;
        let body = response.into_body();
        Ok((body.content_length(), body.into_with_config().limit(u64::MAX).reader()))
    }

    /// Server-sent events.
    pub(super) fn events(&self, path: &str) -> Result<Events<impl Read + use<>>, Failure> {
        let (_, reader) = self.download(path)?;
        Ok(Events(BufReader::new(reader)))
    }

    fn request(&self, method: Method, path: &str) -> ureq::http::request::Builder {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    fn send_json(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        silence: Option<Duration>,
    ) -> Result<Answer, Failure> {
        let text = serde_json::to_vec(body).expect("requests serialise");
        let length = text.len();
        let request = self
            .request(method, path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, length);
        let mut response = self.send(request, SendBody::from_owned_reader(io::Cursor::new(text)), silence)?;
        read_answer(&mut response)
    }

    fn json(
        &self,
        method: Method,
        path: &str,
        body: SendBody<'static>,
        silence: Option<Duration>,
    ) -> Result<Answer, Failure> {
        let mut response = self.send(self.request(method, path), body, silence)?;
        read_answer(&mut response)
    }

    fn send(
        &self,
        request: ureq::http::request::Builder,
        body: SendBody<'static>,
        silence: Option<Duration>,
    ) -> Result<Response<Body>, Failure> {
        let request = request.body(body).map_err(|e| {
            Failure::config(
                format!("the request cannot be made: {e}"),
                "look at the token and the address in the context",
            )
        })?;
        let silence = silence.unwrap_or(SILENCE);
        let request = self.agent.configure_request(request).timeout_per_read(Some(silence)).build();
        self.agent.run(request).map_err(|error| self.explain(&error))
    }

    /// Why there is no answer.
    fn explain(&self, error: &ureq::Error) -> Failure {
        let why = match error {
            ureq::Error::Io(io) => io.to_string(),
            other => other.to_string(),
        };
        let what = format!("the dispatcher at {} does not answer: {why}", self.base);
        match error {
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) | ureq::Error::Pem(_) => {
                tls_failure(&self.base, &error.to_string())
            }
            // rustls reports a refused certificate as an I/O error of the stream.
            ureq::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => tls_failure(&self.base, &io.to_string()),
            ureq::Error::HostNotFound => Failure::unreachable(what, "check the host's name in --url or the context"),
            ureq::Error::Timeout(_) => Failure::unreachable(what, "check the network and the address, then try again"),
            _ => Failure::unreachable(what, "is it running? Start it with `muster serve`, or name another by --url"),
        }
    }
}

fn tls_failure(base: &str, why: &str) -> Failure {
    Failure::unreachable(
        format!("{base} cannot be trusted: {why}"),
        "name the dispatcher's authority by --ca (it is at /ca.pem; compare its fingerprint), and use a host name that \
         stands in `hostnames` of its configuration",
    )
}

/// The authorities of the context, or of the system.
fn authorities(context: &Context) -> Result<Vec<ureq::tls::Certificate<'static>>, Failure> {
    let variable = std::env::var("SSL_CERT_FILE").ok();
    let system =
        || variable.iter().map(String::as_str).chain(SYSTEM_AUTHORITIES).find_map(|path| std::fs::read(path).ok());
    let pem = match &context.ca_pem {
        Some(pem) => Some(pem.clone().into_bytes()),
        None => system(),
    };
    let certificates: Vec<_> = parse_pem(&pem.unwrap_or_default())
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(Failure::config(
            "there is no certificate to know the dispatcher by",
            "name the PEM file of its authority by --ca (MUSTER_CA); it is ca.pem in the dispatcher's data folder",
        ));
    }
    Ok(certificates)
}

fn read_answer(response: &mut Response<Body>) -> Result<Answer, Failure> {
    refuse_problem(response)?;
    let text = response.body_mut().with_config().limit(MAX_ANSWER).read_to_string();
    text.map(Answer).map_err(|e| Failure::unreachable(format!("the answer broke off: {e}"), "try again"))
}

/// An answer that is no success, as a failure.
fn refuse_problem(response: &mut Response<Body>) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with(MEDIA_TYPE) {
        let text = response.body_mut().read_to_string().unwrap_or_default();
        if let Ok(problem) = serde_json::from_str::<Problem>(&text) {
            return Err(problem.into());
        }
    }
    Err(Failure::unreachable(
        format!("something answered {status}, but not as a dispatcher does"),
        "check the address: a proxy or another program is there",
    ))
}

/// One segment of a path, percent-encoded: a model's name has slashes.
pub(super) fn segment(text: impl ToString) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.to_string().bytes().map(encode).collect()
}

/// A query of the pairs whose value is there, with `?`; nothing without any.
pub(super) fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key}={}", segment(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// One server-sent event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub name: String,
    pub data: String,
}

/// Server-sent events as they come; ends with the stream.
pub(super) struct Events<R>(BufReader<R>);

impl<R: Read> Iterator for Events<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<io::Result<Event>> {
        let (mut name, mut data) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
            match line.trim_end_matches(['\r', '\n']).split_once(':') {
                None if line.trim().is_empty() && !name.is_empty() => return Some(Ok(Event { name, data })),
                Some(("event", value)) => name = value.trim_start().to_owned(),
                Some(("data", value)) => data.push_str(value.strip_prefix(' ').unwrap_or(value)),
                // Comments keep the connection alive.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_queries_are_encoded() {
        assert_eq!(segment("vision/digits"), "vision%2Fdigits");
        assert_eq!(segment("a b+ä"), "a%20b%2B%C3%A4");
        assert_eq!(query([("tag", "a=b".to_owned()), ("name", "x*".to_owned())]), "?tag=a%3Db&name=x%2A");
        assert_eq!(query([]), "");
    }

    #[test]
    fn events_are_read_and_comments_skipped() {
        let text =
            ":\n\nevent: rollout\ndata: {\"a\":\ndata: 1}\n\n: alive\n\nevent: snapshot\r\ndata: {}\r\n\r\nevent: cut";
        let events: Vec<Event> = Events(BufReader::new(text.as_bytes())).map(|e| e.expect("reads")).collect();
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
        assert_eq!(events, [event("rollout", "{\"a\":1}"), event("snapshot", "{}")]);
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        for url in ["", "hub", "ftp://hub", "https://", "hub:8420"] {
            let context = Context { url: url.into(), ..Context::default() };
            let failure = Client::connect(&context).err().expect(url);
            assert_eq!(failure.exit(), super::super::EXIT_CONFIG, "{url}");
        }
    }
}
