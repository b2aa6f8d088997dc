//! What a run is asked to do, read from the words of a command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Error;

/// How the rows of a file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Format {
    /// Comma-separated values with a header row; `.tsv` has tabs.
    Csv,
    /// One JSON value on each line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
    /// PNG and JPEG files, each a row.
    Images,
    /// A NumPy array whose first dimension are the rows.
    Npy,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// One JSON object on each line.
    Jsonl,
    /// Comma-separated values with a header row.
    Csv,
}

impl OutputFormat {
    /// The end of a file's name.
    pub fn extension(self) -> &'static str {
        match self {
            OutputFormat::Jsonl => "jsonl",
            OutputFormat::Csv => "csv",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        let extension = name.rsplit_once('.')?.1.to_ascii_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" => Some(OutputFormat::Jsonl),
            "csv" => Some(OutputFormat::Csv),
            _ => None,
        }
    }
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A folder, one part for each shard.
    Folder(PathBuf),
    /// One file; its errors and summary lie beside it.
    File(PathBuf),
    /// A URL that takes PUT; `{name}` in it stands for the name of each file.
    Url(String),
}

impl Destination {
    /// Reads a path or URL. A path that ends in .jsonl, .ndjson or .csv is a file, unless it is a folder already.
    pub fn parse(text: &str) -> Self {
        if is_url(text) {
            return Destination::Url(text.to_owned());
        }
        let path = PathBuf::from(text);
        match OutputFormat::of_name(text) {
            Some(_) if !path.is_dir() => Destination::File(path),
            _ => Destination::Folder(path),
        }
    }

    /// The format that its name asks for.
    pub fn format(&self) -> Option<OutputFormat> {
        match self {
            Destination::Folder(_) => None,
            Destination::File(path) => OutputFormat::of_name(&path.to_string_lossy()),
            Destination::Url(url) => OutputFormat::of_name(without_query(url)),
        }
    }
}

/// Whether `text` is the address of something on the web.
pub fn is_url(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("http" | "https"))
}

/// `url` without what may be a secret: signatures are in the query, passwords before the host.
pub fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// The part of all rows that this process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// Which one, from 0.
    pub index: u64,
    /// Of how many.
    pub count: u64,
}

impl Shard {
    /// All rows.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Reads `I/N`, or `/N` with the index from `completion`, which is JOB_COMPLETION_INDEX in a Job's pod.
    pub fn parse(text: &str, completion: Option<&str>) -> Result<Self, Error> {
        let wrong = |what: String| Error::usage(what, "give it as I/N, for example --shard 0/4; the first is 0");
        let (index, count) = text.split_once('/').ok_or_else(|| wrong(format!("--shard {text} is not I/N")))?;
        let index = match (index.trim(), completion) {
            ("", Some(completion)) => completion.trim(),
            ("", None) => {
                let what = format!("--shard {text} has no index, and JOB_COMPLETION_INDEX is not set");
                return Err(wrong(what));
            }
            (index, _) => index,
        };
        let number = |text: &str| text.trim().parse::<u64>().ok();
        match (number(index), number(count)) {
            (Some(index), Some(count)) if index < count && count <= MAX_SHARDS => Ok(Self { index, count }),
            (Some(index), Some(count)) => Err(wrong(format!("there is no shard {index} of {count}"))),
            _ => Err(wrong(format!("--shard {text} is not I/N"))),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// As many as five digits of a part's name tell apart, which is also what Kubernetes allows for a Job.
pub const MAX_SHARDS: u64 = 100_000;

/// How many rows may fail before the run does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxErrors {
    /// Any number.
    Any,
    /// So many.
    Count(u64),
    /// So many of a hundred rows, looked at from 1,000 rows on and at the end.
    Percent(f64),
}

/// From so many rows on a share means something.
const ENOUGH_ROWS: u64 = 1000;

impl MaxErrors {
    /// Whether `failed` of `rows` are too many; `all` says that these are all rows.
    pub fn is_exceeded(self, failed: u64, rows: u64, all: bool) -> bool {
        match self {
            MaxErrors::Any => false,
            MaxErrors::Count(most) => failed > most,
            MaxErrors::Percent(most) => (all || rows >= ENOUGH_ROWS) && failed as f64 * 100.0 > most * rows as f64,
        }
    }

    /// As a command line has it; empty for any number.
    pub fn as_word(self) -> String {
        match self {
            MaxErrors::Any => String::new(),
            MaxErrors::Count(count) => count.to_string(),
            MaxErrors::Percent(share) => format!("{share}%"),
        }
    }
}

impl FromStr for MaxErrors {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a number of rows such as 100 nor a share such as 5%");
        match text.strip_suffix('%') {
            Some(share) => match share.trim().parse::<f64>() {
                Ok(share) if (0.0..=100.0).contains(&share) => Ok(MaxErrors::Percent(share)),
                _ => Err(wrong()),
            },
            None => text.parse().map(MaxErrors::Count).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for MaxErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MaxErrors::Any => f.write_str("any number of rows"),
            MaxErrors::Count(count) => write!(f, "{count} rows"),
            MaxErrors::Percent(share) => write!(f, "{share}% of the rows"),
        }
    }
}

/// Whether missing values, which floats have as NaN, may reach the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// As NaN.
    Allow,
    /// The row fails.
    Refuse,
}

