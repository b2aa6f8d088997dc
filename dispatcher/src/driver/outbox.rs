//! What goes to devices besides chunks: desired states and acknowledgements.
//!
//! Latest wins, not a queue: of each device only the newest desired state waits, signed when it is sent. So it
//! is bounded by the number of devices, however long the broker is away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use muster_proto::desired::Desired;
use muster_proto::id::{DeviceId, Workspace};
use muster_proto::topic::{Leaf, Topic};
use muster_proto::transfer::Ack;
use muster_proto::wire;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::link::{Link, Retain};
use crate::signing::Signing;

/// The most acknowledgements that wait for one device; those that are lost are asked for again by repetition.
const MAX_ACKS: usize = 256;

/// The outbox. Clones share it.
#[derive(Clone, Default)]
pub struct Outbox(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Default)]
struct Waiting {
    desired: BTreeMap<DeviceId, Option<Desired>>,
    acks: BTreeMap<DeviceId, BTreeSet<u64>>,
}

enum Next {
    Desired(DeviceId, Option<Desired>),
    Acks(DeviceId, Vec<u64>),
}

impl Outbox {
    /// Publishes a device's desired state, retained; none clears it.
    pub fn publish(&self, device: DeviceId, desired: Option<Desired>) {
        self.waiting().desired.insert(device, desired);
        self.0.wake.notify_one();
    }

    /// Tells a device which messages are safe.
    pub fn ack(&self, device: &DeviceId, ids: &[u64]) {
        let mut waiting = self.waiting();
        let acks = waiting.acks.entry(device.clone()).or_default();
        acks.extend(ids);
        while acks.len() > MAX_ACKS {
            acks.pop_first();
        }
        drop(waiting);
        self.0.wake.notify_one();
    }

    /// Sends over `link` for ever.
    pub fn start(&self, workspace: Workspace, signing: Signing, link: Link) -> JoinHandle<()> {
        tokio::spawn(self.clone().run(workspace, signing, link))
    }

    async fn run(self, workspace: Workspace, signing: Signing, link: Link) {
        loop {
            let topic = |device, leaf| Topic::device(workspace.clone(), device, leaf);
            match self.next() {
                Some(Next::Desired(device, Some(desired))) => {
                    let generation = desired.generation;
                    let signed = signing.run(move |signer| signer.sign_desired(&desired)).await;
                    let bytes =
                        signed.map_err(|e| e.to_string()).and_then(|s| wire::encode(&s).map_err(|e| e.to_string()));
                    match bytes {
                        Ok(bytes) => {
                            let topic = topic(device.clone(), Leaf::Desired);
                            if let Err(error) = link.publish(&topic, Retain::Yes, bytes.into()).await {
                                tracing::error!(%device, %generation, %error, "a desired state cannot be published");
                            }
                        }
                        Err(error) => tracing::error!(%device, %generation, %error, "a desired state cannot be signed"),
                    }
                }
                Some(Next::Desired(device, None)) => {
                    let _ = link.publish(&topic(device, Leaf::Desired), Retain::Yes, Bytes::new()).await;
                }
                Some(Next::Acks(device, ids)) => {
                    let bytes = wire::encode(&Ack::V1 { ids }).unwrap_or_default();
                    let _ = link.publish(&topic(device, Leaf::Ack), Retain::No, bytes.into()).await;
                }
                None => self.0.wake.notified().await,
            }
        }
    }

    /// Acknowledgements first: they are small, and devices repeat what they miss.
    fn next(&self) -> Option<Next> {
        let mut waiting = self.waiting();
        if let Some((device, ids)) = waiting.acks.pop_first() {
            return Some(Next::Acks(device, ids.into_iter().collect()));
        }
        waiting.desired.pop_first().map(|(device, desired)| Next::Desired(device, desired))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_desired_state_wins_and_acks_are_gathered_within_bounds() {
        let outbox = Outbox::default();
        let device: DeviceId = "pi".parse().expect("valid");
        outbox.publish(device.clone(), None);
        outbox.publish(device.clone(), None);
        for id in 0..1000 {
            outbox.ack(&device, &[id]);
        }
        match outbox.next() {
            Some(Next::Acks(_, ids)) => assert_eq!((ids.len(), ids.last()), (MAX_ACKS, Some(&999))),
            _ => panic!("acknowledgements come first"),
        }
        assert!(matches!(outbox.next(), Some(Next::Desired(_, None))));
        assert!(outbox.next().is_none());
    }
}
