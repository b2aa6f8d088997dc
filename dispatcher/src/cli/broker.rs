//! `muster broker`: what a broker in the embedded one's place needs. Works on the data folder, without a dispatcher.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::Failure;
use super::serve::KeyArgs;
use crate::acl::mosquitto;
use crate::ca::{self, Ca};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a folder with everything that a Mosquitto needs: certificate, key, access rules, configuration.
    Mosquitto(MosquittoArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example, on the machine with the dispatcher's data folder:
  muster broker mosquitto --hostname broker.example --mqtt-listen 0.0.0.0:8883 --out mosquitto
  mosquitto -c mosquitto/mosquitto.conf
  muster serve --broker mqtts://broker.example:8883

Mosquitto listens where --mqtt-listen says (or the key `mqtt.listen`), and its certificate is for the names of
--hostname (or of the key `hostnames`): run the command again for others. Where the files are moved, the paths in
mosquitto.conf have to follow.")]
pub(super) struct MosquittoArgs {
    /// The folder to write; files of an earlier run are replaced.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    keys: KeyArgs,
}

pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    let Command::Mosquitto(args) = command;
    let config = args.keys.load()?.config;
    let ca = Ca::load_or_create(&config.data.join("ca")).map_err(failure)?;
    fs::create_dir_all(&args.out).with_context(|| format!("{} cannot be made", args.out.display()))?;
    let folder = args.out.canonicalize().with_context(|| format!("{} cannot be used", args.out.display()))?;
    let files =
        mosquitto::files(&ca, &config.workspace, &config.hostnames, config.mqtt_listen, &folder).map_err(failure)?;
    for file in files {
        write(&folder.join(file.name), &file).with_context(|| format!("{} cannot be written", file.name))?;
    }
    println!("Wrote {}. Start it:   mosquitto -c {0}/mosquitto.conf", folder.display());
    let name = config.hostnames.first().map_or("localhost", String::as_str);
    println!("Then the dispatcher: muster serve --broker mqtts://{name}:{}", config.mqtt_listen.port());
    Ok(())
}

fn failure(error: ca::Error) -> Failure {
    Failure::new(error.code(), format!("{:#}", anyhow::Error::from(error)))
}

fn write(path: &Path, file: &mosquitto::File) -> std::io::Result<()> {
    let mode = if file.is_secret { 0o600 } else { 0o644 };
    // A file of before may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?.write_all(file.text.as_bytes())
}
