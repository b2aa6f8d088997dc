//! `muster batch`: the agent's batch scoring with a version of the dispatcher, here or as a Job.

mod job;
mod render;

use std::time::Duration;

use clap::Subcommand;
use indicatif::ProgressBar;
use muster_agent::batch::{self, EXIT_ROW_ERRORS, EXIT_STOPPED, Ended, Lines, Progress, Snapshot, Summary};
use muster_agent::serve::bundle::Wanted;
use muster_proto::code::Code;

use super::model::download;
use super::parse::ModelSpec;
use super::{EXIT_USAGE, Failure, Global, Session};

/// How often a line tells how far a run is, where no bar can be shown.
const LINE_EVERY: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Score rows of files on this machine.
    #[command(after_help = "\
Examples:
  muster batch run --model digits:2 --input rows.csv --keep id --output scores
  muster batch run --model digits --input 'images/*.png' --output scores.csv
  muster batch run --model digits:2 --input https://store.example/rows.parquet --output 'https://…/{name}?sv=…'
  muster batch run --model digits:2 --target kubernetes --image registry.example/digits:2 --shards 8 \\
    --volume rows:/data:ro --volume results:/results --input '/data/*.csv' --output /results/nightly

The version is downloaded and verified first. A run that was stopped goes on when the same command is given again.
Exit codes: 0 all rows have a result, 1 failed, 3 done and some rows failed, 64 wrong arguments, 75 stopped on request.
dispatcher/README.md tells how columns become inputs and what results look like.")]
    Run(Box<RunArgs>),
    /// Print an Indexed Job that scores rows on Kubernetes, for `kubectl apply`.
    #[command(after_help = render::EXAMPLES)]
    Render(Box<render::Args>),
}

#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The model; its newest version unless one is named.
    #[arg(long, value_name = "MODEL[:VERSION]")]
    model: ModelSpec,
    /// Where it runs: here, or as an Indexed Job, each pod of which scores a shard.
    #[arg(long, value_enum, default_value_t = Where::Local)]
    target: Where,
    #[command(flatten)]
    run: batch::Args,
    #[command(flatten)]
    cluster: render::ClusterArgs,
    #[command(flatten)]
    place: job::Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Where {
    Local,
    Kubernetes,
}

pub(super) fn run(command: Command, global: &Global) -> anyhow::Result<()> {
    match command {
        Command::Run(args) if args.target == Where::Kubernetes => job::run(&args, global.out()),
        Command::Run(args) if args.cluster.image.is_some() => {
            Err(Failure::usage("--image is for pods", "add --target kubernetes, or leave it out").into())
        }
        Command::Run(args) => score(&args, &global.session()?),
        Command::Render(args) => render::run(&args),
    }
}

fn score(args: &RunArgs, session: &Session) -> anyhow::Result<()> {
    let out = session.out;
    let options = args.run.options(std::env::var("JOB_COMPLETION_INDEX").ok().as_deref()).map_err(failure)?;
    let folder = tempfile::Builder::new().prefix("muster-batch-model-").tempdir()?;
    let downloaded = download::fetch(&args.model, Some(folder.path().join("bundle")), session)?;
    let version = &downloaded.version;
    let wanted = Wanted { model: Some((version.name.clone(), version.version)), digest: Some(downloaded.digest) };
    let loaded = batch::load(&downloaded.folder, None, &wanted)
        .map_err(|error| Failure::new(error.code(), error.to_string()))?;
    let stop = batch::stop_on_signal();
    let ended = if out.shows_progress() {
        let bar = Bar(out.bar(0, "{msg} {bar:30} {percent:>3}% {elapsed}, {eta} left"));
        let ended = batch::run(&loaded, &options, &bar, &stop);
        bar.0.finish_and_clear();
        ended
    } else {
        let every = if out.is_quiet() { Duration::MAX } else { LINE_EVERY };
        batch::run(&loaded, &options, &Lines::new(every), &stop)
    };
    let summary = ended.map_err(failure)?;
    out.value(&summary, || text(&summary))?;
    match summary.ended {
        Ended::Stopped => {
            let what = format!("stopped after {} rows", summary.rows);
            let next = "give the same command again: it goes on there";
            Err(Failure::new(Code::Superseded, what).with_next(next).with_exit(EXIT_STOPPED).into())
        }
        Ended::Finished if summary.failed > 0 && !args.run.exit_zero => {
            let what = format!("{} of {} rows have no result", summary.failed, summary.rows);
            let next = format!("read {}, where each is with its reason", summary.errors);
            Err(Failure::new(Code::InputInvalid, what).with_next(next).with_exit(EXIT_ROW_ERRORS).into())
        }
        Ended::Finished => Ok(()),
    }
}

fn text(summary: &Summary) -> String {
    let Summary { model, version, rows, ok, failed, seconds, rows_per_second, results, .. } = summary;
    format!(
        "{model}:{version} scored {rows} rows in {seconds:.1} s ({rows_per_second:.0}/s): {ok} with a result, \
         {failed} without.\nThe results are in {results}."
    )
}

fn failure(error: batch::Error) -> Failure {
    let failure = Failure::new(error.code(), error.to_string()).with_next(error.next_step());
    if matches!(error, batch::Error::Usage { .. }) { failure.with_exit(EXIT_USAGE) } else { failure }
}

/// A bar on stderr.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn advanced(&self, now: Snapshot) {
        self.0.set_length(now.total);
        self.0.set_position(now.done.min(now.total));
        let failed = if now.failed > 0 { format!(", {} failed", now.failed) } else { String::new() };
        self.0.set_message(format!("{} rows{failed}", now.rows));
    }

    fn note(&self, text: &str) {
        self.0.suspend(|| eprintln!("{text}"));
    }
}
