//! One run from its first row to its last.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use muster_proto::id::{Digest, ModelName, Version};
use muster_proto::manifest::{Dim, TensorSpec};
use serde::Serialize;

use super::answer::Layout;
use super::inputs::{self, Place, Unit};
use super::journal::{Asked, Stage};
use super::options::{Destination, Missing, Options, Transforms};
use super::progress::{Progress, Snapshot};
use super::read::{self, Context};
use super::score::{Scored, Scorer};
use super::source::{Source, has_images};
use super::transfer::{Fetcher, Web};
use super::work::{Paths, Work};
use super::{Error, crew};
use crate::engine::{Loaded, VERSION};

/// The usual size of a batch, in rows, and the most bytes that one may take as inputs.
const USUAL_BATCH: u64 = 64;
const BATCH_BYTES: u64 = 16 << 20;
/// The largest batch that can be asked for, in rows.
const MAX_BATCH: usize = 1 << 16;
/// What a dimension of any size counts for where a batch's size is chosen.
const ANY: u64 = 224;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All rows are done.
    Finished,
    /// It was asked to stop; the same command goes on.
    Stopped,
}

/// What came out of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// How it ended.
    pub ended: Ended,
    /// The model.
    pub model: ModelName,
    /// Its version.
    pub version: Version,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Rows.
    pub rows: u64,
    /// Rows with an answer.
    pub ok: u64,
    /// Rows without one; they are in the error file.
    pub failed: u64,
    /// Numbers of the results for which JSON has no word, and which stand there as null.
    pub nonfinite: u64,
    /// How long it took, in seconds, with the runs that it went on from.
    pub seconds: f64,
    /// Rows in a second of these.
    pub rows_per_second: f64,
    /// How many files were named.
    pub files: usize,
    /// The part of all rows, as I/N.
    pub shard: String,
    /// How often it was stopped and gone on with.
    pub resumed: u32,
    /// Where the results are.
    pub results: String,
    /// Where the errors are.
    pub errors: String,
}

/// Scores what `options` name with `loaded`. It ends early, and can be gone on with, once `stop` is set.
pub fn run(
    loaded: &Loaded,
    options: &Options,
    progress: &dyn Progress,
    stop: &Arc<AtomicBool>,
) -> Result<Summary, Error> {
    let started = Instant::now();
    let units = inputs::expand(&options.inputs, options.format)?;
    check_images(loaded, &units)?;
    let most = largest_batch(loaded)?;
    let batch_size = batch_size(loaded.model.inputs(), options.batch_size, most)?;
    let asked = asked(loaded, options, &units, batch_size);
    let paths = Paths::new(&options.output, options.output_format, options.shard, options.work.as_deref())?;
    let layout = Layout::new(loaded, options.output_format, &options.columns.keep, options.transforms);
    let is_remote = |unit: &Unit| unit.files().iter().any(|input| matches!(input.place, Place::Url(_)));
    let needs_web = units.iter().any(is_remote) || matches!(options.output, Destination::Url(_));
    let web = if needs_web { Some(Web::new(options.ca.as_deref(), stop)?) } else { None };
    let mut work = Work::open(paths, asked, options.start, &layout.header())?;
    let before = work.journal.seconds;
    if work.journal.stage == Stage::Published {
        progress.note("note: this run is done already; --restart does it again");
        return finished(&work, loaded, options, &units);
    }
    if work.journal.stage == Stage::Running {
        if work.journal.tally.rows > 0 {
            work.journal.resumed += 1;
            progress.note(&format!("going on after {} rows", work.journal.tally.rows));
        }
        let ended = score_all(loaded, options, (&units, batch_size), (layout, web.clone()), &mut work, progress, stop);
        work.journal.seconds = before + started.elapsed().as_secs_f64();
        match ended {
            // Whatever ended it while it was being stopped comes again when it goes on.
            Ok(()) | Err(_) if stop.load(Ordering::Relaxed) => {
                work.checkpoint()?;
                let summary = summary(&work, loaded, options, &units);
                return Ok(Summary { ended: Ended::Stopped, ..summary });
            }
            Err(error @ Error::Output { .. }) => return Err(error),
            Err(error) => {
                work.checkpoint()?;
                return Err(error);
            }
            Ok(()) => check_all(&work, options)?,
        }
    }
    let bytes = serde_json::to_vec_pretty(&summary(&work, loaded, options, &units));
    work.publish(&bytes.map_err(|error| Error::Internal { what: error.to_string() })?)?;
    if let (Destination::Url(url), Some(web)) = (&options.output, &web) {
        work.send(web, url)?;
    }
    work.finish()?;
    finished(&work, loaded, options, &units)
}

