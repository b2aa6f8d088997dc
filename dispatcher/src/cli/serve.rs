//! `muster serve`.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::config::{self, Loaded};

#[derive(Debug, Default, Args)]
#[command(after_help = "\
Examples:
  muster serve
  muster serve --data /var/lib/muster --config /etc/muster/muster.toml
  muster serve --listen 0.0.0.0:8420 --mqtt-listen 0.0.0.0:8883 --hostname hub.example

Flags outrank variables (MUSTER_DATA, MUSTER_HTTP_LISTEN, …), variables the file, the file the
built-in values. `muster config` takes the same flags and prints what they amount to.")]
pub(super) struct ServeArgs {
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

impl ServeArgs {
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

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<()> {
    let _ = args.load()?;
    anyhow::bail!("not assembled yet")
}
