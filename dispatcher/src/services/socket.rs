//! One HTTP request over a stream: to a scoring server's admin socket, or to its port on loopback.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request as HttpRequest, header};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Error;

/// The largest answer in bytes.
const MAX_ANSWER: usize = 64 << 20;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(70);

/// What is asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET`, `POST`, `PUT`.
    pub method: &'static str,
    /// The path.
    pub path: String,
    /// The key, where one is needed.
    pub key: Option<String>,
    /// The body's type.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body's type.
    pub content_type: Option<String>,
    /// The body.
    pub body: Bytes,
}

/// Asks over the Unix socket at `path`.
pub async fn over_socket(path: &Path, request: Request) -> Result<Answer, Error> {
    let unreachable = |error: std::io::Error| Error::Unreachable(format!("{}: {error}", path.display()));
    ask(UnixStream::connect(path).await.map_err(unreachable)?, request).await
}

/// Asks over TCP at `address`, e.g. `127.0.0.1:8500`.
pub async fn over_tcp(address: &str, request: Request) -> Result<Answer, Error> {
    let unreachable = |error: std::io::Error| Error::Unreachable(format!("{address}: {error}"));
    ask(TcpStream::connect(address).await.map_err(unreachable)?, request).await
}

async fn ask<S>(stream: S, request: Request) -> Result<Answer, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let asked = tokio::time::timeout(PATIENCE, async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // It ends with the answer; what goes wrong on it, the answer says.
        tokio::spawn(connection);
        let mut head =
            HttpRequest::builder().method(request.method).uri(&request.path).header(header::HOST, "localhost");
        if let Some(key) = &request.key {
            head = head.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        if let Some(kind) = &request.content_type {
            head = head.header(header::CONTENT_TYPE, kind);
        }
        let whole = head.body(Body::from(request.body)).map_err(failed)?;
        let (head, body) = sender.send_request(whole).await.map_err(failed)?.into_parts();
        let body = axum::body::to_bytes(Body::new(body), MAX_ANSWER).await.map_err(failed)?;
        let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        Ok(Answer { status: head.status.as_u16(), content_type: kind, body })
    });
    asked.await.unwrap_or_else(|_| Err(Error::Unreachable(format!("no answer within {} s", PATIENCE.as_secs()))))
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Unreachable(error.to_string())
}
