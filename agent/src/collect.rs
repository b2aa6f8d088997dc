//! Samples of what models were asked and answered, kept as JSON lines in a folder of their owner's: what one looks
//! at when a shadow disagrees, and what one retrains with.
//!
//! Inputs may be anyone's business, so nothing is kept unless the owner asks for it, only the owner can read the
//! files, and nothing here sends them anywhere. The folder is bounded: the oldest file goes first (invariant 10).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use muster_proto::manifest::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::json::tensor_to_json;
use crate::engine::sample::{Answer, Sample, Sampler};

/// Into how many files the bound is divided: one of them is what goes at a time.
const FILES: u64 = 8;

/// The most bytes of all files unless told otherwise.
pub const MAX_BYTES: u64 = 64 << 20;

/// What is kept, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The folder of the files; it is made.
    pub folder: PathBuf,
    /// One of this many requests is kept; 0 for none.
    #[serde(default)]
    pub every: u64,
    /// Keep the requests on which a version in the shadow answered otherwise.
    #[serde(default)]
    pub disagreements: bool,
    /// The most bytes of all files together.
    #[serde(default = "default_bytes")]
    pub max_bytes: u64,
}

fn default_bytes() -> u64 {
    MAX_BYTES
}

impl Settings {
    /// What has to be otherwise before this can be used, if anything.
    pub fn fault(&self) -> Option<String> {
        (self.max_bytes < 1 << 16).then(|| format!("collect.max_bytes = {} is less than 65536", self.max_bytes))
    }

    /// Starts to write what the sampler takes; none where nothing is to be kept. A relative folder is meant in `base`.
    /// The thread ends with the sampler.
    pub fn start(&self, base: &Path) -> io::Result<Option<Arc<Sampler>>> {
        if self.every == 0 && !self.disagreements {
            return Ok(None);
        }
        let mut files = Files::open(&base.join(&self.folder), self.max_bytes)?;
        let (sampler, receiver) = Sampler::new(self.every, self.disagreements);
        thread::Builder::new().name("collect".into()).spawn(move || write(&mut files, &receiver))?;
        Ok(Some(sampler))
    }
}

fn write(files: &mut Files, samples: &Receiver<Sample>) {
    let mut failed = false;
    for sample in samples {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        match files.append(&line(&sample, at)) {
            Ok(()) => failed = false,
            // Once, and not with each sample.
            Err(error) if !failed => {
                failed = true;
                tracing::warn!(folder = %files.folder.display(), %error, "samples cannot be kept");
            }
            Err(_) => {}
        }
    }
}

/// One sample as a line.
fn line(sample: &Sample, at: u64) -> String {
    let mut line = json!({"at": at, "inputs": tensors(&sample.inputs), "answer": answer(&sample.answer)});
    if let (Some(shadow), Some(line)) = (&sample.shadow, line.as_object_mut()) {
        line.insert("shadow".into(), answer(shadow));
    }
    format!("{line}\n")
}

fn answer(answer: &Answer) -> Value {
    let version = answer.target.trim_end_matches("/manifest");
    json!({"version": version, "digest": answer.digest.to_string(), "outputs": tensors(&answer.outputs)})
}

fn tensors(tensors: &BTreeMap<String, Tensor>) -> Value {
    tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor_to_json(tensor)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// The files `samples-000001.jsonl` and so on. The newest is written to, the oldest goes when there are too many bytes.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
    max_bytes: u64,
    /// Number and size of each, oldest first.
    files: BTreeMap<u64, u64>,
    open: Option<File>,
}

