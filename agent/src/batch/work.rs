//! The files of a run: where results lie until they are whole, and how they get their names.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use muster_proto::id::Digest;

use super::Error;
use super::journal::{Asked, Journal, Stage};
use super::options::{Destination, OutputFormat, Shard, Start, without_query};
use super::score::Scored;
use super::transfer::Web;
use crate::store::{self, atomic};

/// The folder of what is not whole yet.
pub const STATE: &str = ".muster-batch";
/// What stands in a URL for the name of a file.
const PLACEHOLDER: &str = "{name}";

/// Where a run's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The results.
    pub results: PathBuf,
    /// The rows without an answer.
    pub errors: PathBuf,
    /// What came out.
    pub summary: PathBuf,
    folder: PathBuf,
    /// What the files in the state's folder begin with.
    key: String,
}

impl Paths {
    /// The paths for one shard.
    pub fn new(output: &Destination, format: OutputFormat, shard: Shard, work: Option<&Path>) -> Result<Self, Error> {
        let in_folder = |folder: PathBuf| {
            let number = format!("{:05}", shard.index);
            let end = if shard.count == 1 { String::new() } else { format!("-{number}") };
            Self {
                results: folder.join(format!("part-{number}.{}", format.extension())),
                errors: folder.join(format!("errors{end}.jsonl")),
                summary: folder.join(format!("summary{end}.json")),
                folder,
                key: number,
            }
        };
        match output {
            Destination::Folder(folder) => Ok(in_folder(folder.clone())),
            Destination::File(path) if shard.count == 1 => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                Ok(Self {
                    results: path.clone(),
                    errors: path.with_extension("errors.jsonl"),
                    summary: path.with_extension("summary.json"),
                    folder: folder.unwrap_or(Path::new(".")).to_owned(),
                    key: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
                })
            }
            Destination::File(path) => {
                let what = format!("{} is one file, and each shard writes one of its own", path.display());
                Err(Error::usage(what, "give a folder as --output"))
            }
            Destination::Url(url) if shard.count > 1 && !url.contains(PLACEHOLDER) => {
                let what = format!("{} is one file, and each shard writes one of its own", without_query(url));
                Err(Error::usage(what, "put {name} into the URL where the name of each file goes"))
            }
            Destination::Url(url) => {
                let usual = || {
                    let digest = Digest::of(format!("{} {shard}", without_query(url)).as_bytes());
                    std::env::temp_dir().join(format!("muster-batch-{}", digest.short()))
                };
                Ok(in_folder(work.map_or_else(usual, Path::to_owned)))
            }
        }
    }

    /// Where what is not whole yet lies.
    pub fn state(&self) -> PathBuf {
        self.folder.join(STATE)
    }

    /// The errors so far.
    pub fn partial_errors(&self) -> PathBuf {
        self.state().join(format!("{}.errors", self.key))
    }

    /// Where inputs from URLs are put.
    pub fn fetched(&self) -> PathBuf {
        self.state().join(format!("{}.fetched", self.key))
    }

    fn partial_results(&self) -> PathBuf {
        self.state().join(format!("{}.results", self.key))
    }

    fn journal(&self) -> PathBuf {
        self.state().join(format!("{}.json", self.key))
    }
}

/// A run's files while it writes them.
#[derive(Debug)]
pub struct Work {
    /// Where they are.
    pub paths: Paths,
    /// What is known of the run.
    pub journal: Journal,
    results: BufWriter<File>,
    errors: BufWriter<File>,
    /// Held as long as the run lasts.
    _lock: File,
}

impl Work {
    /// Opens the files of a run that begins, or goes on; `header` is what results begin with.
    pub fn open(paths: Paths, asked: Asked, start: Start, header: &[u8]) -> Result<Self, Error> {
        let state = paths.state();
        let is_ours = state.is_dir();
        if !is_ours {
            refuse_others(&paths)?;
        }
        fs::create_dir_all(&state).map_err(|error| Error::output(&state, &error))?;
        let lock = lock(&state.join(format!("{}.lock", paths.key)), &paths)?;
        if start == Start::Restart {
            remove_all(&paths)?;
        }
        let journal = match Journal::load(&paths.journal())? {
            Some(journal) => {
                journal.check(&asked)?;
                journal
            }
            None if paths.results.exists() => return Err(exists(&paths.results)),
            None => Journal::new(asked),
        };
        let is_running = journal.stage == Stage::Running;
        let _ = fs::remove_dir_all(paths.fetched());
        let mut work = Self {
            results: partial(&paths.partial_results(), journal.results, is_running)?,
            errors: partial(&paths.partial_errors(), journal.errors, is_running)?,
            paths,
            journal,
            _lock: lock,
        };
        if is_running && work.journal.results == 0 {
            work.put(header, &[])?;
        }
        Ok(work)
    }

    /// Writes what became of a batch.
    pub fn write(&mut self, scored: &Scored) -> Result<(), Error> {
        self.put(&scored.results, &scored.errors)?;
        self.journal.tally.add(scored.tally);
        self.journal.next = scored.next;
        Ok(())
    }

