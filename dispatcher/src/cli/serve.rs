//! `muster serve`.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use clap::Args;
use muster_proto::code::Code;

use super::{Context, Failure};
use crate::app::{KeyRequest, Principal, Role};
use crate::config::{self, Config, Loaded, LogFormat};
use crate::control;
use crate::host::{self, ApiTls, Hosted};
use crate::link;
use crate::serve::{self, BrokerChoice};

#[derive(Debug, Default, Args)]
#[command(after_help = "\
Examples:
  muster serve
  muster serve --data /var/lib/muster --config /etc/muster/muster.toml
  muster serve --listen 0.0.0.0:8420 --mqtt-listen 0.0.0.0:8883 --hostname hub.example

Flags outrank variables (MUSTER_DATA, MUSTER_HTTP_LISTEN, …), variables the file, the file the
built-in values. `muster config` takes the same flags and prints what they amount to.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    keys: KeyArgs,
    /// Make another administrator's token and write it to admin.toml in the data folder, for when that file is lost.
    #[arg(long)]
    new_admin_token: bool,
}

/// Flags that set keys of the configuration.
#[derive(Debug, Default, Args)]
pub(super) struct KeyArgs {
    /// The folder for keys, database and model files; ./muster-data unless given.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// A TOML file with the configuration.
    #[arg(long, env = "MUSTER_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Where the HTTP API listens; 127.0.0.1:8420 unless given.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where the embedded broker listens for devices; 127.0.0.1:8883 unless given.
    #[arg(long, value_name = "ADDRESS:PORT")]
    mqtt_listen: Option<String>,
    /// A name or address under which devices reach this machine; the first one goes into enrolment tokens. Repeats.
    #[arg(long, value_name = "NAME")]
    hostname: Vec<String>,
    /// An external MQTT broker instead of the embedded one, e.g. mqtts://broker.example:8883.
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
}

impl KeyArgs {
    /// The configuration that file, environment and flags amount to.
    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        Ok(config::load(self.config.as_deref(), std::env::vars(), &self.flags())?)
    }

    fn flags(&self) -> Vec<(&'static str, &'static str, String)> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let hostnames = (!self.hostname.is_empty()).then(|| self.hostname.join(","));
        let flags = [
            ("data", "--data", self.data.as_ref().map(text)),
            ("http.listen", "--listen", self.listen.clone()),
            ("mqtt.listen", "--mqtt-listen", self.mqtt_listen.clone()),
            ("hostnames", "--hostname", hostnames),
            ("mqtt.broker", "--broker", self.broker.clone()),
        ];
        flags.into_iter().filter_map(|(key, flag, value)| Some((key, flag, value?))).collect()
    }
}

/// Unlike `println!` it does not end the dispatcher where nobody reads its output any more.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let Loaded { config, warnings, .. } = args.keys.load()?;
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    start_log(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config, args.new_admin_token))
}

async fn serve(config: Config, new_admin_token: bool) -> anyhow::Result<()> {
    let api_tls = if config.http_tls { ApiTls::On } else { ApiTls::Off };
    let data = config.data.clone();
    let hosted = host::start(settings(config)?, api_tls).await.map_err(|error| {
        let code = error.code();
        let what = format!("{:#}", anyhow::Error::from(error));
        Failure::new(code, what).with_next(next_step(code))
    })?;
    if hosted.is_first_start {
        say!("Made keys, certificate authority, database and an administrator's token in {}.", data.display());
    } else if new_admin_token {
        write_admin_token(&hosted, api_tls).await?;
        say!("Made another administrator's token.");
    }
    // At each start: a first one that failed late, at the API's port, has made the file and not told it.
    if hosted.context.exists() {
        say!("Operators:  export MUSTER_CONTEXT={}", hosted.context.display());
    }
    say!("Authority:  SHA-256 {}", hosted.app.info().await?.ca_fingerprint);
    say!("API:        {}   (open it in a browser for its documentation)", hosted.api);
    match hosted.broker {
        Some(address) => say!("Broker:     {address}, MQTT over TLS, for enrolled devices only"),
        None => say!("Broker:     external"),
    }
    say!("Next:       muster model register --help");
    stop_signal().await;
    say!("Stopping.");
    hosted.shutdown().await;
    Ok(())
}

/// What codes that are also reported by devices mean for whoever starts a dispatcher.
fn next_step(code: Code) -> &'static str {
    match code {
        Code::DiskFull => "free some space where the data folder lies; devices go on answering meanwhile",
        Code::StoreFailed | Code::ConfigInvalid => "mend what the message names; devices go on answering meanwhile",
        other => other.next_step(),
    }
}

/// Whoever can write the data folder owns the dispatcher anyway, so that this asks for nothing else.
async fn write_admin_token(hosted: &Hosted, api_tls: ApiTls) -> anyhow::Result<()> {
    let request = KeyRequest { name: "admin".into(), role: Role::Admin, ttl_seconds: None };
    let created = hosted.app.create_key(request, &Principal::system()).await?;
    let ca_pem = (api_tls == ApiTls::On).then(|| hosted.app.ca_pem());
    Context { url: hosted.api.clone(), token: Some(created.token), ca_pem }.store(&hosted.context)
}

/// What `serve` starts with.
fn settings(config: Config) -> anyhow::Result<serve::Config> {
    let wrong = |key: &str, reason: String| Failure::config(format!("{key}: {reason}"), "mend the named key");
    let broker = match &config.mqtt_broker {
        None => BrokerChoice::Embedded { listen: config.mqtt_listen },
        Some(url) => BrokerChoice::External {
            endpoint: url.parse().map_err(|e: link::EndpointError| wrong("mqtt.broker", e.to_string()))?,
            ca_file: config.mqtt_ca_file,
            identity_files: match (config.mqtt_certificate_file, config.mqtt_key_file) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                (Some(_), None) => return Err(wrong("mqtt.key_file", "goes with mqtt.certificate_file".into()).into()),
                (None, Some(_)) => return Err(wrong("mqtt.certificate_file", "goes with mqtt.key_file".into()).into()),
            },
        },
    };
    let broker_address = match &config.mqtt_public_address {
        None => None,
        Some(text) => {
            let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
            Some(parts.ok_or_else(|| wrong("mqtt.public_address", format!("{text:?} is not host:port")))?)
        }
    };
    Ok(serve::Config {
        data: config.data,
        workspace: config.workspace,
        hostnames: config.hostnames,
        api: config.http_listen,
        api_url: config.http_public_url,
        broker_address,
        broker,
        control: (!config.kubernetes_namespaces.is_empty()).then_some(control::Config {
            namespaces: config.kubernetes_namespaces,
            kubeconfig: config.kubernetes_kubeconfig,
            context: config.kubernetes_context,
        }),
    })
}

fn start_log(config: &Config) -> Result<(), Failure> {
    // The broker logs every connection at info. What the key says of a module outranks this.
    let filter = format!("mqtt5=error,rumqttc=warn,sqlx=warn,tract=warn,{}", config.log_filter);
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|e| {
        Failure::config(format!("log.filter: {e}"), "write a level such as info, or module=level pairs")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