type Written<'a> = (Layout<'a>, Option<Web>);

/// Runs all rows that are left through the model.
fn score_all(
    loaded: &Loaded,
    options: &Options,
    (units, batch_size): (&[Unit], u64),
    (layout, web): Written,
    work: &mut Work,
    progress: &dyn Progress,
    stop: &Arc<AtomicBool>,
) -> Result<(), Error> {
    let context = Context { specs: loaded.model.inputs(), columns: &options.columns };
    let known = Arc::new(Mutex::new(work.journal.fetched.clone()));
    let folder = work.paths.fetched();
    if web.is_some() {
        std::fs::create_dir_all(&folder).map_err(|error| Error::output(&folder, &error))?;
    }
    let fetcher = Fetcher::new(web, folder, options.max_download, Arc::clone(&known));
    let cut = (batch_size, options.shard);
    let mut source = Source::new(units, context, cut, work.journal.next, fetcher, stop, progress);
    let scorer = Scorer { loaded, units, layout, missing: options.missing };
    let (mut last, started, before) = (Instant::now(), Instant::now(), work.journal.seconds);
    let write = |scored: Scored| {
        work.write(&scored)?;
        let tally = work.journal.tally;
        let now = Snapshot { rows: tally.rows, failed: tally.failed, done: scored.bytes.0, total: scored.bytes.1 };
        if last.elapsed() >= options.checkpoint {
            work.journal.seconds = before + started.elapsed().as_secs_f64();
            work.journal.fetched = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
            work.checkpoint()?;
            last = Instant::now();
        }
        progress.advanced(now);
        if options.max_errors.is_exceeded(tally.failed, tally.rows, false) {
            return Err(too_many(work, options));
        }
        Ok(())
    };
    let ended = crew::run(jobs(options), || source.next(), |batch| scorer.score(batch), write);
    work.journal.fetched = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
    ended
}

/// What can be said only once all rows are done.
fn check_all(work: &Work, options: &Options) -> Result<(), Error> {
    let tally = work.journal.tally;
    if tally.rows == 0 && options.shard.count == 1 {
        return Err(Error::input(
            "there are no rows in any input",
            "check the inputs; a table needs more than a header",
        ));
    }
    match options.max_errors.is_exceeded(tally.failed, tally.rows, true) {
        true => Err(too_many(work, options)),
        false => Ok(()),
    }
}

fn too_many(work: &Work, options: &Options) -> Error {
    let (tally, most) = (work.journal.tally, options.max_errors);
    let what = format!("{} of {} rows failed, and --max-errors allows {most}", tally.failed, tally.rows);
    let file = work.paths.partial_errors();
    let next = format!(
        "read {}, then mend the rows and begin again with --restart, or allow more and run the same command",
        file.display()
    );
    Error::TooMany { what, next }
}

fn jobs(options: &Options) -> usize {
    // It counts what the control group allows, not what the machine has.
    let usual = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
    options.jobs.unwrap_or_else(usual).clamp(1, 1024)
}

/// Images are read only where the manifest says how they become numbers.
fn check_images(loaded: &Loaded, units: &[Unit]) -> Result<(), Error> {
    if !has_images(units) {
        return Ok(());
    }
    let inputs = &loaded.manifest.transforms.inputs;
    let takes = |spec: &TensorSpec| inputs.get(&spec.name).is_some_and(|ops| read::take_image(ops));
    match loaded.model.inputs() {
        [spec] if takes(spec) => Ok(()),
        _ => Err(Error::usage(
            format!("{}:{} takes no images", loaded.manifest.model, loaded.manifest.version),
            "register it with transforms that begin with decode_image, or give the rows as .npy or JSON lines",
        )),
    }
}

