//! `muster model register`: hash, upload what is missing, register.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use muster_proto::id::{Digest, FilePath, Hasher, ModelName};
use muster_proto::manifest::{MAX_FILES, OutputsFrom, Requires, ScriptLimits, Tolerance, Transforms};
use serde::de::DeserializeOwned;

use super::{key_value, map};
use crate::app::{Registered, Registration, RegistrationFile, RegistrationScript, SampleFile, WatchEvent};
use crate::cli::client::{Answer, Client};
use crate::cli::output::{Output, facts, size};
use crate::cli::parse::{shape, tolerance};
use crate::cli::{Failure, Session};

pub(super) const EXAMPLES: &str = "\
Examples:
  muster model register -n digits -p digits.onnx --sample sample.json
  muster model register -n vision/detect -p exported/ --entry model.onnx \\
      --input-shape images=1x3x640x640 --tag stage=candidate

A sample file holds inputs, and best the outputs from where the model was trained:
  { \"samples\": [ { \"inputs\": { \"x\": { \"dtype\": \"f32\", \"shape\": [1, 2], \"data\": [0.5, 1] } },
                 \"outputs\": { \"y\": { \"dtype\": \"f32\", \"shape\": [1, 1], \"data\": [0.73] } } } ] }";

#[derive(Debug, Args)]
pub(crate) struct RegisterArgs {
    /// The model's name; parts may be joined by `/`.
    #[arg(long, short, value_name = "NAME")]
    name: ModelName,
    /// The ONNX file, or a folder whose files belong together.
    #[arg(long, short, value_name = "FILE|FOLDER")]
    path: PathBuf,
    /// The file of the folder that the engine loads; needed only where several end in `.onnx`.
    #[arg(long, value_name = "FILE")]
    entry: Option<FilePath>,
    /// What people shall know of it.
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// A tag, which may change later. Repeats.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    tag: Vec<(String, String)>,
    /// A property, which is signed with the content. Repeats.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    property: Vec<(String, String)>,
    /// JSON file of samples: each device has to reproduce their outputs before the model answers there.
    #[arg(long, value_name = "FILE.json")]
    sample: Option<PathBuf>,
    /// JSON file of what happens before the inputs and after the outputs, e.g. decoding an image.
    #[arg(long, value_name = "FILE.json")]
    transforms: Option<PathBuf>,
    /// The shape of an input that declares none, or not all of it. Repeats.
    #[arg(long, value_name = "INPUT=1x3x224x224", value_parser = shape)]
    input_shape: Vec<(String, Vec<u64>)>,
    /// How far a device's outputs may differ from the samples'; 0.001,0.001 unless given. One number alone is the
    /// absolute part, and the relative one is 0.
    #[arg(long, value_name = "ABSOLUTE[,RELATIVE]", value_parser = tolerance)]
    tolerance: Option<Tolerance>,
    /// A WebAssembly module that reads requests before the model and writes answers after it; see agent/README.md.
    #[arg(long, value_name = "FILE.wasm")]
    script: Option<PathBuf>,
    /// How much one call of the script may compute; about one for each instruction.
    #[arg(long, value_name = "UNITS", requires = "script", default_value_t = ScriptLimits::default().fuel)]
    script_fuel: u64,
    /// How much memory one call of the script may take, in bytes.
    #[arg(long, value_name = "BYTES", requires = "script", default_value_t = ScriptLimits::default().memory_bytes)]
    script_memory: u64,
    /// A processor architecture that may run it, e.g. aarch64; any unless given. Repeats.
    #[arg(long, value_name = "ARCH")]
    arch: Vec<String>,
    /// Free memory that a device needs, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    min_memory: u64,
}

/// A file on this machine and its place in the bundle.
#[derive(Debug)]
struct Local {
    source: PathBuf,
    path: FilePath,
    size: u64,
    digest: Digest,
}

pub(super) fn run(args: &RegisterArgs, session: &Session) -> anyhow::Result<()> {
    let out = session.out;
    let answer = register(args, session)?;
    let registered: Registered = answer.parse()?;
    out.answer(&answer, tell)?;
    for warning in &registered.warnings {
        out.warn(warning);
    }
    if !registered.already_registered {
        out.note(&format!(
            "Bring it to devices: muster rollout start --model {}:{} --all",
            registered.model, registered.version
        ));
    }
    Ok(())
}

/// Registers a file or folder as the newest version of `name`, with nothing said beside it.
pub(in crate::cli) fn as_it_is(name: ModelName, path: PathBuf, session: &Session) -> anyhow::Result<Registered> {
    let args = RegisterArgs {
        name,
        path,
        entry: None,
        description: String::new(),
        tag: Vec::new(),
        property: Vec::new(),
        sample: None,
        transforms: None,
        input_shape: Vec::new(),
        tolerance: None,
        script: None,
        script_fuel: ScriptLimits::default().fuel,
        script_memory: ScriptLimits::default().memory_bytes,
        arch: Vec::new(),
        min_memory: 0,
    };
    let registered: Registered = register(&args, session)?.parse()?;
    for warning in &registered.warnings {
        session.out.warn(warning);
    }
    let new = if registered.already_registered { "is already" } else { "is now" };
    let (model, version) = (&registered.model, registered.version);
    session.out.note(&format!("{} {new} {model}:{version}, signed.", args.path.display()));
    Ok(registered)
}

fn register(args: &RegisterArgs, session: &Session) -> anyhow::Result<Answer> {
    let Session { client, out } = session;
    // Everything that can be wrong here is found before the first byte travels.
    let samples: Option<SampleFile> = args.sample.as_deref().map(read_json).transpose()?;
    let transforms: Option<Transforms> = args.transforms.as_deref().map(read_json).transpose()?;
    let mut files = find_files(&args.path)?;
    let script = args.script.as_deref().map(|path| add_script(path, args, &mut files)).transpose()?;
    let files = hash_all(files, *out)?;
    upload_missing(&files, client, *out)?;
    let registration = Registration {
        name: args.name.clone(),
        files: files.iter().map(|f| RegistrationFile { path: f.path.clone(), digest: f.digest }).collect(),
        entry: args.entry.clone(),
        description: args.description.clone(),
        tags: map(&args.tag),
        properties: map(&args.property),
        samples,
        input_shapes: args.input_shape.iter().cloned().collect::<BTreeMap<_, _>>(),
        transforms,
        tolerance: args.tolerance,
        requires: Requires { arch: args.arch.clone(), memory_bytes: args.min_memory },
        script,
    };
    let spinner = follow_steps(&args.name, client, *out);
    let answer = client.post_and_wait("/v1/models", &registration);
    spinner.finish_and_clear();
    Ok(answer?)
}

/// The script, which becomes one of the files unless it lies among them.
fn add_script(
    path: &Path,
    args: &RegisterArgs,
    files: &mut Vec<(PathBuf, FilePath)>,
) -> anyhow::Result<RegistrationScript> {
    let same =
        |source: &Path| fs::canonicalize(source).ok().is_some_and(|there| fs::canonicalize(path).ok() == Some(there));
    let file = match files.iter().find(|(source, _)| same(source)) {
        Some((_, file)) => file.clone(),
        None => {
            let mut found = find_files(path)?;
            let [(_, file)] = found.as_slice() else {
                return Err(Failure::usage(format!("{} is a folder", path.display()), "name the .wasm file").into());
            };
            let file = file.clone();
            files.append(&mut found);
            file
        }
    };
    Ok(RegistrationScript { file, limits: ScriptLimits { fuel: args.script_fuel, memory_bytes: args.script_memory } })
}

fn tell(registered: &Registered) -> String {
    let name = format!("{}:{}", registered.model, registered.version);
    let outcome =
        if registered.already_registered { "this very content was registered before" } else { "registered and signed" };
    let mut rows = vec![("model", name), ("outcome", outcome.to_owned()), ("manifest", registered.digest.to_string())];
    if let Some(report) = &registered.report {
        let from = match report.outputs_from {
            OutputsFrom::Given => "compared with the outputs given",
            OutputsFrom::Engine => "recorded from the engine",
        };
        let error = report.max_abs_error.map(|error| format!(", largest difference {error:e}")).unwrap_or_default();
        rows.push(("samples", format!("{}, {from}{error}", report.samples)));
        rows.push(("loading", report.load_notes.join("; ")));
        rows.push(("size", format!("{}, travels as {}", size(report.size), size(report.blob_size))));
        rows.push(("took", format!("{:.1} s", report.took_ms as f64 / 1000.0)));
    }
    facts(rows)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display()), "check the file's name"))?;
    serde_json::from_str(&text).map_err(|e| {
        Failure::usage(
            format!("{}: {e}", path.display()),
            "mend that place; `muster model register --help` shows the form",
        )
    })
}

