//! The MQTT broker itself (mqtt5), made safe to embed: loopback only, everything bounded, nothing on disk.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mqtt5::MqttError;
use mqtt5::broker::config::{BrokerConfig, StorageBackend, StorageConfig};
use mqtt5::broker::{BrokerShutdownHandle, MqttBroker, ResourceLimits};
use tokio::task::JoinSet;

use super::gate::Gate;
use super::{Error, Limits};

/// How often sessions that have expired are thrown away.
const SWEEP: Duration = Duration::from_secs(600);

/// Starts the broker as a task of `tasks` and returns once it accepts connections.
pub(super) async fn start(
    limits: &Limits,
    gate: Arc<Gate>,
    tasks: &mut JoinSet<()>,
) -> Result<(BrokerShutdownHandle, SocketAddr), Error> {
    let ended = || Error::Inner(MqttError::InvalidState("it ended at once".to_owned()));
    let broker = MqttBroker::with_config(config(limits)).await.map_err(Error::Inner)?;
    let addr = broker.local_addr().ok_or_else(ended)?;
    // mqtt5 would allow 10,000 connections per address, and all of ours come from 127.0.0.1.
    broker.resource_monitor().update_limits(resources(limits));
    // Replaces "allow everybody" before `run` accepts the first connection, and with it a rate limit on failed logins
    // per address that would lock out the whole fleet.
    let mut broker = broker.with_auth_provider(gate);
    let (stop, mut ready) = (broker.shutdown_handle(), broker.ready_receiver());
    tasks.spawn(async move {
        if let Err(error) = broker.run().await {
            tracing::error!(%error, "the embedded MQTT broker failed");
        }
    });
    ready.wait_for(|ready| *ready).await.map_err(|_| ended())?;
    Ok((stop, addr))
}

fn config(limits: &Limits) -> BrokerConfig {
    let mut config = BrokerConfig::new()
        .with_bind_address((Ipv4Addr::LOCALHOST, 0))
        .with_max_packet_size(limits.packet_bytes)
        // Nothing of ours uses QoS 2, and its half-done messages would be one more thing that grows.
        .with_maximum_qos(1)
        .with_client_channel_capacity(limits.lane_messages)
        .with_max_outbound_inflight(limits.in_flight)
        .with_max_subscriptions_per_client(limits.subscriptions)
        .with_max_retained_messages(limits.retained_messages)
        .with_max_retained_message_size(limits.retained_bytes)
        .with_session_expiry(limits.session)
        .with_sys_topics_enabled(false)
        .with_storage(
            // Persistent sessions need a storage, even if it is memory.
            StorageConfig::new()
                .with_backend(StorageBackend::Memory)
                .with_cleanup_interval(SWEEP)
                .with_max_queued_messages_per_client(limits.queued_messages)
                .with_max_queued_bytes_per_client(limits.queued_bytes),
        );
    config.max_clients = connections(limits);
    // Up to 65,535 topics of 64 KiB would be remembered for each connection.
    config.topic_alias_maximum = 0;
    config
}

/// The front door counts; this only has to let a new connection in while the one that it displaces still ends.
fn connections(limits: &Limits) -> usize {
    limits.connections.saturating_mul(2)
}

fn resources(limits: &Limits) -> ResourceLimits {
    ResourceLimits {
        max_connections: connections(limits),
        max_connections_per_ip: connections(limits),
        // A message over a rate is dropped, and 3.1.1 has no way to say so: let TCP slow clients down instead.
        max_message_rate_per_client: 0,
        max_bandwidth_per_client: 0,
        max_connection_rate: u32::MAX,
        rate_limit_window: Duration::from_secs(1),
    }
}
