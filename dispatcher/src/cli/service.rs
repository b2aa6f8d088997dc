//! `muster service`.

mod client;
mod create;
mod text;
mod update;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use muster_proto::code::Code;

use super::client::{Done, segment};
use super::{Failure, Session};
use crate::app::{MadeServiceKey, RenderedFile, ServiceForm, ServiceKeyView, ServiceState, ServiceView};
use crate::http::List;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a registered version a REST endpoint with keys.
    #[command(after_help = create::EXAMPLES)]
    Create(Box<create::Args>),
    /// List services and how they are.
    List,
    /// Show a service in full.
    Show {
        /// The service.
        name: String,
    },
    /// Bring another version, or other settings, to a service. Its address and keys stay, and no request fails.
    #[command(after_help = update::EXAMPLES)]
    Update(update::Args),
    /// Change how many containers answer.
    #[command(after_help = "Examples:\n  muster service scale digits 3\n  muster service scale digits 2-8")]
    Scale {
        /// The service.
        name: String,
        /// So many, or between so many and so many.
        #[arg(value_name = "COUNT|MIN-MAX")]
        replicas: create::Count,
    },
    /// Let the canary answer all requests.
    Promote {
        /// The service.
        name: String,
    },
    /// Give the canary up, or go back to the version before.
    Rollback {
        /// The service.
        name: String,
    },
    /// End a service for good.
    Delete {
        /// The service.
        name: String,
        /// Do not wait for a cluster that is away for good, where something of it may stay.
        #[arg(long)]
        forget: bool,
    },
    /// One inference, without a key of the service.
    #[command(after_help = "Example:\n  muster service score digits --data image.json")]
    Score {
        /// The service.
        name: String,
        /// The input: .json (a dictionary of inputs), .npy, .png or .jpg; `-` for JSON from standard input.
        #[arg(long, short, value_name = "FILE")]
        data: PathBuf,
    },
    /// Print a program that asks the service once, ready to be run.
    #[command(after_help = "\
Examples:
  muster service client digits --lang python > score.py
  KEY=… python3 score.py")]
    Client {
        /// The service.
        name: String,
        /// Its language.
        #[arg(long = "lang", value_enum)]
        language: client::Language,
    },
    /// Look at a service's keys, or make one anew.
    #[command(subcommand)]
    Keys(Keys),
    /// Print a service's log.
    Logs {
        /// The service.
        name: String,
        /// Go on with what comes.
        #[arg(long, short)]
        follow: bool,
        /// The last so many lines.
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        lines: usize,
    },
    /// Write a service for another runtime: to standard output, or into a folder.
    #[command(after_help = "\
Examples:
  muster service render digits --image registry.example/digits:1 | kubectl apply -f -
  muster service render digits --as compose --image registry.example/digits:1 --to deploy")]
    Render {
        /// The service.
        name: String,
        /// The runtime.
        #[arg(long = "as", value_enum, default_value_t = ServiceForm::Kubernetes)]
        form: ServiceForm,
        /// The image that holds the version.
        #[arg(long)]
        image: Option<String>,
        /// The folder to write into, which is made; standard output without it.
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
    /// Wait until a service is Healthy; fails where it is Failed, or after the limit.
    Wait {
        /// The service.
        name: String,
        /// How long, in seconds.
        #[arg(long, default_value_t = 300, value_name = "SECONDS")]
        timeout: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// How the keys begin, and when they were made. Keys are stored hashed and cannot be shown again.
    Show {
        /// The service.
        name: String,
    },
    /// Make one key anew and print it; the other goes on meanwhile.
    Regenerate {
        /// The service.
        name: String,
        /// Which one.
        which: Which,
    },
}

/// Which key.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Which {
    /// The primary.
    Primary,
    /// The secondary.
    Secondary,
}

pub(super) fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    match command {
        Command::Create(args) => create::run(*args, session),
        Command::List => out.answer(&client.get("/v1/services")?, |all: &List<ServiceView>| text::list(&all.items)),
        Command::Show { name } => out.answer(&client.get(&path(&name))?, text::show),
        Command::Update(args) => update::run(args, session),
        Command::Scale { name, replicas } => update::scale(&name, replicas, session),
        Command::Promote { name } => turn(&name, "promote", session),
        Command::Rollback { name } => turn(&name, "rollback", session),
        Command::Delete { name, forget } => {
            let at = if forget { format!("{}?forget=true", path(&name)) } else { path(&name) };
            match client.delete(&at)? {
                Done::Now => out.note(&format!("Service {name} is deleted.")),
                Done::Later => out.warn(&format!(
                    "Service {name} is deleted once its cluster answers; `muster service show {name}` says what is in the way, \
                     and `muster service delete {name} --forget` does not wait."
                )),
            }
            Ok(())
        }
        Command::Score { name, data } => score(&name, &data, session),
        Command::Client { name, language } => client::run(&name, language, session),
        Command::Keys(Keys::Show { name }) => {
            let answer = client.get(&format!("{}/keys", path(&name)))?;
            out.answer(&answer, |keys: &List<ServiceKeyView>| text::keys(&keys.items))
        }
        Command::Keys(Keys::Regenerate { name, which }) => {
            let which = match which {
                Which::Primary => "primary",
                Which::Secondary => "secondary",
            };
            let answer = client.post(&format!("{}/keys/{which}", path(&name)), &serde_json::json!({}))?;
            out.note(&format!("The {which} key of {name} is another one from now on. It is not shown again:"));
            out.answer(&answer, |made: &MadeServiceKey| made.key.clone())
        }
        Command::Logs { name, follow, lines } => logs(&name, follow, lines, session),
        Command::Render { name, form, image, to } => render(&name, form, image, to.as_deref(), session),
        Command::Wait { name, timeout } => {
            let view = wait(&name, Duration::from_secs(timeout), session)?;
            out.value(&view, || text::show(&view))?;
            Ok(())
        }
    }
}

