//! `muster model`.

pub(super) mod download;
mod register;

pub(super) use register::as_it_is;

use std::path::PathBuf;

use clap::Subcommand;

use super::Session;
use super::client::{query, segment};
use super::output::{facts, list, micros, pairs, size, table, when};
use super::parse::{Change, ModelSpec, VersionSpec, pair};
use crate::app::{ModelSummary, ModelView};
use crate::http::List;
use crate::http::models::TagChange;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Upload a model's files, have them checked on the devices' engine, and sign them as the next version.
    #[command(after_help = register::EXAMPLES)]
    Register(Box<register::RegisterArgs>),
    /// List versions.
    #[command(after_help = "\
Examples:
  muster model list
  muster model list 'vision/*' --tag stage=production")]
    List {
        /// Only this model, or with a trailing `*` those whose names begin so.
        name: Option<String>,
        /// Only versions with this tag. Repeat it to ask for several.
        #[arg(long, short, value_name = "KEY[=VALUE]")]
        tag: Vec<String>,
        /// Only versions with this property. Repeat it to ask for several.
        #[arg(long, value_name = "KEY[=VALUE]")]
        property: Vec<String>,
    },
    /// Show a version in full; the newest unless one is named.
    #[command(after_help = "Example:\n  muster model show vision/digits:2")]
    Show {
        /// The model, e.g. `digits` or `digits:2`.
        #[arg(value_name = "MODEL[:VERSION]")]
        model: ModelSpec,
    },
    /// Download a version's files into a new folder, and verify each against the signed manifest.
    #[command(after_help = "Example:\n  muster model download vision/digits:2 --to digits-2")]
    Download {
        /// The model; its newest version unless one is named.
        #[arg(value_name = "MODEL[:VERSION]")]
        model: ModelSpec,
        /// The folder to make; `NAME-VERSION` here unless given.
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
    /// Set and remove tags of a version. Tags are not signed and may change at any time.
    #[command(after_help = "Example:\n  muster model tag digits:2 stage=production candidate-")]
    Tag {
        /// The version.
        #[arg(value_name = "MODEL:VERSION")]
        model: VersionSpec,
        /// `key=value` sets a tag, `key-` removes it.
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        changes: Vec<Change>,
    },
    /// Delete a version. Refused while a device or rollout desires it; its number is never used again.
    #[command(after_help = "Example:\n  muster model delete digits:1")]
    Delete {
        /// The version.
        #[arg(value_name = "MODEL:VERSION")]
        model: VersionSpec,
    },
}

pub(super) fn run(command: Command, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    match command {
        Command::Register(args) => register::run(&args, session),
        Command::List { name, tag, property } => {
            let name = name.into_iter().map(|name| ("name", name));
            let tags = tag.into_iter().map(|tag| ("tag", tag));
            let properties = property.into_iter().map(|property| ("property", property));
            let answer = client.get(&format!("/v1/models{}", query(name.chain(tags).chain(properties))))?;
            out.answer(&answer, versions)
        }
        Command::Show { model } => out.answer(&client.get(&path(&model))?, show),
        Command::Download { model, to } => download::run(&model, to, session),
        Command::Tag { model, changes } => {
            let mut change = TagChange::default();
            for one in changes {
                match one {
                    Change::Set(key, value) => drop(change.set.insert(key, value)),
                    Change::Remove(key) => change.remove.push(key),
                }
            }
            let answer = client.patch(&format!("{}/tags", version_path(&model)), &change)?;
            out.answer(&answer, |tags: &std::collections::BTreeMap<String, String>| {
                table(["TAG", "VALUE"], tags.iter().map(|(key, value)| [key.clone(), value.clone()]))
            })
        }
        Command::Delete { model } => {
            client.delete(&version_path(&model))?;
            out.note(&format!("{}:{} is deleted.", model.name, model.version));
            Ok(())
        }
    }
}

fn path(model: &ModelSpec) -> String {
    match model.version {
        Some(version) => version_path(&VersionSpec { name: model.name.clone(), version }),
        None => format!("/v1/models/{}", segment(&model.name)),
    }
}

pub(in crate::cli) fn version_path(model: &VersionSpec) -> String {
    format!("/v1/models/{}/versions/{}", segment(&model.name), model.version)
}

pub(super) fn versions(all: &List<ModelSummary>) -> String {
    table(
        ["MODEL", "VERSION", "SIZE", "INFERENCE", "REGISTERED", "TAGS"],
        all.items.iter().map(|v| {
            [
                v.model.to_string(),
                v.version.to_string(),
                size(v.size),
                micros(v.inference_us),
                when(v.created_at),
                pairs(&v.tags),
            ]
        }),
    )
}

pub(super) fn show(view: &ModelView) -> String {
    let (summary, manifest) = (&view.summary, &view.manifest);
    let tensors = |specs: &[muster_proto::manifest::TensorSpec]| list(specs.iter().map(tensor));
    let operators = manifest.measured.operators.iter().map(|(name, count)| format!("{name}×{count}"));
    let mut text = facts([
        ("model", format!("{}:{}", summary.model, summary.version)),
        ("description", summary.description.clone()),
        ("registered", format!("{} by {}", when(summary.created_at), summary.created_by)),
        ("tags", pairs(&summary.tags)),
        ("properties", pairs(&summary.properties)),
        ("manifest", summary.digest.to_string()),
        ("target", view.target.clone()),
        ("engine", format!("{} {}", manifest.engine.name, manifest.engine.version)),
        ("inputs", tensors(&manifest.inputs)),
        ("outputs", tensors(&manifest.outputs)),
        ("samples", samples(&manifest.samples)),
        ("parameters", summary.parameters.to_string()),
        ("operators", list(operators)),
        ("memory", size(manifest.measured.memory_bytes)),
        ("inference", format!("{} at registration", micros(summary.inference_us))),
        ("travels as", size(summary.blob_size)),
        ("desired by", view.desired_by.join(", ")),
    ]);
    text.push_str("\n\n");
    let file = |f: &muster_proto::manifest::File| {
        let usage = match &f.path {
            path if *path == manifest.entry => "entry",
            path if manifest.script.as_ref().is_some_and(|script| script.file == *path) => "script",
            path if *path == manifest.samples.file => "samples",
            _ => "",
        };
        [f.path.to_string(), size(f.size), f.digest.short(), usage.to_owned()]
    };
    text.push_str(&table(["FILE", "SIZE", "SHA-256", "USE"], manifest.files.iter().map(file)));
    text
}

fn samples(samples: &muster_proto::manifest::Samples) -> String {
    let from = match samples.outputs_from {
        muster_proto::manifest::OutputsFrom::Given => "outputs from where it was trained",
        muster_proto::manifest::OutputsFrom::Engine => {
            "outputs from the engine itself, never compared with the training"
        }
    };
    format!(
        "{}, {from}, tolerance {} + {} × value",
        samples.count, samples.tolerance.absolute, samples.tolerance.relative
    )
}

/// `images f32 1x3x224x224`.
fn tensor(spec: &muster_proto::manifest::TensorSpec) -> String {
    use muster_proto::manifest::Dim;
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => size.to_string(),
        Dim::Symbol(name) => name.clone(),
    };
    let dims = spec.shape.iter().map(dim).collect::<Vec<_>>().join("x");
    format!("{}:{}[{dims}]", spec.name, spec.dtype)
}

/// `key=value` arguments as a map.
fn map(pairs: &[(String, String)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

/// For clap: `key=value`.
fn key_value(text: &str) -> Result<(String, String), String> {
    pair(text)
}
