//! `muster service create`.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use muster_proto::id::ModelName;

use crate::app::{CreatedService, Kubernetes, Local, ServiceDocument, Settings, Target};
use crate::cli::model::as_it_is;
use crate::cli::rollout::read_document;
use crate::cli::{Failure, Session};
use crate::domain::service::{Load, PullPolicy, Replicas, ServiceType};

pub(super) const EXAMPLES: &str = "\
Examples:
  muster service create digits --model digits:1 --target local
  muster service create digits --model digits:1 --port 8500 --concurrency 4
  muster service create digits --file digits.onnx
  muster service create digits --model digits:1 --target kubernetes --image registry.example/digits:1
  muster service create -f digits.toml

The keys are printed once. Ask the service with one of them:
  curl -H \"Authorization: Bearer KEY\" -d @image.json http://127.0.0.1:8500/score";

/// Where a service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Where {
    /// A process beside the dispatcher.
    Local,
    /// A cluster.
    Kubernetes,
}

/// How many containers answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Count {
    /// So many.
    Fixed(u32),
    /// Between so many and so many.
    Between(u32, u32),
}

impl FromStr for Count {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is no number; write 3, or 2-8"));
        match text.split_once('-') {
            Some((min, max)) => Ok(Self::Between(number(min)?, number(max)?)),
            None => Ok(Self::Fixed(number(text)?)),
        }
    }
}

impl Count {
    pub(super) fn replicas(self, now: Replicas) -> Replicas {
        let target = match now {
            Replicas::Auto { target, .. } => target,
            Replicas::Fixed(_) => Load::Cpu(70),
        };
        match self {
            Self::Fixed(count) => Replicas::Fixed(count),
            Self::Between(min, max) => Replicas::Auto { min, max, target },
        }
    }
}

/// What may be set when a service is made, and changed later.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::cli) struct Knobs {
    /// Requests that run at once in one container.
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<u32>,
    /// Requests that wait in one container; more are told to come back (503).
    #[arg(long, value_name = "COUNT")]
    queue: Option<u32>,
    /// Items of several requests that a container computes at once where it finds that faster; 0 for none.
    #[arg(long, value_name = "COUNT")]
    max_batch_size: Option<u32>,
    /// How long the first request of a batch waits for others, in microseconds.
    #[arg(long, value_name = "US")]
    max_queue_delay_us: Option<u32>,
    /// How long one waits, in milliseconds.
    #[arg(long, value_name = "MS")]
    queue_wait_ms: Option<u64>,
    /// How long a request may take in all, in milliseconds.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// The largest body in bytes.
    #[arg(long, value_name = "BYTES")]
    body_bytes: Option<u64>,
    /// How many containers, or between how many: 3, or 2-8.
    #[arg(long, value_name = "COUNT|MIN-MAX")]
    replicas: Option<Count>,
}

impl Knobs {
    pub(super) fn turn(&self, settings: &mut Settings) -> bool {
        let before = settings.clone();
        settings.concurrency = self.concurrency.unwrap_or(settings.concurrency);
        settings.queue = self.queue.unwrap_or(settings.queue);
        settings.max_batch_size = self.max_batch_size.unwrap_or(settings.max_batch_size);
        settings.max_queue_delay_us = self.max_queue_delay_us.unwrap_or(settings.max_queue_delay_us);
        settings.queue_wait_ms = self.queue_wait_ms.unwrap_or(settings.queue_wait_ms);
        settings.timeout_ms = self.timeout_ms.unwrap_or(settings.timeout_ms);
        settings.body_bytes = self.body_bytes.unwrap_or(settings.body_bytes);
        if let Some(count) = self.replicas {
            settings.replicas = count.replicas(settings.replicas);
        }
        *settings != before
    }
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The service's name, for ever: lower-case letters, digits and hyphens.
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// What answers: NAME:VERSION, or NAME for its newest version; the service's name without it.
    #[arg(long, value_name = "MODEL[:VERSION]")]
    model: Option<String>,
    /// Where it runs.
    #[arg(long, value_enum, default_value_t = Where::Local)]
    target: Where,
    /// The port of a local service; a free one without it.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The image that holds the version, for Kubernetes.
    #[arg(long)]
    image: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Let everybody ask, without a key.
    #[arg(long)]
    no_auth: bool,
    /// An ONNX file, or a folder with one, that is registered under the service's name first, or under --model; or a
    /// document in TOML, YAML or JSON instead of flags, `-` for standard input.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    knobs: Knobs,
    /// Do not wait until it answers.
    #[arg(long)]
    no_wait: bool,
}

