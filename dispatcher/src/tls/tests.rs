#![allow(clippy::disallowed_methods, reason = "a test reads at its end what it was sent")]

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::listener::pause_after;
use super::*;
use crate::ca::Ca;

const LIMIT: Duration = Duration::from_secs(10);

struct House {
    ca: Ca,
    _dir: TempDir,
}

impl House {
    fn new() -> House {
        let dir = TempDir::new().unwrap();
        House { ca: Ca::load_or_create(dir.path()).unwrap(), _dir: dir }
    }

    fn server(&self, clients: ClientAuth) -> ServerConfig {
        let identity = self.ca.issue_server(&["127.0.0.1".to_owned()]).unwrap();
        server_config(&identity, clients).unwrap()
    }

    fn listener(&self, clients: ClientAuth) -> Listener {
        Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), self.server(clients)).unwrap()
    }

    fn device(&self, name: &str) -> Identity {
        self.ca.issue_client("default", name).unwrap()
    }

    fn client(&self, identity: Option<&Identity>) -> ClientConfig {
        client_config(self.ca.certificate_der(), identity).unwrap()
    }
}

/// Connects, and reads the one byte that [`greet_all`] sends to whom it accepted.
async fn connect(addr: SocketAddr, config: ClientConfig) -> io::Result<u8> {
    let tcp = TcpStream::connect(addr).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    stream.read_u8().await
}

/// Accepts for ever; tells each peer that it got in, and the test who did.
fn greet_all(mut listener: Listener) -> tokio::sync::mpsc::UnboundedReceiver<Peer> {
    let (sender, peers) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, peer) = listener.accept().await;
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
            sender.send(peer).unwrap();
        }
    });
    peers
}

#[tokio::test]
async fn certificates_are_asked_for_as_configured() {
    let (house, stranger) = (House::new(), House::new());
    let own = house.device("pi-4");
    let foreign = stranger.device("pi-4");
    let subject = Subject { common_name: "pi-4".to_owned(), organization: "default".to_owned() };
    let ca = || house.ca.certificate_der();
    // What the server demands, what the client shows, and as whom it gets in, if it does.
    let cases = [
        (ClientAuth::None, None, Some(None)),
        (ClientAuth::None, Some(&own), Some(None)),
        (ClientAuth::Optional(ca()), None, Some(None)),
        (ClientAuth::Optional(ca()), Some(&own), Some(Some(subject.clone()))),
        (ClientAuth::Optional(ca()), Some(&foreign), None),
        (ClientAuth::Required(ca()), None, None),
        (ClientAuth::Required(ca()), Some(&own), Some(Some(subject))),
        (ClientAuth::Required(ca()), Some(&foreign), None),
    ];
    for (number, (clients, shown, expected)) in cases.into_iter().enumerate() {
        let listener = house.listener(clients);
        let addr = listener.local_addr();
        let mut peers = greet_all(listener);
        let got = timeout(LIMIT, connect(addr, house.client(shown))).await.expect("an answer");
        match expected {
            None => assert!(got.is_err(), "case {number} got in"),
            Some(identity) => {
                assert_eq!(got.expect("let in"), b'!', "case {number}");
                assert_eq!(peers.recv().await.unwrap().identity, identity, "case {number}");
            }
        }
    }
}

#[derive(Debug)]
struct At(Duration);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0))
    }
}

/// Invariant 11: nothing waits for a clock, on neither side.
#[tokio::test]
async fn a_handshake_works_in_the_first_second_of_1970_and_in_2300() {
    let house = House::new();
    let device = house.device("pi-4");
    let clocks = [Duration::ZERO, Duration::from_secs(10_413_792_000)];
    for (server_time, client_time) in
        clocks.iter().flat_map(|server| clocks.iter().map(move |client| (*server, *client)))
    {
        let mut server = house.server(ClientAuth::Required(house.ca.certificate_der()));
        server.time_provider = Arc::new(At(server_time));
        let mut client = house.client(Some(&device));
        client.time_provider = Arc::new(At(client_time));
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), server).unwrap();
        let addr = listener.local_addr();
        let _peers = greet_all(listener);
        assert_eq!(
            timeout(LIMIT, connect(addr, client)).await.unwrap().unwrap(),
            b'!',
            "{server_time:?} {client_time:?}"
        );
    }
}

#[tokio::test]
async fn a_client_refuses_a_server_of_another_authority() {
    let (house, stranger) = (House::new(), House::new());
    let listener = house.listener(ClientAuth::None);
    let addr = listener.local_addr();
    let _peers = greet_all(listener);
    assert!(timeout(LIMIT, connect(addr, stranger.client(None))).await.unwrap().is_err());
}