    fn put(&mut self, results: &[u8], errors: &[u8]) -> Result<(), Error> {
        let failed = |error: std::io::Error| Error::output(&self.paths.results, &error);
        self.results.write_all(results).map_err(failed)?;
        self.errors.write_all(errors).map_err(|error| Error::output(&self.paths.errors, &error))?;
        self.journal.results += results.len() as u64;
        self.journal.errors += errors.len() as u64;
        Ok(())
    }

    /// Makes all that was written last, and then says so in the journal.
    pub fn checkpoint(&mut self) -> Result<(), Error> {
        let pairs = [(&mut self.results, &self.paths.results), (&mut self.errors, &self.paths.errors)];
        for (file, path) in pairs {
            let synced = file.flush().and_then(|()| file.get_ref().sync_data());
            synced.map_err(|error| Error::output(path, &error))?;
        }
        self.journal.store(&self.paths.journal())
    }

    /// Gives the files their names. It may be cut off at any point and done again.
    pub fn publish(&mut self, summary: &[u8]) -> Result<(), Error> {
        if self.journal.stage == Stage::Running {
            self.checkpoint()?;
            self.journal.stage = Stage::Scored;
            self.journal.store(&self.paths.journal())?;
        }
        let pairs =
            [(self.paths.partial_results(), &self.paths.results), (self.paths.partial_errors(), &self.paths.errors)];
        for (from, to) in pairs {
            match fs::rename(&from, to) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && to.exists() => {}
                other => other.map_err(|error| Error::output(to, &error))?,
            }
        }
        atomic::write(&self.paths.summary, summary, 0o644).map_err(of_store)?;
        atomic::sync_folder(&self.paths.results).map_err(of_store)
    }

    /// Sends the files to where `url` says: the results alone, or each under its own name.
    pub fn send(&self, web: &Web, url: &str) -> Result<(), Error> {
        let Paths { results, errors, summary, .. } = &self.paths;
        if !url.contains(PLACEHOLDER) {
            return web.upload(results, url);
        }
        // The summary comes last: who sees it sees the others as well.
        for path in [results, errors, summary] {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            web.upload(path, &url.replace(PLACEHOLDER, &name))?;
        }
        Ok(())
    }

    /// The run is over.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.journal.stage = Stage::Published;
        let _ = fs::remove_dir_all(self.paths.fetched());
        self.journal.store(&self.paths.journal())
    }
}

/// A folder that others use is left alone.
fn refuse_others(paths: &Paths) -> Result<(), Error> {
    if paths.results.extension().is_some() && paths.key.contains('.') {
        return if paths.results.exists() { Err(exists(&paths.results)) } else { Ok(()) };
    }
    let Ok(entries) = fs::read_dir(&paths.folder) else { return Ok(()) };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    // A disk of its own comes with `lost+found`.
    let mut others = names.filter(|name| !name.starts_with('.') && name != "lost+found");
    match others.next() {
        Some(first) => Err(Error::Conflict {
            what: format!("the output folder {} is not empty: it has {first}", paths.folder.display()),
            next: "name a new folder by --output, or empty this one".into(),
        }),
        None => Ok(()),
    }
}

fn exists(path: &Path) -> Error {
    Error::Conflict {
        what: format!("{} exists already", path.display()),
        next: "name another output, or write it anew with --restart".into(),
    }
}

fn lock(path: &Path, paths: &Paths) -> Result<File, Error> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| Error::output(path, &error))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::Conflict {
            what: format!("another run writes into {}", paths.folder.display()),
            next: "wait for its end, or stop it first".into(),
        }),
        // Some network file systems have no locks; what they hold is written by one pod each.
        Err(TryLockError::Error(_)) | Ok(()) => Ok(file),
    }
}

/// A partial file of which `length` bytes count.
fn partial(path: &Path, length: u64, is_running: bool) -> Result<BufWriter<File>, Error> {
    let failed = |error: std::io::Error| Error::output(path, &error);
    if !is_running {
        // What is whole may have its name already.
        let null = OpenOptions::new().write(true).open("/dev/null");
        return null.map(BufWriter::new).map_err(failed);
    }
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    let there = file.metadata().map_err(failed)?.len();
    if there < length {
        let what = format!("{} has {there} bytes, and the journal says {length}", path.display());
        return Err(Error::Conflict { what, next: "begin again with --restart".into() });
    }
    // What came after the last checkpoint may be half.
    file.set_len(length).map_err(failed)?;
    file.seek(SeekFrom::Start(length)).map_err(failed)?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}

fn remove_all(paths: &Paths) -> Result<(), Error> {
    let partial = [paths.journal(), paths.partial_results(), paths.partial_errors()];
    let whole = [&paths.summary, &paths.results, &paths.errors];
    // Without the journal first, the rest would be a run to go on with.
    partial.iter().chain(whole).try_for_each(|path| atomic::remove(path).map_err(of_store))
}

fn of_store(error: store::Error) -> Error {
    match error {
        store::Error::Io { path, source, .. } => Error::output(&path, &source),
        other => Error::Internal { what: other.to_string() },
    }
}
