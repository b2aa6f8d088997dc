//! `muster-agent batch`

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use muster_proto::code::Code;

use super::EXIT_USAGE;
use crate::batch::{self, EXIT_ROW_ERRORS, EXIT_STOPPED, Ended, Lines, Summary};
use crate::engine::Loaded;
use crate::serve::bundle::Wanted;
use crate::serve::config::{Dispatcher, Model};
use crate::serve::fetch;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder with a bundle, as `muster model download` writes it; or NAME:VERSION with --dispatcher.
    #[arg(value_name = "FOLDER|NAME:VERSION")]
    model: String,
    /// The trust root, from `muster trust root`. Without it the folder's own is taken.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// The dispatcher that has the version, e.g. https://hub.example:8420. Its key is in MUSTER_TOKEN or --token-file.
    #[arg(long, value_name = "URL", env = "MUSTER_URL")]
    dispatcher: Option<String>,
    /// A file with a key of the dispatcher that may read.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The authority that signed the dispatcher's certificate, PEM; the system's otherwise.
    #[arg(long, value_name = "FILE", env = "MUSTER_CA")]
    ca: Option<PathBuf>,
    /// Where fetched versions are kept.
    #[arg(long, value_name = "FOLDER", default_value = "/tmp/muster-batch-models")]
    cache: PathBuf,
    #[command(flatten)]
    run: batch::Args,
}

pub const EXAMPLES: &str = "\
Examples:
  muster model download digits:2 --to digits-2
  muster-agent batch digits-2 --input rows.csv --keep id --output scores
  muster-agent batch digits-2 --input 'images/*.png' --output scores.csv
  muster-agent batch /bundle --input /data --output /results --shard /8     # in a pod of an Indexed Job

A run that was stopped goes on when the same command is given again.
Exit codes: 0 all rows have a result, 1 failed, 3 done and some rows failed, 64 wrong usage, 75 stopped on request.
agent/README.md tells how columns become inputs and what results look like.";

pub fn run(args: &Args) -> ExitCode {
    let told = |what: &str, code: Code, next: &str, exit: u8| {
        eprintln!("error: {what} [{code}]\nnext:  {next}");
        ExitCode::from(exit)
    };
    let options = match args.run.options(std::env::var("JOB_COMPLETION_INDEX").ok().as_deref()) {
        Ok(options) => options,
        Err(error) => return told(&error.to_string(), error.code(), error.next_step(), EXIT_USAGE),
    };
    let loaded = match load(args) {
        Ok(loaded) => loaded,
        Err((what, code)) => return told(&what, code, code.next_step(), 1),
    };
    let stop = batch::stop_on_signal();
    let seconds = if std::io::IsTerminal::is_terminal(&std::io::stderr()) { 2 } else { 30 };
    match batch::run(&loaded, &options, &Lines::new(Duration::from_secs(seconds)), &stop) {
        Ok(summary) => exit(&summary, args.run.exit_zero),
        Err(error) => {
            let usage = matches!(error, batch::Error::Usage { .. });
            told(&error.to_string(), error.code(), error.next_step(), if usage { EXIT_USAGE } else { 1 })
        }
    }
}

/// Prints what came out.
fn exit(summary: &Summary, exit_zero: bool) -> ExitCode {
    println!("{}", serde_json::to_string_pretty(summary).unwrap_or_default());
    match (summary.ended, summary.failed) {
        (Ended::Stopped, _) => {
            eprintln!("stopped after {} rows; the same command goes on", summary.rows);
            EXIT_STOPPED.into()
        }
        (Ended::Finished, failed) if failed > 0 && !exit_zero => EXIT_ROW_ERRORS.into(),
        _ => ExitCode::SUCCESS,
    }
}

fn load(args: &Args) -> Result<Loaded, (String, Code)> {
    let invalid = |what: String| (what, Code::BadRequest);
    let root = match &args.root {
        Some(path) => Some(std::fs::read(path).map_err(|error| invalid(format!("{}: {error}", path.display())))?),
        None => None,
    };
    let folder = Path::new(&args.model);
    let (folder, wanted) = match (&args.dispatcher, folder.is_dir()) {
        (_, true) => (folder.to_owned(), Wanted::default()),
        (None, false) => {
            let next = "name a folder of `muster model download`, or a dispatcher by --dispatcher";
            return Err(invalid(format!("{} is no folder with a bundle: {next}", args.model)));
        }
        (Some(url), false) => {
            let named = Model { version: Some(args.model.clone()), ..Model::default() }.wanted();
            let Some((model, version)) = named.map_err(|error| invalid(error.to_string()))? else {
                return Err(invalid("there is no version".into()));
            };
            let token = args.token_file.clone();
            let from = Dispatcher { url: url.clone(), ca: args.ca.clone(), token, cache: args.cache.clone() };
            let fetched = fetch::fetch(&from, root.as_deref(), &model, version);
            let folder = fetched.map_err(|error| (error.to_string(), error.code()))?;
            (folder, Wanted { model: Some((model, version)), digest: None })
        }
    };
    batch::load(&folder, root.as_deref(), &wanted).map_err(|error| (error.to_string(), error.code()))
}
