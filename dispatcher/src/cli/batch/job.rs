//! `muster batch run --target kubernetes`: makes the Job with one's own rights on the cluster, and follows it.

use std::collections::BTreeSet;

use muster_proto::code::Code;
use serde_json::json;

use super::RunArgs;
use crate::cli::Failure;
use crate::cli::output::Output;
use crate::cli::parse::VersionSpec;
use crate::cluster::jobs::{Ended, Standing};
use crate::cluster::watch::Patience;
use crate::cluster::{self, Cluster};
use crate::domain::service::Kubernetes;

/// How one gets to the cluster.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "On Kubernetes")]
pub(super) struct Place {
    /// The kubeconfig; KUBECONFIG, the home folder's or the pod's own account without it.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// The context of the kubeconfig; its current one without it.
    #[arg(long, value_name = "NAME")]
    kube_context: Option<String>,
    /// Make the job, and do not wait for its end.
    #[arg(long)]
    no_wait: bool,
}

pub(super) fn run(args: &RunArgs, out: Output) -> anyhow::Result<()> {
    let Some(version) = args.model.version else {
        let next = format!("name it, e.g. --model {}:1", args.model.name);
        return Err(Failure::usage("pods score with one version", next).into());
    };
    let version = VersionSpec { name: args.model.name.clone(), version };
    let (job, objects) = args.cluster.plan(&version, &args.run)?;
    let place = Kubernetes {
        kubeconfig: args.place.kubeconfig.clone(),
        context: args.place.kube_context.clone(),
        namespace: job.namespace.clone(),
        ..Kubernetes::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cluster = Cluster::connect(&place).await.map_err(failure)?;
        let made = cluster.make_job(&objects).await.map_err(taken)?;
        let name = format!("{}/{}", job.namespace, job.name);
        out.note(&format!("Job {name} {}.", if made { "is made" } else { "is there already, from the same words" }));
        if args.place.no_wait {
            let value = json!({ "job": job.name, "namespace": job.namespace, "made": made });
            return Ok(out.value(&value, || format!("kubectl -n {} get job {}", job.namespace, job.name))?);
        }
        let standing = follow(&cluster, &job.namespace, &job.name, out).await?;
        conclude(&standing, &job.namespace, &job.name, &args.run.output, out)
    })
}

async fn follow(cluster: &Cluster, namespace: &str, name: &str, out: Output) -> anyhow::Result<Standing> {
    let bar = out.bar(0, "{msg} {bar:30} {pos} of {len} shards, {elapsed}");
    let mut said = BTreeSet::new();
    let told = |standing: &Standing, trouble: Option<&cluster::Error>| {
        bar.set_length(standing.shards);
        bar.set_position(standing.done);
        bar.set_message(format!("{} at work", standing.active));
        let line = match trouble {
            Some(error) => error.to_string(),
            None => format!("{} of {} shards are done", standing.done, standing.shards),
        };
        // Each line once; a bar shows the rest.
        if (trouble.is_some() || !out.shows_progress()) && said.insert(line.clone()) {
            bar.suspend(|| out.note(&line));
        }
    };
    let followed = cluster.follow_job(namespace, name, Patience::default(), told);
    let outcome = tokio::select! {
        outcome = followed => outcome,
        _ = tokio::signal::ctrl_c() => {
            bar.finish_and_clear();
            let next = "the job goes on; give the same command again to follow it";
            return Err(Failure::new(Code::Superseded, "no longer followed").with_next(next).into());
        }
    };
    bar.finish_and_clear();
    Ok(outcome.map_err(failure)?)
}

fn conclude(standing: &Standing, namespace: &str, name: &str, output: &str, out: Output) -> anyhow::Result<()> {
    let value = json!({
        "job": name, "namespace": namespace, "shards": standing.shards, "done": standing.done,
        "failed_shards": standing.failed, "complete": standing.ended == Some(Ended::Complete),
    });
    let words = || format!("{} of {} shards are done; the results are in {output}.", standing.done, standing.shards);
    out.value(&value, words)?;
    let failed = |what: String, next: String| Err(Failure::new(Code::InputInvalid, what).with_next(&next).into());
    match &standing.ended {
        Some(Ended::Failed(reason)) => failed(
            format!("shards {} have failed: {reason}", standing.failed),
            format!("kubectl -n {namespace} logs -l batch.kubernetes.io/job-name={name} --tail=20"),
        ),
        Some(Ended::Gone) => failed("somebody has deleted the job".into(), "start it again by the same command".into()),
        Some(Ended::Complete) | None => Ok(()),
    }
}

fn taken(error: cluster::Error) -> Failure {
    match &error {
        cluster::Error::Taken { subject, owner } => {
            let next = format!("name this one by --name, or delete that one by kubectl: {subject}");
            Failure::new(Code::Conflict, format!("{subject} is there, {owner}")).with_next(&next)
        }
        _ => failure(error),
    }
}

fn failure(error: cluster::Error) -> Failure {
    let code = if error.is_transient() { Code::Overloaded } else { Code::BadRequest };
    Failure::new(code, format!("{error} [{}]", error.code())).with_next(error.next_step())
}
