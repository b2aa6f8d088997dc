//! `muster batch render`, and what `muster batch run --target kubernetes` has in common with it.

use std::collections::BTreeMap;

use muster_agent::batch;
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::output::print;
use crate::cli::parse::{VersionSpec, pair};
use crate::cluster::plan::job::{self, Job, Model, Volume};
use crate::cluster::render::yaml_of;

pub(super) const EXAMPLES: &str = "\
Examples:
  muster batch render --model digits:2 --image registry.example/digits:2 --shards 8 \\
    --volume rows:/data:ro --volume results:/results \\
    --input '/data/*.csv' --keep id --output /results/nightly | kubectl apply -f -
  muster batch render --model digits:2 --image registry.example/muster-agent:0.1.0 \\
    --fetch-from https://hub.example:8420 --token-secret muster-key \\
    --input 'https://store.example/rows.csv?sig=…' --output 'https://store.example/run-7/{name}?sig=…'

Each pod scores one shard. URLs with a query go into a Secret of the job's name.";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The version.
    #[arg(long, value_name = "MODEL:VERSION")]
    model: VersionSpec,
    #[command(flatten)]
    run: batch::Args,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "On Kubernetes")]
pub(super) struct ClusterArgs {
    /// The image: one that `muster image build` made of the version, or the agent alone with --fetch-from.
    #[arg(long)]
    pub(super) image: Option<String>,
    /// The job's name; made of the model's unless given.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The namespace.
    #[arg(long, value_name = "NAME", default_value = "default")]
    namespace: String,
    /// How many shards the rows are dealt out to, each a pod.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    shards: u32,
    /// How many pods run at once; all unless given.
    #[arg(long, value_name = "COUNT")]
    parallelism: Option<u32>,
    /// How often a shard is tried again.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    retries: u32,
    /// A claim of a volume and where pods see it. Repeat it for several.
    #[arg(long, value_name = "CLAIM:/PATH[:ro]", value_parser = volume)]
    volume: Vec<Volume>,
    /// Processors of a pod, in thousandths.
    #[arg(long, value_name = "THOUSANDTHS", default_value_t = 1000)]
    cpu: u64,
    /// Memory of a pod, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    memory: u64,
    /// Disk of a pod for fetched inputs, and for results until they were sent, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    scratch: u64,
    /// Let pods fetch the version from this dispatcher, instead of having it in their image.
    #[arg(long, value_name = "URL", requires = "token_secret")]
    fetch_from: Option<String>,
    /// The Secret whose key `token` is an API key that may read.
    #[arg(long, value_name = "NAME", requires = "fetch_from")]
    token_secret: Option<String>,
    /// The secret with the registry's password.
    #[arg(long, value_name = "NAME")]
    pull_secret: Option<String>,
    /// The account of the pods.
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
    /// A label that nodes have to have. Repeat it for several.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    node_selector: Vec<(String, String)>,
    /// Remove the job so many seconds after its end.
    #[arg(long, value_name = "SECONDS")]
    ttl_seconds: Option<u32>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (_, objects) = args.cluster.plan(&args.model, &args.run)?;
    Ok(print(&objects.iter().map(yaml_of).collect::<String>())?)
}

impl ClusterArgs {
    /// The Job of a run, and its objects in the order in which they are applied.
    pub(super) fn plan(&self, model: &VersionSpec, run: &batch::Args) -> anyhow::Result<(Job, Vec<Value>)> {
        if run.shard.is_some() {
            return Err(Failure::usage("--shard is each pod's own", "say how many there are by --shards").into());
        }
        if run.restart {
            let next = "name another output, or remove what is there";
            return Err(Failure::usage("with --restart each pod that is tried again would begin again", next).into());
        }
        let Some(image) = &self.image else {
            let next = "name one that `muster image build` made of the version, or the agent's with --fetch-from";
            return Err(Failure::usage("pods need an --image", next).into());
        };
        // What the pods would refuse is refused here.
        run.options(None).map_err(super::failure)?;
        let job = self.job(image, model, run);
        let objects = job::plan(&job)
            .map_err(|error| Failure::usage(error.to_string(), "see the examples of `muster batch render --help`"))?;
        Ok((job, objects))
    }

    fn job(&self, image: &str, model: &VersionSpec, run: &batch::Args) -> Job {
        let (VersionSpec { name, version }, cluster) = (model, self);
        let about = format!("{name}:{version}");
        let usual = || format!("batch-{}-{version}", name.default_slot()).replace(['_', '.'], "-").to_lowercase();
        let model = match (&cluster.fetch_from, &cluster.token_secret) {
            (Some(url), Some(secret)) => {
                Model::Dispatcher { version: about.clone(), url: url.clone(), secret: secret.clone() }
            }
            _ => Model::Image,
        };
        Job {
            name: cluster.name.clone().unwrap_or_else(usual),
            namespace: cluster.namespace.clone(),
            about,
            image: image.to_owned(),
            model,
            inputs: run.input.clone(),
            output: run.output.clone(),
            args: run.words(),
            shards: cluster.shards,
            parallelism: cluster.parallelism.unwrap_or(cluster.shards),
            retries: cluster.retries,
            cpu: cluster.cpu,
            memory: cluster.memory << 20,
            scratch: cluster.scratch << 20,
            volumes: cluster.volume.clone(),
            pull_secret: cluster.pull_secret.clone(),
            service_account: cluster.service_account.clone(),
            node_selector: cluster.node_selector.iter().cloned().collect::<BTreeMap<_, _>>(),
            ttl_seconds: cluster.ttl_seconds,
        }
    }
}

fn volume(text: &str) -> Result<Volume, String> {
    let wrong = || format!("{text:?} is not CLAIM:/PATH, or CLAIM:/PATH:ro for reading only");
    let (claim, rest) = text.split_once(':').ok_or_else(wrong)?;
    let (path, read_only) = match rest.strip_suffix(":ro") {
        Some(path) => (path, true),
        None => (rest, false),
    };
    if claim.is_empty() || !path.starts_with('/') || path.len() < 2 || path.contains([':', ',']) {
        return Err(wrong());
    }
    Ok(Volume { claim: claim.to_owned(), path: path.to_owned(), read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_claims_with_a_path() {
        let read = |text: &str| volume(text).ok().map(|volume| (volume.claim, volume.path, volume.read_only));
        assert_eq!(read("rows:/data:ro"), Some(("rows".into(), "/data".into(), true)));
        assert_eq!(read("results:/out/a"), Some(("results".into(), "/out/a".into(), false)));
        for bad in ["rows", "rows:data", ":/data", "rows:/", "rows:/data:rw"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
