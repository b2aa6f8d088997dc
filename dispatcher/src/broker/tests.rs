//! Real clients (3.1.1 and 5) against a broker on a free port. No test sleeps: each waits for an event.

#![allow(clippy::disallowed_methods, reason = "a test reads at its end what it was sent")]

mod access;
mod client;
mod delivery;

use std::net::Ipv4Addr;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use self::client::{Client, Options, Version};
use super::*;
use crate::ca::{Ca, Identity};
use crate::tls::ClientAuth;

/// How long anything may take that is expected to happen.
const LIMIT: Duration = Duration::from_secs(20);
/// May do everything; devices may only do what is under `t/{their name}/`.
const BOSS: &str = "muster";
const BOTH: [Version; 2] = [Version::V311, Version::V5];

/// What the broker asked and was answered: who, what, allowed.
type Decision = (String, String, bool);

struct Rules(mpsc::UnboundedSender<Decision>);

impl Rules {
    fn decide(&self, who: &Subject, what: &str) -> bool {
        assert_eq!(who.organization, "default");
        let allowed = who.common_name == BOSS || what.starts_with(&format!("t/{}/", who.common_name));
        let _ = self.0.send((who.common_name.clone(), what.to_owned(), allowed));
        allowed
    }
}

impl Acl for Rules {
    fn may_publish(&self, who: &Subject, topic: &str) -> bool {
        self.decide(who, topic)
    }

    fn may_subscribe(&self, who: &Subject, filter: &str) -> bool {
        self.decide(who, filter)
    }
}

struct House {
    ca: Ca,
    broker: Broker,
    decisions: mpsc::UnboundedReceiver<Decision>,
    _dir: TempDir,
}

impl House {
    async fn new() -> House {
        House::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> House {
        let dir = TempDir::new().unwrap();
        let ca = Ca::load_or_create(dir.path()).unwrap();
        let (sender, decisions) = mpsc::unbounded_channel();
        let broker = Broker::start(Config {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            tls: server_tls(&ca),
            acl: Arc::new(Rules(sender)),
            limits,
        });
        House { broker: broker.await.unwrap(), ca, decisions, _dir: dir }
    }

    fn identity(&self, name: &str) -> Identity {
        self.ca.issue_client("default", name).unwrap()
    }

    /// How the device `name` connects when nothing is wrong.
    fn options(&self, version: Version, name: &str) -> Options {
        let tls = tls::client_config(self.ca.certificate_der(), Some(&self.identity(name))).unwrap();
        Options::new(version, name, self.broker.local_addr(), Some(tls))
    }

    /// A client that has connected.
    async fn client(&self, version: Version, name: &str) -> Client {
        let mut client = Client::start(self.options(version, name));
        client.connected().await;
        client
    }

    /// Waits until the broker has answered a question about `name` and `what`.
    async fn decided(&mut self, name: &str, what: &str) -> bool {
        loop {
            let (who, asked, allowed) =
                timeout(LIMIT, self.decisions.recv()).await.expect("a decision").expect("the broker runs");
            if (who.as_str(), asked.as_str()) == (name, what) {
                return allowed;
            }
        }
    }

    async fn connections(&self, expected: usize) {
        let mut connections = self.broker.gate.connections();
        timeout(LIMIT, connections.wait_for(|n| *n == expected)).await.expect("so many connections").unwrap();
    }
}

fn server_tls(ca: &Ca) -> ServerConfig {
    let identity = ca.issue_server(&["127.0.0.1".to_owned()]).unwrap();
    tls::server_config(&identity, ClientAuth::Required(ca.certificate_der())).unwrap()
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let house = House::new().await;
    let taken = house.broker.local_addr();
    let (sender, _decisions) = mpsc::unbounded_channel();
    let second = Broker::start(Config {
        listen: taken,
        tls: server_tls(&house.ca),
        acl: Arc::new(Rules(sender)),
        limits: Limits::default(),
    });
    let error = second.await.err().expect("the port is taken");
    assert!(matches!(error, Error::Door(tls::Error::InUse(addr)) if addr == taken), "{error:?}");
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
}

#[tokio::test]
async fn shutdown_says_good_bye_and_frees_the_port() {
    let house = House::new().await;
    let addr = house.broker.local_addr();
    let tls = tls::client_config(house.ca.certificate_der(), Some(&house.identity("pi-4"))).unwrap();
    let tcp = TcpStream::connect(addr).await.unwrap();
    let connector = TlsConnector::from(Arc::new(tls));
    let mut device = connector.connect("127.0.0.1".try_into().unwrap(), tcp).await.unwrap();
    // By hand, because rumqttc takes a DISCONNECT without properties, as here, for the end of the stream.
    device.write_all(b"\x10\x11\0\x04MQTT\x05\x02\0\x1e\0\0\x04pi-4").await.unwrap();
    device.flush().await.unwrap();
    let mut connack = [0; 2];
    device.read_exact(&mut connack).await.unwrap();
    let mut rest = vec![0; connack[1].into()];
    device.read_exact(&mut rest).await.unwrap();
    timeout(LIMIT, house.broker.shutdown()).await.expect("an end");
    let mut farewell = Vec::new();
    device.read_to_end(&mut farewell).await.unwrap();
    assert_eq!((connack[0], rest[1], farewell.as_slice()), (0x20, 0, b"\xe0\x01\x8b".as_slice()));
    assert!(std::net::TcpListener::bind(addr).is_ok());
}
