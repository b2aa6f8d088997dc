//! Where a broker is: `mqtts://host:8883`, or `mqtt://user:password@host:1883` without TLS.

use std::fmt;
use std::str::FromStr;

/// A broker's address.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// User name and password, for brokers that want them.
    pub credentials: Option<(String, String)>,
}

/// Why a text is no broker's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a broker's URL: write mqtts://host:port, or mqtt://host:port for one without TLS")]
pub struct EndpointError(pub String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        let parse = || {
            let (scheme, rest) = url.split_once("://")?;
            let (tls, default) = match scheme {
                "mqtts" | "ssl" => (true, 8883),
                "mqtt" | "tcp" => (false, 1883),
                _ => return None,
            };
            let (credentials, address) = match rest.trim_end_matches('/').rsplit_once('@') {
                Some((login, address)) => {
                    let (user, password) = login.split_once(':').unwrap_or((login, ""));
                    (Some((user.to_owned(), password.to_owned())), address)
                }
                None => (None, rest.trim_end_matches('/')),
            };
            // The colons of an IPv6 address stand in brackets.
            let (host, port) = match address.rsplit_once(':') {
                Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
                _ => (address, default),
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let host_ok = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-.:_".contains(c));
            host_ok.then(|| Endpoint { host: host.to_owned(), port, tls, credentials })
        };
        // Without what may be a password.
        parse().ok_or_else(|| EndpointError(url.rsplit('@').next().unwrap_or_default().chars().take(200).collect()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_passwords_never_shown() {
        let table = [
            ("mqtts://hub.example", "mqtts://hub.example:8883", None),
            ("mqtt://10.0.0.1:1884/", "mqtt://10.0.0.1:1884", None),
            ("mqtt://[::1]:1884", "mqtt://[::1]:1884", None),
            ("mqtts://[fe80::1]", "mqtts://[fe80::1]:8883", None),
            ("mqtt://ann:p@ss@hub", "mqtt://hub:1883", Some(("ann", "p@ss"))),
        ];
        for (url, shown, login) in table {
            let endpoint: Endpoint = url.parse().expect("valid");
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(format!("{endpoint:?}"), shown);
            assert_eq!(endpoint.credentials, login.map(|(u, p)| (u.to_owned(), p.to_owned())));
        }
        for bad in ["", "hub:1883", "http://hub", "mqtt://", "mqtt://hub:port", "mqtt://hub:99999", "mqtt://a b"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?} was accepted");
        }
        let error = "mqtt://ann:secret@".parse::<Endpoint>().expect_err("no host");
        assert!(!error.to_string().contains("secret"));
    }
}