/// Where on which cluster, and how it is reached.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "On Kubernetes")]
pub(in crate::cli) struct ClusterArgs {
    /// The kubeconfig on the dispatcher's machine; KUBECONFIG, the home folder's or the pod's own account without it.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<String>,
    /// The context of the kubeconfig; its current one without it.
    #[arg(long = "kube-context", value_name = "NAME")]
    kube_context: Option<String>,
    /// The namespace, which has to exist.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// An image that holds the agent, in the place of --image: it fetches the version from this dispatcher, by its
    /// digest, and verifies it. The pods have to reach the dispatcher's `api_url`.
    #[arg(long, value_name = "IMAGE", conflicts_with = "image")]
    agent_image: Option<String>,
    /// When images are pulled.
    #[arg(long, value_enum)]
    pull: Option<Pull>,
    /// The secret with the registry's password.
    #[arg(long, value_name = "NAME")]
    pull_secret: Option<String>,
    /// How the service is reached.
    #[arg(long, value_enum)]
    expose: Option<Expose>,
    /// The client id of an AKS workload identity.
    #[arg(long, value_name = "ID")]
    workload_identity: Option<String>,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum Pull {
    /// At each start.
    Always,
    /// Where the node does not have it.
    IfNotPresent,
    /// Never: it was imported.
    Never,
}

/// How a service on a cluster is reached.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(in crate::cli) enum Expose {
    /// From within the cluster.
    ClusterIp,
    /// By a port of each node.
    NodePort,
    /// By a load balancer of the cloud.
    LoadBalancer,
    /// By a load balancer that only the virtual network reaches (AKS).
    InternalLoadBalancer,
}

impl ClusterArgs {
    fn target(&self) -> Kubernetes {
        let usual = Kubernetes::default();
        let balancer = |internal| ServiceType::LoadBalancer { internal, subnet: None };
        Kubernetes {
            kubeconfig: self.kubeconfig.clone(),
            context: self.kube_context.clone(),
            namespace: self.namespace.clone().unwrap_or(usual.namespace),
            image: self.agent_image.clone().unwrap_or(usual.image),
            image_pull_policy: match self.pull {
                Some(Pull::Always) => PullPolicy::Always,
                Some(Pull::Never) => PullPolicy::Never,
                Some(Pull::IfNotPresent) | None => PullPolicy::IfNotPresent,
            },
            pull_secret: self.pull_secret.clone(),
            service_type: match self.expose {
                Some(Expose::NodePort) => ServiceType::NodePort,
                Some(Expose::LoadBalancer) => balancer(false),
                Some(Expose::InternalLoadBalancer) => balancer(true),
                Some(Expose::ClusterIp) | None => ServiceType::ClusterIp,
            },
            workload_identity: self.workload_identity.clone(),
            ..usual
        }
    }
}

pub(super) fn run(args: Args, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    let mut document = match &args.file {
        Some(file) if is_model(file) => {
            let mut document = document(&args)?;
            document.model = register(file, &document.model, session)?;
            document
        }
        Some(_) if args.name.is_some() || args.model.is_some() || args.port.is_some() || args.no_auth => {
            let what = "a document says all of a service: NAME, --model, --port and --no-auth do not go with it";
            return Err(Failure::usage(what, "leave them out, or write them into the document").into());
        }
        Some(file) => {
            read_document::<ServiceDocument>(file, "service", "`muster service create --help` has an example")?
        }
        None => document(&args)?,
    };
    args.knobs.turn(&mut document.settings);
    let created: CreatedService = client.post("/v1/services", &document)?.parse()?;
    let name = created.service.name.clone();
    let service = match args.no_wait {
        true => created.service,
        false => super::wait(&name, Duration::from_secs(300), session)?,
    };
    let created = CreatedService { service, ..created };
    out.value(&created, || {
        let mut text = super::text::show(&created.service);
        for made in &created.keys {
            text.push_str(&format!("\n{:<14}{}", format!("{:?} key", made.which).to_lowercase(), made.key));
        }
        text
    })?;
    if !created.keys.is_empty() {
        out.note("The keys are not shown again: keep them now. `muster service keys regenerate` makes new ones.");
    }
    Ok(())
}

fn document(args: &Args) -> anyhow::Result<ServiceDocument> {
    let Some(name) = args.name.clone() else {
        return Err(Failure::usage("there is no name", "name the service, or a document by -f").into());
    };
    let target = match args.target {
        Where::Local => Target::Local(Local { port: args.port }),
        Where::Kubernetes => Target::Kubernetes(Box::new(args.cluster.target())),
    };
    let settings = Settings { auth: !args.no_auth, ..Settings::default() };
    let (model, image) = (args.model.clone().unwrap_or_else(|| name.clone()), args.image.clone());
    Ok(ServiceDocument { model, image, name, target, settings })
}

/// Whether `--file` names a model, and not a service's document.
pub(super) fn is_model(file: &Path) -> bool {
    file.is_dir() || file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx"))
}

/// Registers `file` as the newest version of `model`; `NAME:VERSION` of it.
pub(super) fn register(file: &Path, model: &str, session: &Session) -> anyhow::Result<String> {
    let name: ModelName = model.parse().map_err(|error| {
        let what = format!("{model:?} is no name for a model: {error}");
        Failure::usage(what, "a file becomes its next version: name the model alone by --model, without a version")
    })?;
    let registered = as_it_is(name, file.to_owned(), session)?;
    Ok(format!("{}:{}", registered.model, registered.version))
}
