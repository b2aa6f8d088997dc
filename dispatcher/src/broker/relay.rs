//! Copies bytes between a client and the broker, without holding a buffer while nothing moves: thousands of devices
//! are connected and silent.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Bytes moved at a time: the largest TLS record.
const CHUNK: usize = 16 * 1024;
/// How long a side may take to accept one chunk. A peer that vanished without a word would otherwise be held until TCP
/// gives up, after a quarter of an hour.
const STALL: Duration = Duration::from_secs(60);
/// How long one side may take to end after the other did: enough for the last words to arrive.
const LINGER: Duration = Duration::from_secs(1);

/// Copies until one side ends, or until shortly after `displaced`.
pub(super) async fn run(
    client: impl AsyncRead + AsyncWrite,
    broker: &mut TcpStream,
    displaced: impl Future<Output = ()>,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_broker, mut to_broker) = broker.split();
    let up = async {
        pump(&mut from_client, &mut to_broker).await?;
        to_broker.shutdown().await?;
        // The broker ends its side now, which ends `down`.
        sleep(LINGER).await;
        Ok(())
    };
    let down = async {
        pump(&mut from_broker, &mut to_client).await?;
        timeout(LINGER, to_client.shutdown()).await?
    };
    let cut = async {
        displaced.await;
        sleep(LINGER).await;
        Ok(())
    };
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
        ended = cut => ended,
    }
}

async fn pump(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        let bytes = read_some(from).await?;
        if bytes.is_empty() {
            return Ok(());
        }
        let written = async {
            to.write_all(&bytes).await?;
            // TLS keeps what the socket did not take at once.
            to.flush().await
        };
        timeout(STALL, written).await??;
    }
}

/// What can be read now, at least one byte, or nothing at the end. The buffer lives on the stack of a single poll.
async fn read_some(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    poll_fn(|context| {
        let mut space = [const { MaybeUninit::<u8>::uninit() }; CHUNK];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut *from).poll_read(context, &mut buffer))?;
        Ok(buffer.filled().to_vec()).into()
    })
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt as _, BufStream, DuplexStream, duplex};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// A relay between a client and a broker, with both far ends. The client's side keeps what is not flushed, as TLS
    /// does.
    async fn relay() -> (DuplexStream, TcpStream, JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (broker, _) = listener.accept().await.unwrap();
        let (client, door) = duplex(1024);
        let running = tokio::spawn(async move { run(BufStream::new(door), &mut near, pending()).await });
        (client, broker, running)
    }

    async fn read(from: &mut (impl AsyncRead + Unpin), length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        timeout(LINGER, from.read_exact(&mut bytes)).await.expect("bytes").unwrap();
        bytes
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_without_waiting_for_more() {
        let (mut client, mut broker, _running) = relay().await;
        client.write_all(b"ping").await.unwrap();
        assert_eq!(read(&mut broker, 4).await, b"ping");
        broker.write_all(b"pong").await.unwrap();
        assert_eq!(read(&mut client, 4).await, b"pong");
    }

    #[tokio::test]
    async fn more_than_any_buffer_passes_whole() {
        let (mut client, mut broker, _running) = relay().await;
        let sent: Vec<u8> = (0..10 * CHUNK).map(|i| (i % 253) as u8).collect();
        let expected = sent.clone();
        tokio::spawn(async move {
            broker.write_all(&sent).await.unwrap();
            broker.shutdown().await.unwrap();
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert!(got == expected);
    }

    #[tokio::test]
    async fn the_broker_hears_that_the_client_left_and_may_still_answer() {
        let (mut client, mut broker, running) = relay().await;
        client.write_all(b"bye").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        broker.read_to_end(&mut heard).await.unwrap();
        broker.write_all(b"bye too").await.unwrap();
        drop(broker);
        assert_eq!((heard.as_slice(), read(&mut client, 7).await.as_slice()), (&b"bye"[..], &b"bye too"[..]));
        running.await.unwrap().unwrap();
    }
}