/// Whether the manifest's output transforms are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transforms {
    /// As `/score` does.
    Apply,
    /// The model's own outputs.
    Off,
}

/// What happens to what an earlier run left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It is gone on with.
    Resume,
    /// It is removed.
    Restart,
}

/// Which columns of tables mean what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// Those that are the input, in its order; none for all that are not kept.
    pub features: Vec<String>,
    /// Those that go into the output as they are.
    pub keep: Vec<String>,
    /// What separates the cells of CSV; none for a comma, and a tab in `.tsv`.
    pub delimiter: Option<u8>,
}

/// What a run is asked to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files, folders, patterns and URLs.
    pub inputs: Vec<String>,
    /// Where results go.
    pub output: Destination,
    /// How results are written.
    pub output_format: OutputFormat,
    /// Where things lie until they were sent to a URL.
    pub work: Option<PathBuf>,
    /// The format of all inputs; by their names otherwise.
    pub format: Option<Format>,
    /// The columns of tables.
    pub columns: Columns,
    /// How many rows are run at once; none for what suits the model.
    pub batch_size: Option<usize>,
    /// How many threads run batches; none for as many as there are processors to use.
    pub jobs: Option<usize>,
    /// The part of the rows.
    pub shard: Shard,
    /// How many rows may fail.
    pub max_errors: MaxErrors,
    /// Missing values.
    pub missing: Missing,
    /// Output transforms.
    pub transforms: Transforms,
    /// What an earlier run left.
    pub start: Start,
    /// The most bytes of one file from a URL.
    pub max_download: u64,
    /// The authorities that speak for servers, PEM; the system's otherwise.
    pub ca: Option<PathBuf>,
    /// After how long what was written is made to last.
    pub checkpoint: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_read_and_the_index_comes_from_the_pod() {
        let table = [
            ("0/4", None, Some((0, 4))),
            ("3/4", Some("1"), Some((3, 4))),
            ("/4", Some("2"), Some((2, 4))),
            ("/4", None, None),
            ("4/4", None, None),
            ("0/0", None, None),
            ("x/4", None, None),
            ("4", None, None),
            ("0/100001", None, None),
        ];
        for (text, completion, want) in table {
            let got = Shard::parse(text, completion).ok().map(|shard| (shard.index, shard.count));
            assert_eq!(got, want, "{text} {completion:?}");
        }
    }

    #[test]
    fn errors_are_counted_or_shared() {
        let table = [
            ("0", 1, 10, false, true),
            ("0", 0, 10, true, false),
            ("2", 2, 10, true, false),
            ("2", 3, 10, false, true),
            ("10%", 5, 10, false, false),
            ("10%", 5, 10, true, true),
            ("10%", 101, 1000, false, true),
            ("10%", 100, 1000, true, false),
        ];
        for (text, failed, rows, all, want) in table {
            let most: MaxErrors = text.parse().expect(text);
            assert_eq!(most.is_exceeded(failed, rows, all), want, "{text} {failed} {rows}");
        }
        for bad in ["", "-1", "101%", "x%", "1.5"] {
            assert!(bad.parse::<MaxErrors>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_tell_what_an_output_is() {
        let table = [
            ("out", false, None),
            ("out.csv", true, Some(OutputFormat::Csv)),
            ("a/b.JSONL", true, Some(OutputFormat::Jsonl)),
        ];
        for (text, is_file, format) in table {
            let destination = Destination::parse(text);
            assert_eq!(
                (matches!(destination, Destination::File(_)), destination.format()),
                (is_file, format),
                "{text}"
            );
        }
        let url = Destination::parse("https://a.blob.core.windows.net/c/{name}?sig=secret.csv");
        assert_eq!((url.format(), without_query("https://h/p?sig=s#f")), (None, "https://h/p"));
    }
}