fn path(name: &str) -> String {
    format!("/v1/services/{}", segment(name))
}

fn turn(name: &str, verb: &str, session: &Session) -> anyhow::Result<()> {
    session.client.post(&format!("{}/{verb}", path(name)), &serde_json::json!({}))?;
    let view = wait(name, Duration::from_secs(300), session)?;
    session.out.value(&view, || text::show(&view))?;
    Ok(())
}

/// Waits until what was asked for last is Healthy; says how it is meanwhile.
fn wait(name: &str, limit: Duration, session: &Session) -> anyhow::Result<ServiceView> {
    let until = Instant::now() + limit;
    let mut last = String::new();
    let mut view: ServiceView = session.client.get(&path(name))?.parse()?;
    loop {
        let settled = view.observed_generation == view.generation;
        let line = match view.reason.is_empty() {
            true => view.state.to_string(),
            false => format!("{}: {}", view.state, view.reason),
        };
        match view.state {
            ServiceState::Healthy if settled => return Ok(view),
            ServiceState::Failed if settled => {
                let next = format!("`muster service logs {name}` shows more; `muster service update {name}` mends it");
                return Err(Failure::new(Code::Conflict, format!("{name} is {line}")).with_next(next).into());
            }
            _ if Instant::now() >= until => {
                let what = format!("{name} is not Healthy after {} s, but {line}", limit.as_secs());
                let next = format!("`muster service show {name}` shows more; wait longer by --timeout");
                return Err(Failure::new(Code::TimedOut, what).with_next(&next).into());
            }
            _ => {}
        }
        if line != last && session.out.shows_progress() {
            session.out.note(&line);
            last = line;
        }
        view = session.client.get(&format!("{}?wait_seconds=2", path(name)))?.parse()?;
    }
}

fn score(name: &str, data: &Path, session: &Session) -> anyhow::Result<()> {
    let at = format!("{}/score", path(name));
    let bytes = match data == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin())?.into_bytes(),
        false => std::fs::read(data).with_context(|| format!("{} cannot be read", data.display()))?,
    };
    let Some(kind) = muster_agent::cli::kind_of_input(&bytes) else {
        let what = format!("{} is neither JSON nor .npy, PNG or JPEG", data.display());
        return Err(
            Failure::usage(what, "send a dictionary of the model's inputs as JSON, or one of the others").into()
        );
    };
    let answer = session.client.post_bytes(&at, kind, bytes)?;
    session.out.answer(&answer, |value: &serde_json::Value| serde_json::to_string_pretty(value).unwrap_or_default())
}

fn render(
    name: &str,
    form: ServiceForm,
    image: Option<String>,
    to: Option<&Path>,
    session: &Session,
) -> anyhow::Result<()> {
    let form = serde_json::to_value(form)?;
    let query = super::client::query(image.map(|image| ("image", image)));
    let at = format!("{}/render/{}{query}", path(name), form.as_str().unwrap_or_default());
    let answer = session.client.get(&at)?;
    let Some(folder) = to else {
        return session.out.answer(&answer, |files: &List<RenderedFile>| text::files(&files.items));
    };
    let files: List<RenderedFile> = answer.parse()?;
    for file in &files.items {
        let path = folder.join(&file.path);
        let write = || -> std::io::Result<()> {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let mode = if file.secret { 0o600 } else { 0o644 };
            let mut opened =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&path)?;
            opened.write_all(file.text.as_bytes())
        };
        write().with_context(|| format!("{} cannot be written", path.display()))?;
        session.out.note(&path.display().to_string());
    }
    Ok(())
}

fn logs(name: &str, follow: bool, lines: usize, session: &Session) -> anyhow::Result<()> {
    let fetch = |lines: usize| session.client.text(&format!("{}/log?lines={lines}", path(name)));
    let mut last = fetch(lines)?;
    super::output::print(last.trim_end())?;
    if !follow {
        return Ok(());
    }
    loop {
        std::thread::sleep(Duration::from_millis(500));
        let now = fetch(1000)?;
        // What was printed ends the last answer: what stands behind it in the new one is new.
        let tail: Vec<&str> = last.lines().rev().take(3).collect();
        let all: Vec<&str> = now.lines().collect();
        let seen = (0..=all.len()).rev().find(|end| {
            let before: Vec<&str> = all[..*end].iter().rev().take(tail.len()).copied().collect();
            before == tail
        });
        let new = &all[seen.unwrap_or(0)..];
        if !new.is_empty() {
            super::output::print(&new.join("\n"))?;
            last = now.clone();
        }
    }
}
