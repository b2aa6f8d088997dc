//! Does the broker answer, and does each side accept the other's certificate?

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::Finding;
use crate::identity::{Error, Identity};

const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn check(identity: &Result<Identity, Error>) -> Finding {
    let Ok(identity) = identity else {
        return Finding::fail("broker", "unknown before the device is enrolled", "run `muster-agent enroll TOKEN`");
    };
    let broker = &identity.broker;
    let at = format!("{}:{}", broker.host, broker.port);
    let address = match at.to_socket_addrs().map(|mut found| found.next()) {
        Ok(Some(address)) => address,
        _ => {
            return Finding::fail(
                "broker",
                format!("{at}: the name is not known"),
                "check the name service (DNS) of this network",
            );
        }
    };
    let stream = match TcpStream::connect_timeout(&address, TIMEOUT) {
        Ok(stream) => stream,
        Err(error) => {
            return Finding::fail(
                "broker",
                format!("{at}: {error}"),
                "check that the dispatcher runs and that no firewall stands between",
            );
        }
    };
    if !broker.tls {
        return Finding::warn(
            "broker",
            format!("{at} answers, without TLS"),
            "use a broker with TLS outside a laboratory",
        );
    }
    match handshake(identity, stream, &broker.host) {
        Ok(()) => Finding::ok("broker", format!("{at} answers, certificates accepted on both sides")),
        Err(reason) => Finding::fail(
            "broker",
            format!("{at}: {reason}"),
            "if the dispatcher was set up anew, enrol the device there: `muster-agent enroll --force TOKEN`",
        ),
    }
}

fn handshake(identity: &Identity, mut stream: TcpStream, host: &str) -> Result<(), String> {
    let config = identity.tls().map_err(|e| e.to_string())?;
    let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let mut connection = rustls::ClientConnection::new(Arc::clone(&config), name).map_err(|e| e.to_string())?;
    stream
        .set_read_timeout(Some(TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(TIMEOUT)))
        .map_err(|e| e.to_string())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|e| e.to_string())?;
    }
    // With TLS 1.3 the server judges the client's certificate after the handshake: a refusal comes as an
    // alert on the first read. An MQTT server that accepts it waits for us to speak, so silence is consent.
    stream.set_read_timeout(Some(Duration::from_millis(500))).map_err(|e| e.to_string())?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let _ = tls.flush();
    match tls.read(&mut [0u8; 1]) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => Ok(()),
        Err(e) => Err(e.to_string()),
        Ok(_) => Err("the broker closed the connection".into()),
    }
}
