//! Batch scoring as an Indexed Job: each pod scores one shard, under the restricted Pod Security Standard. Pure.
//!
//! URLs with signatures go into a Secret and reach the program by its environment, so that whoever may read pods does
//! not read them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::config::BUNDLE;
use super::pod::USER;
use super::quantity::{bytes, millicores};
use crate::cluster::names::{MANAGED_BY, check_dns, check_label};
use crate::cluster::{Error, MANAGER};

/// Where what is not whole yet lies, and fetched files.
pub const SCRATCH: &str = "/scratch";
/// The exit code of wrong usage: another try cannot help.
const EXIT_USAGE: u8 = 64;
/// So long a pod may take to end what is under way and to write its journal, in seconds.
const GRACE_SECONDS: u64 = 60;

/// Why a Job is not planned. A retry with the same cannot help.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A name breaks a rule of Kubernetes.
    #[error(transparent)]
    Name(#[from] Error),
    /// It contradicts itself.
    #[error("{0}")]
    Rule(String),
}

/// A claim of a volume, and where pods see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The claim's name.
    pub claim: String,
    /// Where it is mounted.
    pub path: String,
    /// Whether it may be read only.
    pub read_only: bool,
}

/// Where the pods' model comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Model {
    /// The bundle in the image.
    Image,
    /// A dispatcher; its key is `token` of a secret.
    Dispatcher {
        /// The version, as NAME:VERSION.
        version: String,
        /// Its address.
        url: String,
        /// The secret's name.
        secret: String,
    },
}

/// What a Job is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What the model is called, for people.
    pub about: String,
    /// The image, of `muster image build` or of the agent alone.
    pub image: String,
    /// Where the model comes from.
    pub model: Model,
    /// Inputs as pods see them: paths in volumes, and URLs.
    pub inputs: Vec<String>,
    /// Where results go: a folder in a volume, or a URL.
    pub output: String,
    /// All other words for `muster-agent batch`.
    pub args: Vec<String>,
    /// How many shards there are.
    pub shards: u32,
    /// How many pods run at once.
    pub parallelism: u32,
    /// How often a shard is tried again.
    pub retries: u32,
    /// The request in thousandths of a processor, which is also the limit.
    pub cpu: u64,
    /// The request in bytes, which is also the limit.
    pub memory: u64,
    /// The most bytes of a pod's own disk.
    pub scratch: u64,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// The secret with the registry's password.
    pub pull_secret: Option<String>,
    /// The account of the pods.
    pub service_account: Option<String>,
    /// Labels that nodes have to have.
    pub node_selector: BTreeMap<String, String>,
    /// After how many seconds a Job that has ended is removed.
    pub ttl_seconds: Option<u32>,
}

/// The objects of `job`, in the order in which they are applied.
pub fn plan(job: &Job) -> Result<Vec<Value>, Refused> {
    check(job)?;
    let words = Words::of(job);
    let mut objects = Vec::new();
    if !words.secrets.is_empty() {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": metadata(job), "type": "Opaque",
            "stringData": words.secrets,
        }));
    }
    objects.push(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(job), "spec": spec(job, &words),
    }));
    Ok(objects)
}

fn metadata(job: &Job) -> Value {
    json!({
        "name": job.name, "namespace": job.namespace, "labels": labels(job),
        "annotations": { "muster.dev/model": job.about },
    })
}

fn labels(job: &Job) -> Value {
    json!({
        "app.kubernetes.io/name": job.name,
        "app.kubernetes.io/component": "batch",
        MANAGED_BY: MANAGER,
    })
}

/// The program's words, and which of them come from a secret.
struct Words {
    args: Vec<String>,
    /// By key of the secret, which is the variable's name.
    secrets: BTreeMap<String, String>,
}

