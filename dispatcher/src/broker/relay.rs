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
