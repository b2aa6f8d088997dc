//! Who is behind which loopback connection: entered by the front door, asked by the broker.
//!
//! Invariant 14: a connection that is not entered here is refused, whatever it says.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mqtt5::broker::{AuthProvider, AuthResult};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use tokio::sync::{Notify, watch};

use super::Acl;
use crate::repeats::Repeats;
use crate::tls::Subject;

/// Connections under one name at a time. A device has one, and more only while a dead one has not been noticed yet;
/// without a bound a single device could take every place.
const PER_NAME: usize = 4;

/// The entries, and the broker's questions about them.
pub(super) struct Gate {
    acl: Arc<dyn Acl>,
    book: Mutex<Book>,
    connections: watch::Sender<usize>,
    refusals: Repeats,
}

#[derive(Default)]
struct Book {
    entries: HashMap<SocketAddr, Entry>,
    /// The addresses entered under each name.
    names: HashMap<String, Vec<SocketAddr>>,
}

struct Entry {
    subject: Subject,
    /// Past its CONNECT.
    connected: bool,
    displaced: Arc<Notify>,
}

/// An entry, for as long as it lives. Drop it before its loopback socket: the port may serve somebody else next.
pub(super) struct Pass {
    gate: Arc<Gate>,
    address: SocketAddr,
    displaced: Arc<Notify>,
}

impl Gate {
    pub(super) fn new(acl: Arc<dyn Acl>) -> Gate {
        Gate { acl, book: Mutex::default(), connections: watch::Sender::new(0), refusals: Repeats::default() }
    }

    /// Enters `subject` as the one behind `address`, unless that name has too many connections already.
    pub(super) fn admit(self: &Arc<Self>, address: SocketAddr, subject: Subject) -> Option<Pass> {
        let displaced = Arc::new(Notify::new());
        let mut book = self.book();
        let addresses = book.names.entry(subject.common_name.clone()).or_default();
        if addresses.len() >= PER_NAME {
            return None;
        }
        addresses.push(address);
        book.entries.insert(address, Entry { subject, connected: false, displaced: Arc::clone(&displaced) });
        self.connections.send_replace(book.entries.len());
        Some(Pass { gate: Arc::clone(self), address, displaced })
    }

    /// How many entries there are.
    pub(super) fn connections(&self) -> watch::Receiver<usize> {
        self.connections.subscribe()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let book = self.book();
        book.entries.is_empty() && book.names.is_empty()
    }

    /// Answers a CONNECT.
    fn check(&self, address: SocketAddr, client_id: &str) -> AuthResult {
        let mut book = self.book();
        let Some(entry) = book.entries.get_mut(&address) else {
            self.log_refusal(address, "-", client_id, "it did not come through the front door");
            return AuthResult::fail(ReasonCode::NotAuthorized);
        };
        let name = entry.subject.common_name.clone();
        if name != client_id {
            self.log_refusal(address, &name, client_id, "its client id is not the name in its certificate");
            return AuthResult::fail(ReasonCode::ClientIdentifierNotValid);
        }
        entry.connected = true;
        let organization = entry.subject.organization.clone();
        book.displace_others(&name, address);
        // mqtt5 hands this back with each question, and puts it into messages as the user property `x-mqtt-sender`.
        AuthResult::success_with_user(organization)
    }

    fn leave(&self, address: SocketAddr) {
        let mut book = self.book();
        if let Some(entry) = book.entries.remove(&address) {
            let name = entry.subject.common_name;
            if let Some(addresses) = book.names.get_mut(&name) {
                addresses.retain(|other| *other != address);
                if addresses.is_empty() {
                    book.names.remove(&name);
                }
            }
        }
        self.connections.send_replace(book.entries.len());
    }

    fn log_refusal(&self, address: SocketAddr, name: &str, client_id: &str, reason: &str) {
        if let Some(held_back) = self.refusals.pass(Instant::now()) {
            tracing::warn!(%address, name, client_id, reason, held_back, "MQTT connection refused");
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Each change is complete before anything could panic.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// The newest connection of a name takes over. The broker ends the older ones itself, but first waits up to 30 s
    /// for one that is stuck writing to a peer that has gone; so their relays are cut from this side as well.
    fn displace_others(&self, name: &str, newest: SocketAddr) {
        for address in self.names.get(name).into_iter().flatten().filter(|address| **address != newest) {
            if let Some(entry) = self.entries.get(address).filter(|entry| entry.connected) {
                entry.displaced.notify_one();
            }
        }
    }
}

impl Pass {
    /// Returns once a newer connection of the same name has taken over.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.leave(self.address);
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl AuthProvider for Gate {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        client_addr: SocketAddr,
    ) -> Answer<'a, mqtt5::error::Result<AuthResult>> {
        Box::pin(ready(Ok(self.check(client_addr, &connect.client_id))))
    }

    fn authorize_publish<'a>(&'a self, client_id: &str, user_id: Option<&'a str>, topic: &'a str) -> Answer<'a, bool> {
        Box::pin(ready(subject(client_id, user_id).is_some_and(|who| self.acl.may_publish(&who, topic))))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        client_id: &str,
        user_id: Option<&'a str>,
        topic_filter: &'a str,
    ) -> Answer<'a, bool> {
        Box::pin(ready(subject(client_id, user_id).is_some_and(|who| self.acl.may_subscribe(&who, topic_filter))))
    }
}

/// The subject as [`Gate::check`] gave it to the broker: client id and user are common name and organization.
fn subject(client_id: &str, user_id: Option<&str>) -> Option<Subject> {
    Some(Subject { common_name: client_id.to_owned(), organization: user_id?.to_owned() })
}