#[tokio::test]
async fn silent_and_talking_nonsense_peers_hold_up_nobody() {
    let house = House::new();
    let listener = house.listener(ClientAuth::None);
    let addr = listener.local_addr();
    let _peers = greet_all(listener);
    let mut bad = Vec::new();
    for number in 0..20 {
        let mut tcp = TcpStream::connect(addr).await.unwrap();
        if number % 2 == 0 {
            tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        }
        bad.push(tcp);
    }
    assert_eq!(timeout(LIMIT / 2, connect(addr, house.client(None))).await.unwrap().unwrap(), b'!');
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let house = House::new();
    let first = house.listener(ClientAuth::None);
    let error = Listener::bind(first.local_addr(), house.server(ClientAuth::None)).unwrap_err();
    assert!(matches!(error, Error::InUse(addr) if addr == first.local_addr()), "{error:?}");
    assert!(error.to_string().contains(&first.local_addr().to_string()), "{error}");
    let addr = first.local_addr();
    drop(first);
    // The accepting task ends at its next turn.
    let again = async {
        while Listener::bind(addr, house.server(ClientAuth::None)).is_err() {
            tokio::task::yield_now().await
        }
    };
    timeout(LIMIT, again).await.expect("a dropped listener gives its port back");
}

#[tokio::test]
async fn axum_serves_over_it_and_knows_the_peer() {
    let house = House::new();
    let listener = house.listener(ClientAuth::Optional(house.ca.certificate_der()));
    let addr = listener.local_addr();
    let who = |ConnectInfo(peer): ConnectInfo<Peer>| async move {
        peer.identity.map_or("nobody".to_owned(), |s| s.common_name)
    };
    let app = Router::new().route("/", get(who)).into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let device = house.device("pi-4");
    for (shown, expected) in [(None, "nobody"), (Some(&device), "pi-4")] {
        let tcp = TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(house.client(shown))).connect(name, tcp).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(expected), "{answer}");
    }
}

#[test]
fn accept_errors_that_stay_are_waited_out_and_others_are_not() {
    let out_of_files = || io::Error::from_raw_os_error(24);
    let pauses: Vec<u64> =
        (0..7).map(|earlier| pause_after(&out_of_files(), earlier).as_millis().try_into().unwrap()).collect();
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
    assert_eq!(pause_after(&out_of_files(), u32::MAX), Duration::from_secs(1));
    for kind in [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset, ErrorKind::Interrupted] {
        assert_eq!(pause_after(&kind.into(), 3), Duration::ZERO, "{kind:?}");
    }
}

#[test]
fn an_identity_that_does_not_fit_is_refused() {
    let house = House::new();
    let (a, b) = (house.device("a"), house.device("b"));
    let with = |certificates_pem: &str, key_pem: &str| {
        let identity = Identity { certificates_pem: certificates_pem.to_owned(), key_pem: key_pem.to_owned() };
        server_config(&identity, ClientAuth::None).map(drop)
    };
    assert!(matches!(with(&a.certificates_pem, &b.key_pem), Err(Error::Identity(_))), "another's key");
    assert!(matches!(with("", &a.key_pem), Err(Error::Identity(_))), "no certificate");
    assert!(matches!(with(&a.certificates_pem, "nonsense"), Err(Error::Pem("private key", _))));
    let junk = ClientAuth::Required(CertificateDer::from(vec![1, 2, 3]));
    assert!(matches!(server_config(&a, junk), Err(Error::Authority(_))));
}

#[test]
fn a_subject_needs_exactly_one_common_name_and_one_organization() {
    use rcgen::DnType::{CommonName, OrganizationName};
    let key = rcgen::KeyPair::generate().unwrap();
    let subject_of = |parts: &[(rcgen::DnType, &str)]| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        subject(params.self_signed(&key).unwrap().der())
    };
    let good = subject_of(&[(OrganizationName, "default"), (CommonName, "pi-4")]).unwrap();
    assert_eq!((good.common_name.as_str(), good.organization.as_str()), ("pi-4", "default"));
    assert!(subject_of(&[(CommonName, "pi-4")]).is_err());
    assert!(subject_of(&[(OrganizationName, "default")]).is_err());
    assert!(subject_of(&[(OrganizationName, "default"), (CommonName, "")]).is_err());
    assert!(subject(&CertificateDer::from(vec![0; 10])).is_err());
}