impl Words {
    fn of(job: &Job) -> Self {
        let mut words = Self { args: vec!["batch".into()], secrets: BTreeMap::new() };
        match &job.model {
            Model::Image => words.args.push(BUNDLE.into()),
            Model::Dispatcher { version, url, .. } => {
                let cache = format!("{SCRATCH}/models");
                let all = [version, "--dispatcher", url, "--cache", &cache];
                words.args.extend(all.map(escape));
            }
        }
        for (index, input) in job.inputs.iter().enumerate() {
            let word = words.hide(&format!("INPUT_{index}"), input);
            words.args.extend(["--input".to_owned(), word]);
        }
        let output = words.hide("OUTPUT", &job.output);
        words.args.extend(["--output".to_owned(), output]);
        let fixed = ["--shard", &format!("/{}", job.shards), "--work", &format!("{SCRATCH}/work"), "--exit-zero"];
        words.args.extend(fixed.map(str::to_owned));
        words.args.extend(job.args.iter().map(|word| escape(word)));
        words
    }

    /// A word that refers to a variable where it is a URL with a signature.
    fn hide(&mut self, name: &str, word: &str) -> String {
        if !word.contains("://") || !word.contains('?') {
            return escape(word);
        }
        self.secrets.insert(name.to_owned(), word.to_owned());
        format!("$({name})")
    }
}

/// Kubernetes replaces `$(NAME)` in words.
fn escape(word: &str) -> String {
    word.replace("$(", "$$(")
}

fn spec(job: &Job, words: &Words) -> Value {
    let mut spec = json!({
        "completionMode": "Indexed",
        "completions": job.shards,
        "parallelism": job.parallelism.min(job.shards),
        "backoffLimitPerIndex": job.retries,
        "podFailurePolicy": { "rules": [
            // A node that goes away is not the shard's fault.
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
            { "action": "FailIndex", "onExitCodes": { "containerName": "batch", "operator": "In", "values": [EXIT_USAGE] } },
        ] },
        "template": { "metadata": { "labels": labels(job) }, "spec": pod(job, words) },
    });
    if let Some(seconds) = job.ttl_seconds {
        spec["ttlSecondsAfterFinished"] = json!(seconds);
    }
    spec
}

fn pod(job: &Job, words: &Words) -> Value {
    let mut spec = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container(job, words)],
        "volumes": volumes(job),
    });
    if let Some(secret) = &job.pull_secret {
        spec["imagePullSecrets"] = json!([{ "name": secret }]);
    }
    if let Some(account) = &job.service_account {
        spec["serviceAccountName"] = json!(account);
    }
    if !job.node_selector.is_empty() {
        spec["nodeSelector"] = json!(job.node_selector);
    }
    spec
}

fn container(job: &Job, words: &Words) -> Value {
    let amount = json!({ "cpu": millicores(job.cpu), "memory": bytes(job.memory) });
    let of_secret = |name: &str, secret: &str, key: &str| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": secret, "key": key } } });
    let mut env: Vec<Value> = words.secrets.keys().map(|key| of_secret(key, &job.name, key)).collect();
    if let Model::Dispatcher { secret, .. } = &job.model {
        env.push(of_secret("MUSTER_TOKEN", secret, "token"));
    }
    let mut container = json!({
        "name": "batch",
        "image": job.image,
        "imagePullPolicy": "IfNotPresent",
        "args": words.args,
        "resources": { "requests": amount, "limits": amount },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(job),
    });
    if !env.is_empty() {
        container["env"] = json!(env);
    }
    container
}

fn mounts(job: &Job) -> Value {
    let claims = job.volumes.iter().enumerate().map(|(index, volume)| {
        json!({ "name": format!("data-{index}"), "mountPath": volume.path, "readOnly": volume.read_only })
    });
    std::iter::once(json!({ "name": "scratch", "mountPath": SCRATCH })).chain(claims).collect()
}

fn volumes(job: &Job) -> Value {
    let claims = job.volumes.iter().enumerate().map(|(index, volume)| {
        let claim = json!({ "claimName": volume.claim, "readOnly": volume.read_only });
        json!({ "name": format!("data-{index}"), "persistentVolumeClaim": claim })
    });
    let scratch = json!({ "name": "scratch", "emptyDir": { "sizeLimit": bytes(job.scratch) } });
    std::iter::once(scratch).chain(claims).collect()
}

