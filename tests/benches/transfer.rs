//! How fast a bundle reaches a device, against a bare MQTT client that moves the same bytes in the same
//! chunks through the same broker: `cargo bench --workspace --bench transfer`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use muster_dispatcher::broker::{self, Broker};
use muster_dispatcher::ca::Ca;
use muster_dispatcher::tls::{self, ClientAuth, Subject};
use muster_tests::inprocess::Hub;
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions, Packet, QoS, TlsConfiguration, Transport};

const SIZE: usize = 32 << 20;
const CHUNK: usize = 64 << 10;
const WINDOW: usize = 16;

fn main() -> Result<()> {
    if std::env::args().any(|a| a == "--test") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(bench())
}

async fn bench() -> Result<()> {
    let bytes = noise(SIZE);
    let bare = bare_client(&bytes).await?;
    let muster = muster(&bytes).await?;
    let rate = |took: Duration| SIZE as f64 / 1e6 / took.as_secs_f64();
    println!(
        "| {} MB in {} KiB chunks, {WINDOW} in flight, mTLS, loopback | MB/s | of the bare client |",
        SIZE / 1_000_000,
        CHUNK / 1024
    );
    println!("|---|---|---|");
    println!("| bare MQTT request/response, nothing checked or stored | {:.0} | 1.00 |", rate(bare));
    println!(
        "| muster: accepted → healthy (fetch, check, store, assemble, verify, load, probe) | {:.0} | {:.2} |",
        rate(muster),
        bare.as_secs_f64() / muster.as_secs_f64()
    );
    Ok(())
}

/// Bytes that do not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 7u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..size / 8).flat_map(|_| next().to_le_bytes()).collect()
}

async fn muster(bytes: &[u8]) -> Result<Duration> {
    let hub = Hub::start().await?;
    let agent = hub.agent("bench").await?;
    hub.register_digits_with(2, bytes).await?;
    let began = Instant::now();
    hub.roll_out("digits", &[&agent]).await?;
    let took = began.elapsed();
    drop(agent);
    hub.stop().await;
    Ok(took)
}

struct Everything;

impl broker::Acl for Everything {
    fn may_publish(&self, _: &Subject, _: &str) -> bool {
        true
    }

    fn may_subscribe(&self, _: &Subject, _: &str) -> bool {
        true
    }
}

/// One client asks for chunks, another answers with them; the window is the agent's.
async fn bare_client(bytes: &[u8]) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let ca = Ca::load_or_create(folder.path())?;
    let server = ca.issue_server(&["localhost".into(), "127.0.0.1".into()])?;
    let config = tls::server_config(&server, ClientAuth::Required(ca.certificate_der().to_vec().into()))?;
    let broker = Broker::start(broker::Config {
        listen: ([127, 0, 0, 1], 0).into(),
        tls: config,
        acl: Arc::new(Everything),
        limits: broker::Limits::default(),
    })
    .await?;
    let connect = |name: &str| -> Result<_> {
        let identity = ca.issue_client("default", name)?;
        let tls = tls::client_config(ca.certificate_der(), Some(&identity))?;
        let mut options = MqttOptions::new(name, "127.0.0.1", broker.local_addr().port());
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        options.set_max_packet_size(256 << 10, 256 << 10).set_inflight(64);
        let (client, mut events) = AsyncClient::new(options, 64);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        Ok((client, events))
    };

    let content: Arc<[u8]> = bytes.into();
    let (server, mut events) = connect("server")?;
    server.try_subscribe("ask", QoS::AtLeastOnce)?;
    let (ready, mut is_ready) = tokio::sync::watch::channel(false);
    let answering = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            match event {
                Event::Incoming(Packet::SubAck(_)) => drop(ready.send_replace(true)),
                Event::Incoming(Packet::Publish(asked)) => {
                    let index = asked.payload.iter().fold(0usize, |n, b| n << 8 | usize::from(*b));
                    let chunk = content[index * CHUNK..(index + 1) * CHUNK].to_vec();
                    let _ = server.try_publish("answer", QoS::AtLeastOnce, false, chunk);
                }
                _ => {}
            }
        }
    });
    is_ready.wait_for(|r| *r).await.context("the server subscribes")?;

    let (client, mut events) = connect("client")?;
    client.try_subscribe("answer", QoS::AtLeastOnce)?;
    let chunks = bytes.len() / CHUNK;
    let (mut asked, mut arrived) = (0usize, 0usize);
    let ask = |index: usize| client.try_publish("ask", QoS::AtLeastOnce, false, (index as u32).to_be_bytes().to_vec());
    let mut began = Instant::now();
    while arrived < chunks {
        match events.poll().await? {
            Event::Incoming(Packet::SubAck(_)) => {
                began = Instant::now();
                while asked < WINDOW {
                    ask(asked)?;
                    asked += 1;
                }
            }
            Event::Incoming(Packet::Publish(_)) => {
                arrived += 1;
                if asked < chunks {
                    ask(asked)?;
                    asked += 1;
                }
            }
            _ => {}
        }
    }
    let took = began.elapsed();
    answering.abort();
    broker.shutdown().await;
    Ok(took)
}
