//! The whole dispatcher as a person runs it: everything of `serve`, the HTTP API in front of it, and the
//! administrator's context file on the first start.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::app::App;
use crate::cli::Context;
use crate::http;
use crate::serve::{self, BrokerChoice, Config, Running};
use crate::tls::{self, ClientAuth};

/// The name of the administrator's context file in the data folder.
pub const ADMIN_CONTEXT: &str = "admin.toml";

/// Why the dispatcher cannot be hosted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The dispatcher does not start.
    #[error(transparent)]
    Serve(#[from] serve::Error),
    /// The API cannot listen.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The API cannot listen without TLS.
    #[error("the API cannot listen on {addr}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The administrator's context cannot be written.
    #[error("the administrator's context {} cannot be written", path.display())]
    Context {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> muster_proto::code::Code {
        use muster_proto::code::Code;
        match self {
            Error::Serve(error) => error.code(),
            Error::Tls(tls::Error::InUse(_)) => Code::PortInUse,
            Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => Code::PortInUse,
            Error::Tls(_) | Error::Listen { .. } => Code::ConfigInvalid,
            Error::Context { .. } => Code::StoreFailed,
        }
    }
}

/// A dispatcher that others can reach.
pub struct Hosted {
    /// The façade.
    pub app: App,
    /// The API's address, e.g. `https://127.0.0.1:8420`.
    pub api: String,
    /// Where the embedded broker listens.
    pub broker: Option<SocketAddr>,
    /// The administrator's context file.
    pub context: PathBuf,
    /// Whether the data folder was empty before.
    pub is_first_start: bool,
    running: Running,
    stop: oneshot::Sender<()>,
    http: JoinHandle<std::io::Result<()>>,
}

/// Whether the API speaks TLS itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiTls {
    /// With a certificate of the workspace's own authority.
    On,
    /// A reverse proxy does.
    Off,
}

/// Starts everything.
pub async fn start(config: Config, api_tls: ApiTls) -> Result<Hosted, Error> {
    let data = config.data.clone();
    let listen = config.api;
    let host = config.hostnames.first().cloned().unwrap_or_default();
    let api = config.api_url.clone().unwrap_or_else(|| url(api_tls, &host, listen.port()));
    let config = Config { api_url: Some(api.clone()), ..config };
    let running = serve::start(config).await?;
    let context = data.join(ADMIN_CONTEXT);
    if let Some(token) = &running.first_token {
        let ca_pem = (api_tls == ApiTls::On).then(|| running.app.ca_pem());
        let admin = Context { url: api.clone(), token: Some(token.clone()), ca_pem };
        admin.store(&context).map_err(|e| Error::Context { path: context.clone(), source: e.into() })?;
    }
    let router = http::router(running.app.clone());
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = async move {
        let _ = stopped.await;
    };
    let http = match api_tls {
        ApiTls::On => {
            let config = tls::server_config(&running.api_identity, ClientAuth::None)?;
            let listener = tls::Listener::bind(listen, config)?;
            tokio::spawn(http::serve(listener, router, stopped))
        }
        ApiTls::Off => {
            let listener = tokio::net::TcpListener::bind(listen).await;
            let listener = listener.map_err(|source| Error::Listen { addr: listen, source })?;
            tokio::spawn(http::serve(listener, router, stopped))
        }
    };
    Ok(Hosted {
        app: running.app.clone(),
        api,
        broker: running.broker_addr,
        context,
        is_first_start: running.first_token.is_some(),
        running,
        stop,
        http,
    })
}

fn url(api_tls: ApiTls, host: &str, port: u16) -> String {
    let scheme = if api_tls == ApiTls::On { "https" } else { "http" };
    format!("{scheme}://{}", serve::at(host, port))
}

/// Starts one on free loopback ports, as the demo and tests do.
pub async fn start_local(data: &Path) -> Result<Hosted, Error> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    // The port has to be known before the certificate and the tokens that name it.
    let free = TcpListener::bind(any).and_then(|l| l.local_addr());
    let config = Config {
        data: data.to_owned(),
        workspace: "default".parse().expect("a valid name"),
        hostnames: vec!["127.0.0.1".into()],
        api: free.map_err(|source| Error::Listen { addr: any, source })?,
        api_url: None,
        broker_address: None,
        broker: BrokerChoice::Embedded { listen: any },
        control: None,
    };
    start(config, ApiTls::On).await
}

impl Hosted {
    /// Ends everything in good order: requests under way are answered first.
    pub async fn shutdown(self) {
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.http).await;
        self.running.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_colons_stands_in_brackets() {
        let table = [
            (ApiTls::On, "hub.example", "https://hub.example:8420"),
            (ApiTls::On, "192.0.2.1", "https://192.0.2.1:8420"),
            (ApiTls::Off, "2001:db8::1", "http://[2001:db8::1]:8420"),
        ];
        for (api_tls, host, want) in table {
            assert_eq!(url(api_tls, host, 8420), want);
        }
    }
}