fn check(job: &Job) -> Result<(), Refused> {
    check_label("the job's name", &job.name)?;
    check_label("the namespace", &job.namespace)?;
    for volume in &job.volumes {
        check_dns("the volume's claim", &volume.claim)?;
    }
    let refuse = |reason: String| Err(Refused::Rule(reason));
    let is_url = |text: &str| text.contains("://");
    let is_mounted = |path: &str| job.volumes.iter().any(|volume| below(path, &volume.path));
    if let Some(path) = job.inputs.iter().find(|path| !is_url(path) && !is_mounted(path)) {
        return refuse(format!("no volume holds the input {path}; mount one by --volume CLAIM:/PATH"));
    }
    let is_written = |path: &str| job.volumes.iter().any(|volume| !volume.read_only && below(path, &volume.path));
    if !is_url(&job.output) && !is_written(&job.output) {
        return refuse(format!("no volume that may be written holds the output {}", job.output));
    }
    if is_url(&job.output) && job.shards > 1 && !job.output.contains("{name}") {
        return refuse("each shard writes files of its own: put {name} into the output's URL".into());
    }
    match (job.shards, job.parallelism) {
        (0, _) | (_, 0) => refuse("a job has at least one shard, and one pod at once".into()),
        (shards, _) if shards > 100_000 => refuse(format!("{shards} shards, and a job has at most 100000")),
        _ => Ok(()),
    }
}

/// Whether `path` is `folder` or below it.
fn below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::render::yaml_of;

    /// Inputs and results in volumes, the model in the image.
    fn job() -> Job {
        Job {
            name: "digits-nightly".into(),
            namespace: "models".into(),
            about: "digits:2".into(),
            image: "registry.example/muster/digits:2".into(),
            model: Model::Image,
            inputs: vec!["/data/rows/*.csv".into()],
            output: "/results/nightly".into(),
            args: vec!["--keep".into(), "id".into()],
            shards: 8,
            parallelism: 4,
            retries: 3,
            cpu: 1000,
            memory: 512 << 20,
            scratch: 1 << 30,
            volumes: vec![
                Volume { claim: "rows".into(), path: "/data".into(), read_only: true },
                Volume { claim: "results".into(), path: "/results".into(), read_only: false },
            ],
            pull_secret: None,
            service_account: None,
            node_selector: BTreeMap::new(),
            ttl_seconds: None,
        }
    }

    /// Everything from and to the web.
    fn remote() -> Job {
        let url = "https://hub.example:8420".into();
        Job {
            model: Model::Dispatcher { version: "vision/digits:2".into(), url, secret: "muster-key".into() },
            image: "registry.example/muster/agent:0.1.0".into(),
            inputs: vec!["https://s3.example/rows.csv?sig=in".into(), "https://open.example/rows.csv".into()],
            output: "https://store.blob.core.windows.net/scores/{name}?sig=out".into(),
            args: vec!["--keep".into(), "$(HOME)".into()],
            volumes: Vec::new(),
            pull_secret: Some("registry".into()),
            service_account: Some("scorer".into()),
            node_selector: BTreeMap::from([("pool".into(), "batch".into())]),
            ttl_seconds: Some(86_400),
            ..job()
        }
    }

    #[test]
    fn jobs_are_what_is_checked_in() {
        for (name, job) in [("job", job()), ("job_remote", remote())] {
            let text: String = plan(&job).expect("plans").iter().map(yaml_of).collect();
            crate::golden::compare(&format!("cluster/{name}.yaml"), &text);
        }
    }

    #[test]
    fn signatures_are_in_the_secret_alone() {
        let objects = plan(&remote()).expect("plans");
        assert_eq!(objects[0]["stringData"]["OUTPUT"], remote().output);
        let job = objects[1].to_string();
        assert!(!job.contains("sig=") && job.contains("$(OUTPUT)") && job.contains("$$(HOME)"), "{job}");
    }

    #[test]
    fn what_pods_could_not_reach_is_refused() {
        let table = [
            (Job { inputs: vec!["/elsewhere/a.csv".into()], ..job() }, "no volume holds the input /elsewhere/a.csv"),
            (Job { inputs: vec!["/database/a.csv".into()], ..job() }, "no volume holds the input /database/a.csv"),
            (Job { output: "/data/out".into(), ..job() }, "no volume that may be written"),
            (Job { output: "https://h/x?sig=s".into(), ..job() }, "put {name} into the output's URL"),
            (Job { shards: 0, ..job() }, "at least one shard"),
            (Job { name: "Digits".into(), ..job() }, "Digits"),
        ];
        for (job, want) in table {
            let error = plan(&job).expect_err(want).to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
