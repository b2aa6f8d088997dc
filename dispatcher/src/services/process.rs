//! The process of a local service: started in a group of its own, so that it outlives the dispatcher; found again by its
//! admin socket; ended by its process id.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Error;

/// The log's name in a service's folder.
pub const LOG: &str = "log";
/// A log of more bytes is begun anew, and the one before kept.
const MAX_LOG: u64 = 10 << 20;
/// The most of a log that is looked at from its end.
const TAIL: u64 = 1 << 20;

/// The program that serves, and the arguments before its own.
fn program() -> (PathBuf, Vec<&'static str>) {
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.with_file_name("muster-agent");
    // Test programs lie one folder further down.
    let above = own.parent().and_then(Path::parent).map(|folder| folder.join("muster-agent"));
    if beside.is_file() {
        return (beside, vec!["serve"]);
    }
    if own.file_name().is_some_and(|name| name == "muster") {
        return (own, vec!["agent", "serve"]);
    }
    match above.filter(|path| path.is_file()) {
        Some(above) => (above, vec!["serve"]),
        None => (PathBuf::from("muster-agent"), vec!["serve"]),
    }
}

/// Starts the scoring server over the document `file`, which logs into `folder`.
pub fn start(folder: &Path, file: &Path) -> Result<std::process::Child, Error> {
    let log = open_log(&folder.join(LOG))?;
    let errors = log.try_clone().map_err(|source| Error::Disk { path: folder.join(LOG), source })?;
    let (program, arguments) = program();
    let mut command = Command::new(&program);
    command.args(arguments).arg("--file").arg(file).arg("--log-json");
    command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    // Neither our token nor our configuration is its business.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MUSTER_") {
            command.env_remove(name);
        }
    }
    command.spawn().map_err(|error| Error::Program(format!("{}: {error}", program.display())))
}

fn open_log(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Disk { path: path.to_owned(), source };
    if std::fs::metadata(path).is_ok_and(|log| log.len() > MAX_LOG) {
        std::fs::rename(path, path.with_extension("1")).map_err(failed)?;
    }
    OpenOptions::new().create(true).append(true).open(path).map_err(failed)
}

/// The last `lines` lines of the log at `path`; nothing where there is none.
pub fn tail(path: &Path, lines: usize) -> Result<String, Error> {
    let failed = |source| Error::Disk { path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        other => other.map_err(failed)?,
    };
    let length = file.metadata().map_err(failed)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let mut last = all[all.len().saturating_sub(lines)..].join("\n");
    if !last.is_empty() {
        last.push('\n');
    }
    Ok(last)
}

/// Tells the process to end in good order.
pub fn terminate(id: u32) {
    signal(id, rustix::process::Signal::TERM);
}

/// Ends the process at once.
pub fn kill(id: u32) {
    signal(id, rustix::process::Signal::KILL);
}

fn signal(id: u32, signal: rustix::process::Signal) {
    let id = i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(id) = id {
        // A process that has gone needs no signal.
        let _ = rustix::process::kill_process(id, signal);
    }
}
