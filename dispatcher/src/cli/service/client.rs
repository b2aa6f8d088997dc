//! `muster service client`: a program that asks the service once, ready to be run.
//!
//! It speaks the Open Inference Protocol, which every model answers. What it sends is a golden sample of the version
//! where there is a small one, and else zeros: numbers to put one's own in the place of.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::Context as _;
use clap::ValueEnum;
use muster_proto::code::Code;
use muster_proto::manifest::{BundleManifest, Dim, Dtype, MAX_MANIFEST, Sample, SampleSet, Tensor, TensorSpec};
use muster_proto::wire::{self, Message as _};

use super::path;
use crate::app::ServiceView;
use crate::cli::parse::VersionSpec;
use crate::cli::{Failure, Session};

/// A sample with more elements is not written out.
const SMALL: usize = 256;

/// The language of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Language {
    /// Python 3, its standard library.
    Python,
    /// Java 11 or newer.
    Java,
    /// C# for .NET 6 or newer.
    Csharp,
    /// A shell with curl.
    Curl,
    /// Rust with ureq.
    Rust,
}

pub(super) fn run(name: &str, language: Language, session: &Session) -> anyhow::Result<()> {
    let view: ServiceView = session.client.get(&path(name))?.parse()?;
    let Some(base) = &view.url else {
        let what = format!("where {name} answers is not known yet");
        let next = format!("`muster service wait {name}`, then again");
        return Err(Failure::new(Code::Conflict, what).with_next(&next).into());
    };
    let revision = view.revisions.first().context("a service without a version")?;
    let version: VersionSpec = revision.model.parse().map_err(anyhow::Error::msg)?;
    let at = crate::cli::model::version_path(&version);
    let download = |path: &str, most: usize| -> anyhow::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        session.client.download(path)?.1.take(most as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let manifest = BundleManifest::parse(&download(&format!("{at}/manifest"), MAX_MANIFEST)?)?;
    let samples = manifest.files.iter().find(|file| file.path == manifest.samples.file);
    let samples = samples.filter(|file| file.size <= SampleSet::MAX_BYTES as u64);
    // Only what is sent by way of example: that there is none is no reason to fail.
    let example = samples.and_then(|file| {
        let bytes = download(&format!("{at}/files/{}", file.digest), SampleSet::MAX_BYTES).ok()?;
        let all = wire::decode::<SampleSet>(&bytes).ok()?.into_samples();
        all.into_iter().map(|scripted| scripted.sample).find(is_small)
    });
    let url = format!("{}/v2/models/{name}/infer", base.trim_end_matches('/'));
    let text = write(language, &url, &manifest.inputs, example.as_ref());
    session.out.value(&serde_json::json!({ "program": text }), || text.trim_end().to_owned())?;
    Ok(())
}

fn is_small(sample: &Sample) -> bool {
    sample.inputs.values().map(Tensor::len).sum::<usize>() <= SMALL
}

/// The program that sends `example`, or zeros of the shapes of `inputs`, to `url`.
fn write(language: Language, url: &str, inputs: &[TensorSpec], example: Option<&Sample>) -> String {
    let given = example.map(|sample| &sample.inputs);
    let tensors: Vec<String> = inputs.iter().map(|spec| language.tensor(&Given::new(spec, given))).collect();
    let separator = if language == Language::Curl { "',\n'" } else { ",\n" };
    language.template().replace("{{url}}", url).replace("{{tensors}}", &tensors.join(separator))
}

/// What is sent for one input.
struct Given {
    name: String,
    datatype: &'static str,
    shape: String,
    values: Values,
}

enum Values {
    /// Numbers as JSON has them, separated by commas.
    Written(String),
    /// So many zeros.
    Zeros(u64, &'static str),
}

impl Given {
    fn new(spec: &TensorSpec, given: Option<&BTreeMap<String, Tensor>>) -> Self {
        let given = given.and_then(|tensors| tensors.get(&spec.name));
        let size = |dim: &Dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Symbol(_) => 1,
        };
        let shape: Vec<u64> = given.map_or_else(|| spec.shape.iter().map(size).collect(), |t| t.shape().to_vec());
        let zero = if spec.dtype == Dtype::Bool { "false" } else { "0" };
        let values = match given {
            Some(tensor) => Values::Written(written(tensor)),
            None => Values::Zeros(shape.iter().product(), zero),
        };
        let shape: Vec<String> = shape.iter().map(u64::to_string).collect();
        Self { name: spec.name.clone(), datatype: spec.dtype.oip_name(), shape: shape.join(", "), values }
    }
}

fn written(tensor: &Tensor) -> String {
    let value = muster_agent::engine::json::tensor_to_json(tensor);
    let all = value["data"].as_array().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
    all.unwrap_or_default().join(", ")
}

/// `text` within double quotes of any of the languages, and of JSON.
fn escaped(text: &str) -> String {
    text.replace(|c: char| c.is_control(), "?").replace('\\', "\\\\").replace('"', "\\\"")
}

impl Language {
    fn template(self) -> &'static str {
        match self {
            Self::Python => include_str!("client/python.txt"),
            Self::Java => include_str!("client/java.txt"),
            Self::Csharp => include_str!("client/csharp.txt"),
            Self::Curl => include_str!("client/curl.txt"),
            Self::Rust => include_str!("client/rust.txt"),
        }
    }

    /// One input as an expression of the language.
    fn tensor(self, given: &Given) -> String {
        let Given { name, datatype, shape, values } = given;
        // Where a text holds a JSON text, the name is quoted twice.
        let (once, twice) = (escaped(name), escaped(&escaped(name)));
        let call = |indent: &str, function: &str, many: &str| {
            let data = match values {
                Values::Written(text) => format!("\"{text}\""),
                Values::Zeros(count, zero) => format!("{many}(\"{zero}\", {count})"),
            };
            format!("{indent}{function}(\"{twice}\", \"{datatype}\", \"{shape}\", {data})")
        };
        match self {
            Self::Python => {
                let data = match values {
                    Values::Written(text) => {
                        format!("[{}]", text.replace("true", "True").replace("false", "False").replace("null", "None"))
                    }
                    Values::Zeros(count, "false") => format!("[False] * {count}"),
                    Values::Zeros(count, zero) => format!("[{zero}] * {count}"),
                };
                format!(
                    "        {{\"name\": \"{once}\", \"datatype\": \"{datatype}\", \"shape\": [{shape}], \"data\": {data}}}"
                )
            }
            Self::Java => call("            ", "tensor", "many"),
            Self::Csharp => call("    ", "Tensor", "Many"),
            // What borrows the text of zeros lives as long as the list.
            Self::Rust => match values {
                Values::Written(_) => call("        ", "tensor", "many"),
                Values::Zeros(..) => call("        ", "tensor", "&many"),
            },
            Self::Curl => {
                let data = match values {
                    Values::Written(text) => text.clone(),
                    Values::Zeros(count, zero) => format!("'\"$(many {zero} {count})\"'"),
                };
                let name = once.replace('\'', "'\\''");
                let tensor = format!(
                    "  {{\"name\": \"{name}\", \"datatype\": \"{datatype}\", \"shape\": [{shape}], \"data\": [{data}]}}"
                );
                format!("'{tensor}'")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn specs() -> Vec<TensorSpec> {
        let spec = |name: &str, dtype, shape: Vec<Dim>| TensorSpec { name: name.into(), dtype, shape };
        vec![
            spec("im\"a'ge", Dtype::F32, vec![Dim::Symbol("N".into()), Dim::Fixed(2)]),
            spec("mask", Dtype::Bool, vec![Dim::Fixed(300)]),
        ]
    }

    fn sample() -> Sample {
        let image = Tensor::from_f32(vec![1, 2], &[0.5, -1.0]).expect("fits");
        let mask = Tensor::new(Dtype::Bool, vec![300], vec![1; 300]).expect("fits");
        let inputs = BTreeMap::from([("im\"a'ge".to_owned(), image), ("mask".to_owned(), mask)]);
        Sample { name: "one".into(), inputs, outputs: BTreeMap::new() }
    }

    #[test]
    fn each_language_has_its_program() {
        for language in Language::value_variants() {
            for example in [None, Some(sample())] {
                let text = write(*language, "http://localhost:1/v2/models/x/infer", &specs(), example.as_ref());
                assert!(text.contains("http://localhost:1/v2/models/x/infer"), "{text}");
                assert!(!text.contains("{{tensors") && !text.contains("{{url"), "{text}");
                assert_eq!(text.contains("-1.0"), example.is_some(), "{text}");
            }
        }
    }

    /// What the programs of the languages that every system has would send, is what is meant.
    #[test]
    fn what_is_sent_is_json_whatever_the_input_is_called() {
        for (language, program, from, to) in [
            (
                Language::Python,
                "python3",
                "request = urllib",
                "print(json.dumps(body)); raise SystemExit\nrequest = urllib",
            ),
            (Language::Curl, "sh", "printf %s \"$body\" |", "printf %s \"$body\"; exit; "),
        ] {
            for (example, image) in [(None, [0.0, 0.0]), (Some(sample()), [0.5, -1.0])] {
                let text = write(language, "http://localhost:1/", &specs(), example.as_ref()).replace(from, to);
                let Ok(ran) = Command::new(program).arg("-c").arg(&text).stderr(Stdio::inherit()).output() else {
                    eprintln!("not run: there is no {program}");
                    continue;
                };
                let body: serde_json::Value = serde_json::from_slice(&ran.stdout).expect(&text);
                let [first, second] = body["inputs"].as_array().expect("a list").as_slice() else { panic!("{body}") };
                assert_eq!((&first["name"], &first["datatype"]), (&"im\"a'ge".into(), &"FP32".into()));
                assert_eq!((first["shape"].to_string(), second["shape"].to_string()), ("[1,2]".into(), "[300]".into()));
                let data: Vec<f64> =
                    first["data"].as_array().expect("a list").iter().filter_map(|n| n.as_f64()).collect();
                assert_eq!(data, image);
                let mask = second["data"].as_array().expect("a list");
                assert!(mask.len() == 300 && mask.iter().all(|b| b.as_bool() == Some(example.is_some())), "{mask:?}");
            }
        }
    }
}
