//! The words of a command line that ask for a run; `muster-agent batch` and `muster batch run` have the same.

use std::path::PathBuf;
use std::time::Duration;

use super::Error;
use super::options::{
    Columns, Destination, Format, MaxErrors, Missing, Options, OutputFormat, Shard, Start, Transforms,
};

/// What was written is made to last this often: so much work is done again after a crash.
const CHECKPOINT: Duration = Duration::from_secs(5);

/// Inputs, outputs and how rows are run.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Files, folders, patterns in quotes and http(s) URLs; the format is told by the name: .csv, .tsv and .jsonl (also
    /// with .gz or .zst), .parquet, .npy, .png and .jpg.
    #[arg(long, required = true, num_args = 1.., value_name = "PATH|URL")]
    pub input: Vec<String>,
    /// Where results go: a new folder, a file that ends in .jsonl or .csv, or a URL that takes PUT (a signed one of S3
    /// or Azure Blob Storage), in which {name} stands for the name of each file.
    #[arg(long, value_name = "PATH|URL")]
    pub output: String,
    /// The format of all inputs, where their names do not tell it.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// The format of the results; by the name of --output otherwise, else jsonl.
    #[arg(long, value_enum)]
    pub output_format: Option<OutputFormat>,
    /// The columns that are the model's input, in its order. Unless given: those called like the model's inputs; or, for
    /// a model with one input, all columns that are not kept.
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    pub columns: Vec<String>,
    /// Columns that go into the results as they are, such as identifiers.
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    pub keep: Vec<String>,
    /// What separates the cells of CSV; a comma unless given, a tab in .tsv.
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    pub delimiter: Option<u8>,
    /// How many rows are run at once, where the model takes several; unless given, what suits its input.
    #[arg(long, value_name = "ROWS")]
    pub batch_size: Option<usize>,
    /// How many threads run batches; unless given, as many as there are processors to use.
    #[arg(long, value_name = "THREADS")]
    pub jobs: Option<usize>,
    /// Do only part I of N, the first being 0: whole files where there are N or more, else batches of each. /N takes I
    /// from JOB_COMPLETION_INDEX, which Kubernetes sets in a pod of an Indexed Job.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<String>,
    /// End the run once more rows have failed than this number, or this share such as 5%.
    #[arg(long, value_name = "ROWS|PERCENT")]
    pub max_errors: Option<MaxErrors>,
    /// Let rows with a missing value or NaN fail, instead of giving the model NaN.
    #[arg(long)]
    pub refuse_missing: bool,
    /// Write the model's own outputs, without the output transforms of its manifest.
    #[arg(long)]
    pub raw: bool,
    /// Begin again instead of going on with what an earlier run has done.
    #[arg(long)]
    pub restart: bool,
    /// Exit with 0 also where rows have failed; a Job's pod would else be tried again.
    #[arg(long)]
    pub exit_zero: bool,
    /// Where results and fetched inputs lie until they were sent to a URL.
    #[arg(long, value_name = "FOLDER")]
    pub work: Option<PathBuf>,
    /// The most bytes that are fetched from one URL.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 30)]
    pub max_download: u64,
    /// The authorities that speak for the servers of URLs, PEM; the system's otherwise.
    #[arg(long, value_name = "FILE")]
    pub web_ca: Option<PathBuf>,
}

impl Args {
    /// What is asked for. `completion` is JOB_COMPLETION_INDEX.
    pub fn options(&self, completion: Option<&str>) -> Result<Options, Error> {
        let output = Destination::parse(&self.output);
        let by_name = output.format().unwrap_or(OutputFormat::Jsonl);
        let shard = self.shard.as_deref().map_or(Ok(Shard::WHOLE), |text| Shard::parse(text, completion))?;
        if self.jobs == Some(0) {
            return Err(Error::usage("--jobs 0 runs nothing", "leave it out for one thread per processor"));
        }
        let columns = Columns { features: self.columns.clone(), keep: self.keep.clone(), delimiter: self.delimiter };
        Ok(Options {
            inputs: self.input.clone(),
            output_format: self.output_format.unwrap_or(by_name),
            output,
            work: self.work.clone(),
            format: self.format,
            columns,
            batch_size: self.batch_size,
            jobs: self.jobs,
            shard,
            max_errors: self.max_errors.unwrap_or(MaxErrors::Any),
            missing: if self.refuse_missing { Missing::Refuse } else { Missing::Allow },
            transforms: if self.raw { Transforms::Off } else { Transforms::Apply },
            start: if self.restart { Start::Restart } else { Start::Resume },
            max_download: self.max_download,
            ca: self.web_ca.clone(),
            checkpoint: CHECKPOINT,
        })
    }

    /// The words for a run elsewhere with its own inputs, outputs and shards, that may be tried again.
    pub fn words(&self) -> Vec<String> {
        let word = |name: &str, value: Option<String>| value.map(|value| [format!("--{name}"), value]);
        let list = |values: &[String]| if values.is_empty() { None } else { Some(values.join(",")) };
        let flag = |name: &str, is_set: bool| is_set.then(|| format!("--{name}"));
        let pairs = [
            word("format", self.format.as_ref().map(name)),
            word("output-format", self.output_format.as_ref().map(name)),
            word("columns", list(&self.columns)),
            word("keep", list(&self.keep)),
            word(
                "delimiter",
                self.delimiter.map(|byte| if byte == b'\t' { "tab".into() } else { char::from(byte).into() }),
            ),
            word("batch-size", self.batch_size.map(|rows| rows.to_string())),
            word("jobs", self.jobs.map(|threads| threads.to_string())),
            word("max-errors", self.max_errors.map(|most| most.as_word())),
            word("max-download", Some(self.max_download.to_string())),
        ];
        let flags = [flag("refuse-missing", self.refuse_missing), flag("raw", self.raw)];
        pairs.into_iter().flatten().flatten().chain(flags.into_iter().flatten()).collect()
    }
}

/// What a command line calls a choice.
fn name(choice: &impl clap::ValueEnum) -> String {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        [byte] if byte.is_ascii() && !byte.is_ascii_alphanumeric() && *byte != b'"' => Ok(*byte),
        b"\\t" | b"tab" => Ok(b'\t'),
        _ => Err("one character such as ; or |, or the word tab".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[String]) -> Args {
        let fixed = ["x", "--input", "a.csv", "b.csv", "--output", "out"].map(str::to_owned);
        clap::Parser::try_parse_from(fixed.iter().chain(words)).map(|line: Line| line.args).expect("is understood")
    }

    #[test]
    fn words_are_understood_as_what_they_were_made_of() {
        let all = "--format npy --output-format csv --columns a,b --keep c --delimiter tab --batch-size 3 --jobs 2 \
            --max-errors 5% --max-download 7 --refuse-missing --raw";
        let all: Vec<String> = all.split_whitespace().map(str::to_owned).collect();
        for words in [Vec::new(), all] {
            let args = parse(&words);
            assert_eq!(format!("{:?}", parse(&args.words())), format!("{args:?}"));
            assert!(args.words().len() >= words.len(), "{words:?}");
        }
    }

    #[test]
    fn one_character_separates_cells() {
        let table =
            [(";", Some(b';')), ("tab", Some(b'\t')), ("\\t", Some(b'\t')), ("ab", None), ("a", None), ("\"", None)];
        for (text, want) in table {
            assert_eq!(delimiter(text).ok(), want, "{text}");
        }
    }
}
