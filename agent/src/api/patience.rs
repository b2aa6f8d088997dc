//! Callers who send a request's head byte by byte. hyper's limit for the head also runs while a
//! kept-alive connection rests, so it has to be long; this one begins with the first byte of a head. HTTP/2 sends
//! more than heads: its connections end where nothing is asked for long, and where nobody answers its pings.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How many heads were read whole on a connection, and how many of their requests are answered.
#[derive(Debug, Clone, Default)]
pub struct Heads(Arc<(AtomicUsize, AtomicUsize)>);

/// A request whose head was read; dropped once it is answered.
#[derive(Debug)]
pub struct Serving(Heads);

impl Heads {
    /// A head was read.
    pub fn serve(&self) -> Serving {
        self.0.0.fetch_add(1, Ordering::AcqRel);
        Serving(self.clone())
    }

    /// Waits until for `limit` nothing was asked or answered.
    pub async fn idle(&self, limit: Duration) {
        loop {
            let before = self.count();
            tokio::time::sleep(limit).await;
            if self.count() == before && self.are_served() {
                return;
            }
        }
    }

    /// How many heads were read.
    pub fn count(&self) -> usize {
        self.0.0.load(Ordering::Acquire)
    }

    fn are_served(&self) -> bool {
        self.count() == self.0.1.load(Ordering::Acquire)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.0.1.fetch_add(1, Ordering::AcqRel);
    }
}

/// How every connection of HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that fails where a head has begun and is not whole in time.
#[derive(Debug)]
pub struct Patient<S> {
    inner: S,
    heads: Heads,
    limit: Duration,
    /// Until when the head after so many others has to be whole.
    deadline: Option<(usize, Pin<Box<Sleep>>)>,
    /// How much of the preface was read; none where something else was.
    preface: Option<usize>,
}

impl<S> Patient<S> {
    /// Gives each head `limit` from its first byte, and the first one from now on.
    pub fn new(inner: S, heads: Heads, limit: Duration) -> Self {
        let deadline = Some((0, Box::pin(tokio::time::sleep(limit))));
        Self { inner, heads, limit, deadline, preface: Some(0) }
    }

    /// Whether the connection has become one of HTTP/2 with what was read.
    fn is_http2(&mut self, read: &[u8]) -> bool {
        if let Some(seen) = self.preface.filter(|seen| *seen < PREFACE.len()) {
            let rest = &PREFACE[seen..];
            let length = rest.len().min(read.len());
            self.preface = (rest[..length] == read[..length]).then_some(seen + length);
        }
        self.preface == Some(PREFACE.len())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let heads = this.heads.count();
        if this.deadline.as_ref().is_some_and(|(before, _)| *before != heads) {
            this.deadline = None;
        }
        let filled = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, buf) {
            if this.is_http2(&buf.filled()[filled..]) {
                this.deadline = None;
                return Poll::Ready(read);
            }
            if buf.filled().len() > filled && this.deadline.is_none() && this.heads.are_served() {
                this.deadline = Some((heads, Box::pin(tokio::time::sleep(this.limit))));
            }
            return Poll::Ready(read);
        }
        let Some((_, sleep)) = &mut this.deadline else { return Poll::Pending };
        sleep.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Reads until the stream ends or fails, which it has to do soon.
    async fn read_to_end(stream: &mut Patient<tokio::io::DuplexStream>) -> io::Result<usize> {
        let mut bytes = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut bytes)).await.expect("an end")
    }

    fn pair() -> (tokio::io::DuplexStream, Patient<tokio::io::DuplexStream>, Heads) {
        let (caller, inner) = tokio::io::duplex(64);
        let heads = Heads::default();
        (caller, Patient::new(inner, heads.clone(), Duration::from_millis(30)), heads)
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_or_little_is_ended() {
        let (_caller, mut silent, _) = pair();
        assert_eq!(read_to_end(&mut silent).await.expect_err("too late").kind(), io::ErrorKind::TimedOut);
        let (mut caller, mut slow, _) = pair();
        let dripping = tokio::spawn(async move {
            while caller.write_all(b"G").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert_eq!(read_to_end(&mut slow).await.expect_err("too late").kind(), io::ErrorKind::TimedOut);
        drop(slow);
        dripping.await.expect("ends with the stream");
    }

    #[tokio::test]
    async fn http2_may_say_little_between_requests() {
        let (mut caller, mut stream, _) = pair();
        let mut read = [0; 24];
        for part in [&PREFACE[..3], &PREFACE[3..]] {
            caller.write_all(part).await.expect("written");
            stream.read_exact(&mut read[..part.len()]).await.expect("in time");
        }
        caller.write_all(b"ping").await.expect("written");
        stream.read_exact(&mut read[..4]).await.expect("in time");
        tokio::time::timeout(Duration::from_millis(60), stream.read_exact(&mut read)).await.expect_err("rests");

        let (mut caller, mut other, _) = pair();
        caller.write_all(b"PRI * HTTP/1.1\r\n").await.expect("written");
        assert!(read_to_end(&mut other).await.is_err(), "a head that is not whole");
    }

    #[tokio::test]
    async fn connections_are_idle_when_nothing_is_asked() {
        let heads = Heads::default();
        let limit = Duration::from_millis(10);
        let serving = heads.serve();
        tokio::time::timeout(limit * 5, heads.idle(limit)).await.expect_err("a request is under way");
        drop(serving);
        tokio::time::timeout(Duration::from_secs(5), heads.idle(limit)).await.expect("idle");
    }

    #[tokio::test]
    async fn a_body_and_a_rest_between_requests_may_take_their_time() {
        let (mut caller, mut stream, heads) = pair();
        caller.write_all(b"head").await.expect("written");
        let mut four = [0; 4];
        stream.read_exact(&mut four).await.expect("in time");
        let serving = heads.serve();
        tokio::time::timeout(Duration::from_millis(60), stream.read_exact(&mut four)).await.expect_err("waits");
        caller.write_all(b"body").await.expect("written");
        stream.read_exact(&mut four).await.expect("a body has time");
        drop(serving);
        tokio::time::timeout(Duration::from_millis(60), stream.read_exact(&mut four)).await.expect_err("rests");
        caller.write_all(b"next").await.expect("written");
        stream.read_exact(&mut four).await.expect("in time");
        assert!(read_to_end(&mut stream).await.is_err(), "the next head began and is not whole");
    }
}
