//! The command line. It parses and prints; policy is elsewhere.

mod batch;
mod enroll;
mod local;
mod score;
mod serve;
mod status;
mod support;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::{check, run};

/// Wrong usage (sysexits.h EX_USAGE); the systemd unit does not restart on it.
pub const EXIT_USAGE: u8 = 64;
/// Wrong configuration (sysexits.h EX_CONFIG); the systemd unit does not restart on it.
pub const EXIT_CONFIG: u8 = 78;

/// Runs signed machine-learning models on this device and reports on them.
#[derive(Debug, Parser)]
#[command(name = "muster-agent", version, about, after_help = after_help())]
pub struct Cli {
    /// The configuration file; files in its `.d` folder are read as well.
    #[arg(long, global = true, env = "MUSTER_AGENT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the agent keeps its things; goes before the configuration's `data`.
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this machine a device: takes the one-time token of `muster device enroll-token`.
    Enroll(enroll::Args),
    /// Run the agent until it is told to stop.
    Run(RunArgs),
    /// Serve models as REST endpoints, without a fleet: bundles by folder, or a document with services.
    #[command(after_help = serve::EXAMPLES)]
    Serve(serve::Args),
    /// Score many rows of CSV, JSON lines, Parquet, .npy or images with a bundle, without a fleet.
    #[command(after_help = batch::EXAMPLES)]
    Batch(Box<batch::Args>),
    /// What the running agent does: slots, phases, connection, outbox.
    Status(status::Args),
    /// Look for what could keep this device from working, one line per check.
    Check(CheckArgs),
    /// One inference on the running agent: a JSON, .npy, PNG or JPEG file.
    Score(score::Args),
    /// Write what a supporter needs into one file, without secrets.
    SupportBundle(support::Args),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The local API's address, e.g. 127.0.0.1:8421; `none` for none.
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Log as JSON lines.
    #[arg(long)]
    log_json: bool,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn after_help() -> String {
    let mut text = String::from("Configuration keys (TOML; as environment MUSTER_AGENT_SECTION_NAME):\n");
    for key in config::KEYS {
        text.push_str(&format!("  {:<30} {} [{}]\n", key.path(), key.help, key.default));
    }
    text.push_str("\nExit codes: 0 fine, 1 failed, 64 wrong usage, 78 wrong configuration.");
    text
}

impl Cli {
    fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| config::DEFAULT_PATH.into())
    }

    fn load(&self) -> Result<Config, config::Error> {
        let mut config = Config::load(&self.path(), self.config.is_some(), environment())?;
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        Ok(config)
    }
}

/// The variables that configure, not those that the command line itself reads.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| name != "MUSTER_AGENT_CONFIG" && name != "MUSTER_AGENT_LOG")
}

/// The media type of an input by its first bytes: `.json`, `.npy`, PNG or JPEG.
pub fn kind_of_input(bytes: &[u8]) -> Option<&'static str> {
    score::kind(bytes)
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    main_with(std::env::args_os())
}

/// Parses `arguments`, whose first is the program's name, and runs the command.
pub fn main_with(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    if let Command::Check(args) = &cli.command {
        return run_checks(&cli, args);
    }
    if let Command::Serve(args) = &cli.command {
        return serve::run(args);
    }
    if let Command::Batch(args) = &cli.command {
        return batch::run(args);
    }
    let config = match cli.load() {
        Ok(config) => config,
        Err(error) => {
            let code = muster_proto::code::Code::ConfigInvalid;
            eprintln!("error: {error} [{code}]");
            eprintln!("next:  {}", code.next_step());
            return EXIT_CONFIG.into();
        }
    };
    let result = match &cli.command {
        Command::Enroll(args) => enroll::run(args, &config),
        Command::Run(args) => return run_agent(args, config),
        Command::Status(args) => status::run(args, &config),
        Command::Check(_) | Command::Serve(_) | Command::Batch(_) => Ok(()),
        Command::Score(args) => score::run(args, &config),
        Command::SupportBundle(args) => support::run(args, &cli.path(), &config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if let Some(refused) = error.downcast_ref::<local::Refused>() {
                eprintln!("next:  {}", refused.next);
            }
            ExitCode::FAILURE
        }
    }
}

fn run_checks(cli: &Cli, args: &CheckArgs) -> ExitCode {
    let config = cli.load();
    let findings = check::all(&cli.path(), config.as_ref());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings).unwrap_or_default());
    } else {
        for finding in &findings {
            let verdict = match finding.verdict {
                check::Verdict::Ok => "ok  ",
                check::Verdict::Warn => "warn",
                check::Verdict::Fail => "FAIL",
            };
            println!("{verdict}  {:<9} {}", finding.check, finding.message);
            if !finding.next.is_empty() {
                println!("      {:<9} → {}", "", finding.next);
            }
        }
    }
    let failed = findings.iter().any(|f| f.verdict == check::Verdict::Fail);
    if config.is_err() {
        EXIT_CONFIG.into()
    } else if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn run_agent(args: &RunArgs, mut config: Config) -> ExitCode {
    start_log(args.log_json);
    match args.http.as_deref() {
        Some("none") => config.http = None,
        Some(address) => match address.parse() {
            Ok(address) => config.http = Some(address),
            Err(_) => {
                eprintln!("error: --http {address:?} is not an address such as 127.0.0.1:8421");
                return EXIT_USAGE.into();
            }
        },
        None => {}
    }
    // Inference has its own threads; two are enough for the rest and keep memory small.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match run::start(config).await {
            Ok(agent) => {
                if let Some(address) = agent.http {
                    tracing::info!(%address, "the local API listens");
                }
                stop_signal().await;
                tracing::info!("stopping");
                agent.stop().await;
                ExitCode::SUCCESS
            }
            Err(error) => {
                let code = error.code();
                eprintln!("error: {:#} [{code}]", anyhow::Error::from(error));
                eprintln!("next:  {}", code.next_step());
                // Restarting does not mend an identity or configuration.
                match code {
                    muster_proto::code::Code::ConfigInvalid | muster_proto::code::Code::Unauthorized => {
                        EXIT_CONFIG.into()
                    }
                    _ => ExitCode::FAILURE,
                }
            }
        }
    })
}

fn start_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("MUSTER_AGENT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,tract=warn,sled=warn,rumqttc=warn"));
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.init();
    }
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = [signal(SignalKind::terminate()), signal(SignalKind::interrupt())];
    let [Ok(terminate), Ok(interrupt)] = &mut signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent_and_documented() {
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} of {} has no help", argument.get_id(), command.get_name());
            }
        }
    }
}
