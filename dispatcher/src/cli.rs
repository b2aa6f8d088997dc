//! The command line: `muster serve`, and for everything else a client of the HTTP API. One file per operator noun.
//!
//! It owns arguments, tables and exit codes. It must not know storage: what it shows came over HTTP, except for
//! `serve`, `demo`, `config` and `broker`, which are or prepare the dispatcher itself.

mod client;
mod context;
mod failure;
mod output;
mod parse;

mod audit;
mod batch;
mod broker;
mod config;
mod demo;
mod device;
mod group;
mod image;
mod info;
mod key;
mod model;
mod rollout;
mod serve;
mod service;
mod trust;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use client::Client;
pub use context::Context;
pub use failure::Failure;
use output::{Format, Output};

/// Wrong arguments (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// The dispatcher does not answer (`EX_UNAVAILABLE`).
pub const EXIT_UNREACHABLE: u8 = 69;
/// The configuration is wrong or missing (`EX_CONFIG`); a service manager must not restart on it.
pub const EXIT_CONFIG: u8 = 78;

/// Puts machine-learning models on fleets of devices, and keeps them honest there.
#[derive(Debug, Parser)]
#[command(
    name = "muster",
    version,
    max_term_width = 100,
    after_help = "\
Start with `muster demo`, or with `muster serve` in one shell and in another:
  muster context use muster-data/admin.toml
  muster model register -n digits -p digits.onnx
  muster device enroll-token --group line-a
  muster rollout start --model digits --group line-a --wait

Exit codes: 0 done, 1 failed, 64 wrong arguments, 69 the dispatcher does not answer, 78 wrong configuration."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Where the dispatcher is, and how to print.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The dispatcher's address, e.g. https://127.0.0.1:8420.
    #[arg(long, global = true, env = "MUSTER_URL", value_name = "URL", hide_env_values = true)]
    url: Option<String>,
    /// The API token. Prefer the variable: other users of the machine can see flags.
    #[arg(long, global = true, env = "MUSTER_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// PEM file of the authority that signed the dispatcher's certificate; the system's authorities otherwise.
    #[arg(long, global = true, env = "MUSTER_CA", value_name = "FILE", hide_env_values = true)]
    ca: Option<PathBuf>,
    /// Context file with url, token and ca_pem; ~/.config/muster/context.toml otherwise.
    #[arg(long, global = true, env = "MUSTER_CONTEXT", value_name = "FILE", hide_env_values = true)]
    context: Option<PathBuf>,
    /// How to print: a table for people, or the API's own JSON for machines.
    // A text, because `batch` has an --output of its own, which is a place: clap hands it to this field as well.
    #[arg(
        long, global = true, env = "MUSTER_OUTPUT", value_parser = ["table", "json"], default_value = "table",
        hide_env_values = true
    )]
    output: String,
    /// Print results only: no progress, no hints.
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the dispatcher: API, broker, database and keys in one process.
    Serve(serve::ServeArgs),
    /// Show real devices taking a model over from another, all in this process.
    Demo(demo::DemoArgs),
    /// Print the effective configuration of `muster serve`, with the documentation of each key.
    Config(serve::KeyArgs),
    /// Prepare an external broker instead of the embedded one.
    #[command(subcommand)]
    Broker(broker::Command),
    /// Register models, look at them, change their tags, delete them.
    #[command(subcommand)]
    Model(model::Command),
    /// Let devices in, look at them, label, group and revoke them.
    #[command(subcommand)]
    Device(device::Command),
    /// Make groups of devices, and look at them.
    #[command(subcommand)]
    Group(group::Command),
    /// Bring a version to devices, and follow it there.
    #[command(subcommand)]
    Rollout(rollout::Command),
    /// Serve a version as a REST endpoint, and update it without changing its address or keys.
    #[command(subcommand)]
    Service(service::Command),
    /// Score many rows of files with a version: here, or as a Job on Kubernetes.
    #[command(subcommand)]
    Batch(batch::Command),
    /// Write a version as an OCI image, and send it to a registry.
    #[command(subcommand)]
    Image(image::Command),
    /// Make API keys for people and programs, and take them away.
    #[command(subcommand)]
    Key(key::Command),
    /// Read who changed what.
    #[command(subcommand)]
    Audit(audit::Command),
    /// Look at the signed model repository.
    #[command(subcommand)]
    Trust(trust::Command),
    /// Choose the dispatcher that commands talk to.
    #[command(subcommand)]
    Context(context::Command),
    /// Show what the dispatcher is and how it does.
    Info(info::InfoArgs),
}

/// What a command of the API's client works with.
struct Session {
    client: Client,
    out: Output,
}

impl Global {
    fn session(&self) -> anyhow::Result<Session> {
        let context = Context::resolve(self)?;
        Ok(Session { client: Client::connect(&context)?, out: self.out() })
    }

    fn out(&self) -> Output {
        let format = if self.output == "json" { Format::Json } else { Format::Table };
        Output::new(format, self.quiet)
    }
}

/// Runs the command line `arguments`, whose first is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // One program is enough where services run beside the dispatcher: the agent is in it.
    if arguments.get(1).is_some_and(|argument| argument == "agent") {
        return muster_agent::cli::main_with(arguments.into_iter().skip(1));
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not errors.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = error.print();
            return code.into();
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error).into(),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let global = &cli.global;
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(args),
        Command::Config(args) => config::run(&args),
        Command::Broker(command) => broker::run(&command),
        Command::Context(command) => context::run(&command, global),
        Command::Model(command) => model::run(command, &global.session()?),
        Command::Device(command) => device::run(command, &global.session()?),
        Command::Group(command) => group::run(command, &global.session()?),
        Command::Rollout(command) => rollout::run(command, global),
        Command::Service(command) => service::run(command, &global.session()?),
        Command::Batch(command) => batch::run(command, global),
        Command::Image(command) => image::run(command, global),
        Command::Key(command) => key::run(command, &global.session()?),
        Command::Audit(command) => audit::run(&command, &global.session()?),
        Command::Trust(command) => trust::run(&command, &global.session()?),
        Command::Info(_) => info::run(&global.session()?),
    }
}
