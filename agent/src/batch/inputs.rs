//! From what was named on the command line to the files that are read, in a fixed order.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use muster_proto::id::{Digest, Hasher};

use super::options::{Format, is_url, without_query};
use super::{Error, glob};

/// How deep folders are looked through; links that lead back to where they lie end there.
const MAX_DEPTH: usize = 32;
/// The most files of one run (invariant 10).
const MAX_FILES: usize = 10_000_000;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Where an input's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// Behind a URL.
    Url(String),
}

/// One file with rows, or an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// How people and results call it; no secrets.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// What it holds.
    pub format: Format,
    /// How it is packed.
    pub packing: Packing,
    /// Its size in bytes, 0 where it is not known yet.
    pub size: u64,
    /// When it was changed, in nanoseconds since 1970; 0 where that is not known.
    modified: u128,
}

impl Input {
    /// The same once it was fetched into the file `path` of `size` bytes.
    pub fn fetched(&self, path: PathBuf, size: u64) -> Self {
        Self { place: Place::File(path), size, ..self.clone() }
    }
}

/// What batches are cut from; none spans two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unit {
    /// A file with rows.
    Table(Input),
    /// Images, each a row.
    Images(Vec<Input>),
}

impl Unit {
    /// Its files.
    pub fn files(&self) -> &[Input] {
        match self {
            Unit::Table(input) => std::slice::from_ref(input),
            Unit::Images(images) => images,
        }
    }
}

/// All inputs, in the order in which they were named and, in folders and patterns, by name.
pub fn expand(named: &[String], format: Option<Format>) -> Result<Vec<Unit>, Error> {
    let mut found = Found { format, seen: BTreeSet::new(), inputs: Vec::new() };
    for text in named {
        found.take(text)?;
    }
    let mut units: Vec<Unit> = Vec::new();
    for input in found.inputs {
        match (units.last_mut(), input.format) {
            (Some(Unit::Images(images)), Format::Images) => images.push(input),
            (_, Format::Images) => units.push(Unit::Images(vec![input])),
            _ => units.push(Unit::Table(input)),
        }
    }
    Ok(units)
}

/// A digest of names, sizes and times: another one means that the inputs are others.
pub fn fingerprint(units: &[Unit]) -> Digest {
    let mut hasher = Hasher::new();
    for input in units.iter().flat_map(Unit::files) {
        hasher.update(format!("{}\0{}\0{}\0{:?}\n", input.name, input.size, input.modified, input.format).as_bytes());
    }
    hasher.finish()
}

struct Found {
    format: Option<Format>,
    seen: BTreeSet<PathBuf>,
    inputs: Vec<Input>,
}

impl Found {
    fn take(&mut self, text: &str) -> Result<(), Error> {
        if is_url(text) {
            let name = without_query(text);
            let (format, packing) = self.format_of(name)?;
            let place = Place::Url(text.to_owned());
            return self.push(Input { name: name.to_owned(), place, format, packing, size: 0, modified: 0 });
        }
        let path = Path::new(text);
        if path.is_dir() {
            return self.folder(path);
        }
        if path.exists() || !glob::is_pattern(text) {
            return self.file(path);
        }
        let unreadable =
            |error| Error::usage(format!("{text} cannot be looked up: {error}"), "check the folder's permissions");
        let matching = glob::expand(text).map_err(unreadable)?;
        if matching.is_empty() {
            return Err(Error::usage(
                format!("no file matches {text}"),
                "check the pattern; * and ? match within a name",
            ));
        }
        matching.iter().try_for_each(|path| if path.is_dir() { self.folder(path) } else { self.file(path) })
    }

    fn file(&mut self, path: &Path) -> Result<(), Error> {
        if !self.seen.insert(path.to_owned()) {
            return Ok(());
        }
        let name = path.display().to_string();
        let unreadable =
            |error| Error::usage(format!("{name} cannot be read: {error}"), "check the input's name and permissions");
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        let (format, packing) = self.format_of(&name)?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let (size, modified) = (metadata.len(), modified.map_or(0, |since| since.as_nanos()));
        self.push(Input { name, place: Place::File(path.to_owned()), format, packing, size, modified })
    }

    /// All files below `folder` that hold rows by their names; with a format of all inputs also those whose names say
    /// nothing.
    fn folder(&mut self, folder: &Path) -> Result<(), Error> {
        let mut files = Vec::new();
        list(folder, 0, &mut files)?;
        files.sort();
        let before = self.inputs.len();
        for path in files {
            let wanted = match (of_name(&path.to_string_lossy()).0, self.format) {
                (found, Some(format)) => found.is_none_or(|found| found == format),
                (found, None) => found.is_some(),
            };
            if wanted {
                self.file(&path)?;
            }
        }
        if self.inputs.len() == before {
            let what = format!("no file in {} is one that can be read", folder.display());
            return Err(Error::usage(what, "name the files, or their format by --format"));
        }
        Ok(())
    }