/// The files at `root` with their places in the bundle, in order of those. Links are refused: what they lead to may
/// change between hashing and signing, or lie outside.
fn find_files(root: &Path) -> anyhow::Result<Vec<(PathBuf, FilePath)>> {
    let unreadable = |path: &Path, e: std::io::Error| {
        Failure::usage(format!("cannot read {}: {e}", path.display()), "check the path and its permissions")
    };
    let metadata = fs::metadata(root).map_err(|e| unreadable(root, e))?;
    let mut found = Vec::new();
    if metadata.is_file() {
        let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        found.push((root.to_owned(), bundle_path(&name)?));
        return Ok(found);
    }
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| unreadable(&folder, e))? {
            let entry = entry.map_err(|e| unreadable(&folder, e))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(|e| unreadable(&entry.path(), e))?;
            if kind.is_dir() {
                folders.push((entry.path(), format!("{name}/")));
            } else if kind.is_file() {
                found.push((entry.path(), bundle_path(&name)?));
            } else {
                return Err(Failure::usage(
                    format!("{} is neither a file nor a folder", entry.path().display()),
                    "put the file itself there; links are not followed",
                )
                .into());
            }
            if found.len() > MAX_FILES {
                let what = format!("{} holds more than {MAX_FILES} files", root.display());
                return Err(Failure::usage(what, "name the folder that holds the model and nothing else").into());
            }
        }
    }
    if found.is_empty() {
        return Err(
            Failure::usage(format!("{} is empty", root.display()), "name the folder that holds the model").into()
        );
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(found)
}

