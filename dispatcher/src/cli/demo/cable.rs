//! A network cable between one device and the broker, which can be slow, and cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the cable is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Good,
    /// About 8 KiB a second towards the device, so that there is time to cut between two chunks.
    Slow,
    Cut,
}

/// The cable. Dropping it cuts it.
pub(super) struct Cable {
    /// Where the device finds the broker.
    pub address: SocketAddr,
    condition: watch::Sender<Condition>,
}

impl Cable {
    /// Lays a cable to `broker`.
    pub async fn lay(broker: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
        let address = listener.local_addr()?;
        let (condition, seen) = watch::channel(Condition::Good);
        let seen = Arc::new(seen);
        tokio::spawn(async move {
            while let Ok((device, _)) = listener.accept().await {
                tokio::spawn(carry(device, broker, (*seen).clone()));
            }
        });
        Ok(Self { address, condition })
    }

    pub fn slow_down(&self) {
        self.condition.send_replace(Condition::Slow);
    }

    pub fn cut(&self) {
        self.condition.send_replace(Condition::Cut);
    }

    pub fn mend(&self) {
        self.condition.send_replace(Condition::Good);
    }
}

async fn carry(device: TcpStream, broker: SocketAddr, mut condition: watch::Receiver<Condition>) {
    if *condition.borrow() == Condition::Cut {
        return;
    }
    let Ok(broker) = TcpStream::connect(broker).await else { return };
    let (mut from_device, mut to_device) = device.into_split();
    let (mut from_broker, mut to_broker) = broker.into_split();
    let slow = condition.clone();
    let down = async {
        let mut buffer = [0u8; 1024];
        while let Ok(read @ 1..) = from_broker.read(&mut buffer).await {
            if *slow.borrow() == Condition::Slow {
                tokio::time::sleep(Duration::from_millis(120)).await;
            }
            if to_device.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    };
    let up = async {
        let _ = tokio::io::copy(&mut from_device, &mut to_broker).await;
    };
    let cut = async {
        let _ = condition.wait_for(|c| *c == Condition::Cut).await;
    };
    tokio::select! {
        () = down => {}
        () = up => {}
        () = cut => {}
    }
}