    fn format_of(&self, name: &str) -> Result<(Format, Packing), Error> {
        let (by_name, packing) = of_name(name);
        let Some(format) = self.format.or(by_name) else {
            let what = format!("the format of {name} cannot be told from its name");
            return Err(Error::usage(what, "say it with --format csv, jsonl, parquet, images or npy"));
        };
        if packing != Packing::Plain && !matches!(format, Format::Csv | Format::Jsonl) {
            let what = format!("{name} is packed, and only CSV and JSON lines are read so");
            return Err(Error::usage(what, "unpack it first"));
        }
        Ok((format, packing))
    }

    fn push(&mut self, input: Input) -> Result<(), Error> {
        if self.inputs.len() == MAX_FILES {
            return Err(Error::usage(format!("there are more than {MAX_FILES} inputs"), "do them in several runs"));
        }
        self.inputs.push(input);
        Ok(())
    }
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let unreadable = |error: std::io::Error| {
        Error::usage(format!("{} cannot be read: {error}", folder.display()), "check the folder's permissions")
    };
    if depth == MAX_DEPTH {
        let what = format!("{} lies {MAX_DEPTH} folders deep", folder.display());
        return Err(Error::usage(what, "look for a link that leads back to a folder above it"));
    }
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if is_hidden {
            continue;
        }
        if path.is_dir() {
            list(&path, depth + 1, files)?;
        } else {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Error::usage(format!("there are more than {MAX_FILES} inputs"), "do them in several runs"));
        }
    }
    Ok(())
}

/// What a name says that a file is.
fn of_name(name: &str) -> (Option<Format>, Packing) {
    let lower = name.to_ascii_lowercase();
    let (inner, packing) = match (lower.strip_suffix(".gz"), lower.strip_suffix(".zst")) {
        (Some(inner), _) => (inner, Packing::Gzip),
        (_, Some(inner)) => (inner, Packing::Zstd),
        _ => (lower.as_str(), Packing::Plain),
    };
    let extension = Path::new(inner).extension().map(|extension| extension.to_string_lossy());
    let format = match extension.as_deref() {
        Some("csv" | "tsv") => Some(Format::Csv),
        Some("jsonl" | "ndjson") => Some(Format::Jsonl),
        Some("parquet" | "pq") => Some(Format::Parquet),
        Some("png" | "jpg" | "jpeg") => Some(Format::Images),
        Some("npy") => Some(Format::Npy),
        _ => None,
    };
    (format, packing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_formats_and_packing() {
        let table = [
            ("a.csv", Some(Format::Csv), Packing::Plain),
            ("a.TSV.gz", Some(Format::Csv), Packing::Gzip),
            ("dir.csv/a.ndjson.zst", Some(Format::Jsonl), Packing::Zstd),
            ("a.pq", Some(Format::Parquet), Packing::Plain),
            ("a.JPG", Some(Format::Images), Packing::Plain),
            ("https://h/a.npy", Some(Format::Npy), Packing::Plain),
            ("dir.csv/a", None, Packing::Plain),
            ("a.json", None, Packing::Plain),
        ];
        for (name, format, packing) in table {
            assert_eq!(of_name(name), (format, packing), "{name}");
        }
    }

    #[test]
    fn folders_are_sorted_and_images_side_by_side_are_one_unit() {
        let dir = tempfile::tempdir().expect("temp dir");
        for name in ["b/2.png", "b/10.png", "a.csv", "notes.txt", ".muster-batch/x.csv", "z.csv"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
            std::fs::write(path, name).expect("writes");
        }
        let root = dir.path().display().to_string();
        let units = expand(&[root.clone(), format!("{root}/a.csv")], None).expect("expands");
        let names = |unit: &Unit| {
            let short = |input: &Input| input.name.strip_prefix(&root).expect("below").to_owned();
            unit.files().iter().map(short).collect::<Vec<_>>()
        };
        let got: Vec<_> = units.iter().map(names).collect();
        assert_eq!(got, [vec!["/a.csv"], vec!["/b/10.png", "/b/2.png"], vec!["/z.csv"]]);
        let before = fingerprint(&units);
        std::fs::write(dir.path().join("z.csv"), "longer than before").expect("writes");
        assert_ne!(before, fingerprint(&expand(&[root], None).expect("expands")));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_a_next_step() {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("data.bin"), "").expect("writes");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let table = [
            (at("missing.csv"), None, "cannot be read"),
            (at("*.csv"), None, "no file matches"),
            (at("data.bin"), None, "cannot be told from its name"),
            (dir.path().display().to_string(), None, "no file in"),
            ("https://h/data?sig=secret".into(), None, "the format of https://h/data cannot be told"),
            ("https://h/data.gz?sig=secret".into(), Some(Format::Npy), "is packed"),
        ];
        for (text, format, want) in table {
            let error = expand(std::slice::from_ref(&text), format).expect_err(&text);
            assert!(error.to_string().contains(want) && !error.next_step().is_empty(), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let units = expand(&[dir.path().display().to_string()], Some(Format::Csv)).expect("expands");
        assert_eq!(units.len(), 1);
    }
}