/// How many rows the model takes at once: one, or any number.
fn largest_batch(loaded: &Loaded) -> Result<usize, Error> {
    let (inputs, outputs) = (loaded.model.inputs(), loaded.model.outputs());
    let first = |spec: &TensorSpec| spec.shape.first().cloned();
    let batch = inputs.first().and_then(first);
    match &batch {
        Some(Dim::Symbol(_)) if inputs.iter().all(|spec| first(spec) == batch) => {
            let free = |spec: &TensorSpec| matches!(spec.shape.first(), Some(Dim::Symbol(_)));
            Ok(if outputs.iter().all(free) { MAX_BATCH } else { 1 })
        }
        Some(Dim::Symbol(_) | Dim::Fixed(1)) => Ok(1),
        Some(Dim::Fixed(rows)) => Err(Error::usage(
            format!("the model takes exactly {rows} along the first dimension of its input"),
            "export it with a free first dimension, which then are the rows",
        )),
        None => Err(Error::usage(
            "the model has no input with a dimension for rows",
            "export it with a free first dimension, which then are the rows",
        )),
    }
}

fn batch_size(specs: &[TensorSpec], asked: Option<usize>, most: usize) -> Result<u64, Error> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(size) => *size,
        Dim::Symbol(_) => ANY,
    };
    let bytes = |spec: &TensorSpec| {
        let elements = spec.shape.iter().skip(1).map(size).fold(1u64, u64::saturating_mul);
        elements.saturating_mul(spec.dtype.size() as u64)
    };
    let row: u64 = specs.iter().map(bytes).fold(0, u64::saturating_add);
    match asked {
        None => Ok((BATCH_BYTES / row.max(1)).clamp(1, USUAL_BATCH).min(most as u64)),
        Some(asked) if (1..=most).contains(&asked) => Ok(asked as u64),
        Some(asked) if most == 1 => Err(Error::usage(
            format!("--batch-size {asked} is not possible: the model takes one row at once"),
            "leave out --batch-size",
        )),
        Some(asked) => {
            Err(Error::usage(format!("--batch-size {asked} is not one from 1 to {most}"), "give a smaller number"))
        }
    }
}

/// Everything that has to be the same for a run that goes on.
fn asked(loaded: &Loaded, options: &Options, units: &[Unit], batch_size: u64) -> Asked {
    let columns = &options.columns;
    let parameters = [
        ("--batch-size", batch_size.to_string()),
        ("--columns", columns.features.join(",")),
        ("--delimiter", columns.delimiter.map(char::from).map(String::from).unwrap_or_default()),
        ("--keep", columns.keep.join(",")),
        ("--output-format", options.output_format.extension().to_owned()),
        ("--raw", (options.transforms == Transforms::Off).to_string()),
        ("--refuse-missing", (options.missing == Missing::Refuse).to_string()),
        ("--shard", options.shard.to_string()),
        // Another engine may round otherwise.
        ("engine", VERSION.to_owned()),
    ];
    let parameters: BTreeMap<String, String> = parameters.map(|(key, value)| (key.to_owned(), value)).into();
    let model = format!("{}:{}", loaded.manifest.model, loaded.manifest.version);
    Asked { model, digest: loaded.digest, inputs: inputs::fingerprint(units), parameters }
}

fn finished(work: &Work, loaded: &Loaded, options: &Options, units: &[Unit]) -> Result<Summary, Error> {
    if !work.paths.results.exists() {
        let what = format!("the run is done, and {} is not there any more", work.paths.results.display());
        return Err(Error::Conflict { what, next: "do it again with --restart".into() });
    }
    Ok(summary(work, loaded, options, units))
}

fn summary(work: &Work, loaded: &Loaded, options: &Options, units: &[Unit]) -> Summary {
    let (tally, seconds) = (work.journal.tally, work.journal.seconds);
    let rows_per_second = if seconds > 0.0 { tally.rows as f64 / seconds } else { 0.0 };
    Summary {
        ended: Ended::Finished,
        model: loaded.manifest.model.clone(),
        version: loaded.manifest.version,
        digest: loaded.digest,
        rows: tally.rows,
        ok: tally.ok,
        failed: tally.failed,
        nonfinite: tally.nonfinite,
        seconds: rounded(seconds),
        rows_per_second: rounded(rows_per_second),
        files: units.iter().map(|unit| unit.files().len()).sum(),
        shard: options.shard.to_string(),
        resumed: work.journal.resumed,
        results: work.paths.results.display().to_string(),
        errors: work.paths.errors.display().to_string(),
    }
}

/// With three digits behind the point.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