impl Files {
    fn open(folder: &Path, max_bytes: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if let Some(number) = entry.file_name().to_str().and_then(number) {
                files.insert(number, entry.metadata()?.len());
            }
        }
        Ok(Self { folder: folder.to_owned(), max_bytes, files, open: None })
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("samples-{number:06}.jsonl"))
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        let bytes = line.len() as u64;
        if bytes > self.max_bytes / FILES {
            let most = self.max_bytes / FILES;
            return Err(io::Error::other(format!("a sample of {bytes} bytes is larger than a file, {most} bytes")));
        }
        let (newest, size) = self.files.last_key_value().map_or((0, 0), |(number, size)| (*number, *size));
        if self.open.is_none() || size + bytes > self.max_bytes / FILES {
            // What an earlier process wrote last may end in the middle of a line: it is left as it is.
            let next = newest + 1;
            let options = File::options().create_new(true).append(true).mode(0o600).to_owned();
            self.open = Some(options.open(self.path(next))?);
            self.files.insert(next, 0);
        }
        while self.files.values().sum::<u64>() + bytes > self.max_bytes
            && let Some((oldest, _)) = self.files.first_key_value().map(|(number, size)| (*number, *size))
        {
            fs::remove_file(self.path(oldest)).or_else(|e| match e.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(e),
            })?;
            self.files.remove(&oldest);
        }
        let Some(file) = &mut self.open else { return Ok(()) };
        file.write_all(line.as_bytes())?;
        if let Some(mut newest) = self.files.last_entry() {
            *newest.get_mut() += bytes;
        }
        Ok(())
    }
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix("samples-")?.strip_suffix(".jsonl")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use muster_proto::id::Digest;

    use super::*;

    fn sample(shadow: bool) -> Sample {
        let tensor =
            |value: f32| BTreeMap::from([("x".to_owned(), Tensor::from_f32(vec![1], &[value]).expect("fits"))]);
        let answer = |n: u8| Answer {
            target: format!("digits/{n}/manifest"),
            digest: Digest([n; 32]),
            outputs: tensor(f32::from(n)),
        };
        Sample { answer: answer(1), inputs: tensor(0.5), shadow: shadow.then(|| answer(2)) }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_line_says_what_was_asked_and_what_each_answered() {
        let line: Value = serde_json::from_str(&line(&sample(true), 7)).expect("JSON");
        assert_eq!(line["at"], 7);
        assert_eq!(line["inputs"]["x"], json!({"dtype": "f32", "shape": [1], "data": [0.5]}));
        assert_eq!((&line["answer"]["version"], &line["shadow"]["version"]), (&json!("digits/1"), &json!("digits/2")));
        assert_eq!(line["shadow"]["outputs"]["x"]["data"], json!([2.0]));
    }

    /// Invariant 10.
    #[test]
    fn the_folder_stays_within_its_bound_and_the_newest_is_kept() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().expect("temp dir");
        let folder = dir.path().join("kept");
        let text = format!("{}\n", "x".repeat(99));
        let mut files = Files::open(&folder, 1600).expect("opens");
        (0..40).for_each(|_| files.append(&text).expect("writes"));
        assert_eq!(names(&folder).first().map(String::as_str), Some("samples-000013.jsonl"));
        assert_eq!(names(&folder).last().map(String::as_str), Some("samples-000020.jsonl"));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join("samples-000020.jsonl"))), (0o700, 0o600));

        // Another process goes on with a file of its own, whatever else lies there.
        fs::write(folder.join("notes.txt"), "mine").expect("writes");
        let mut files = Files::open(&folder, 1600).expect("opens");
        files.append(&text).expect("writes");
        assert!(
            names(&folder).contains(&"samples-000021.jsonl".to_owned())
                && names(&folder).contains(&"notes.txt".to_owned())
        );
        assert!(files.append(&"x".repeat(201)).expect_err("too large").to_string().contains("larger than a file"));
    }

    #[test]
    fn nothing_is_kept_that_nobody_asked_for() {
        let dir = tempfile::tempdir().expect("temp dir");
        let folder = dir.path().join("kept");
        let settings = Settings { folder: "kept".into(), every: 0, disagreements: false, max_bytes: MAX_BYTES };
        assert!(settings.start(dir.path()).expect("starts").is_none() && !folder.exists());
        let fault = Settings { max_bytes: 9, ..settings }.fault().expect("a fault");
        assert!(fault.contains("max_bytes"), "{fault}");
    }

    #[test]
    fn what_a_sampler_takes_is_written() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut files = Files::open(dir.path(), 1 << 20).expect("opens");
        let (sampler, receiver) = Sampler::new(1, true);
        sampler.keep(sample(false));
        sampler.keep(sample(true));
        drop(sampler);
        write(&mut files, &receiver);
        let text = fs::read_to_string(dir.path().join("samples-000001.jsonl")).expect("written");
        let shadows: Vec<bool> = text.lines().map(|line| line.contains("\"shadow\"")).collect();
        assert_eq!(shadows, [false, true]);
    }
}