fn bundle_path(name: &str) -> Result<FilePath, Failure> {
    name.parse().map_err(|e: muster_proto::id::Error| Failure::usage(e.to_string(), "rename the file"))
}

fn hash_all(files: Vec<(PathBuf, FilePath)>, out: Output) -> anyhow::Result<Vec<Local>> {
    let total = files.iter().filter_map(|(source, _)| fs::metadata(source).ok()).map(|m| m.len()).sum();
    let bar = out.bar(total, "hashing   {bar:40} {bytes:>10} of {total_bytes}");
    let mut hashed = Vec::with_capacity(files.len());
    for (source, path) in files {
        let failed = |e: std::io::Error| {
            Failure::usage(format!("cannot read {}: {e}", source.display()), "check its permissions")
        };
        let mut reader = bar.wrap_read(File::open(&source).map_err(failed)?);
        let (mut hasher, mut size, mut buffer) = (Hasher::new(), 0u64, vec![0; 1 << 16]);
        loop {
            let count = reader.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            size += count as u64;
        }
        hashed.push(Local { source, path, size, digest: hasher.finish() });
    }
    bar.finish_and_clear();
    Ok(hashed)
}

fn upload_missing(files: &[Local], client: &Client, out: Output) -> anyhow::Result<()> {
    let mut missing: Vec<&Local> = Vec::new();
    for file in files {
        let known = missing.iter().any(|other| other.digest == file.digest);
        if !known && !client.exists(&format!("/v1/uploads/{}", file.digest))? {
            missing.push(file);
        }
    }
    let total: u64 = missing.iter().map(|file| file.size).sum();
    let bar = out.bar(total, "uploading {bar:40} {bytes:>10} of {total_bytes}, {bytes_per_sec}, {eta} left");
    for file in &missing {
        let reader = File::open(&file.source).map_err(|e| {
            Failure::usage(format!("cannot read {}: {e}", file.source.display()), "check its permissions")
        })?;
        // Not a byte more than was hashed, or a growing file would break the length that was told.
        let reader = bar.wrap_read(reader.take(file.size));
        client.upload(&format!("/v1/uploads/{}", file.digest), file.size, reader)?;
    }
    bar.finish_and_clear();
    if missing.len() < files.len() {
        out.note(&format!("{} of {} files were there already.", files.len() - missing.len(), files.len()));
    }
    Ok(())
}

/// Shows what the dispatcher is doing while it registers. It watches from another thread, which ends with the process;
/// without events the spinner still turns.
fn follow_steps(name: &ModelName, client: &Client, out: Output) -> ProgressBar {
    let spinner = out.bar(0, "{spinner} {msg} ({elapsed})");
    if !out.shows_progress() {
        return spinner;
    }
    spinner.set_message("registering");
    spinner.enable_steady_tick(Duration::from_millis(120));
    let (name, client, shown) = (name.clone(), client.clone(), spinner.clone());
    std::thread::spawn(move || {
        let Ok(events) = client.events("/v1/events") else { return };
        for event in events.map_while(Result::ok) {
            match serde_json::from_str(&event.data) {
                Ok(WatchEvent::Registration { model, step }) if model == name => shown.set_message(step),
                _ => {}
            }
        }
    });
    spinner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_all_its_files_in_order() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::create_dir(dir.path().join("weights")).expect("made");
        for name in ["weights/b.bin", "model.onnx", "weights/a.bin"] {
            fs::write(dir.path().join(name), name).expect("written");
        }
        let found = find_files(dir.path()).expect("finds");
        let paths: Vec<&str> = found.iter().map(|(_, path)| path.as_str()).collect();
        assert_eq!(paths, ["model.onnx", "weights/a.bin", "weights/b.bin"]);
        let hashed = hash_all(found, Output::new(crate::cli::output::Format::Json, true)).expect("hashes");
        assert_eq!(hashed[0].digest, Digest::of(b"model.onnx"));
        assert_eq!(hashed[0].size, 10);
        let single = find_files(&dir.path().join("weights/a.bin")).expect("finds");
        assert_eq!(single[0].1.as_str(), "a.bin");
    }

    #[test]
    fn what_cannot_be_a_bundle_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let refused = |path: &Path| find_files(path).expect_err("refused").to_string();
        assert!(refused(dir.path()).contains("is empty"));
        assert!(refused(&dir.path().join("missing")).contains("cannot read"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).expect("linked");
            assert!(refused(dir.path()).contains("neither a file nor a folder"));
        }
    }

    #[test]
    fn a_wrong_sample_file_names_the_place() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("s.json");
        fs::write(&path, "{\"samples\": [{\"inptus\": {}}]}").expect("written");
        let failure = read_json::<SampleFile>(&path).expect_err("refused");
        assert!(failure.to_string().contains("unknown field `inptus`"), "{failure}");
        assert_eq!(failure.exit(), crate::cli::EXIT_USAGE);
    }
}
