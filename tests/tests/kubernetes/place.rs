//! Where the story plays: on the cluster and with the images that the environment names, or on a small one of our own,
//! whose images are bundles that a dispatcher made a moment ago.

use std::collections::BTreeMap;
use std::env::var;
use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use muster_dispatcher::cluster::Cluster;
use muster_dispatcher::domain::service::{Kubernetes, PullPolicy, Revision};
use muster_tests::processes::{Dispatcher, binaries, digits};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::apiserver::ApiServer;

/// A cluster, and what is to run there.
pub struct Place {
    pub client: Client,
    pub cluster: Cluster,
    /// How pods come to their images there.
    pub target: Kubernetes,
    /// One version, or two.
    pub revisions: Vec<Revision>,
    /// A namespace that exists.
    pub namespace: Option<String>,
    pub input: Vec<u8>,
    pub drain: bool,
    /// In the order in which it goes.
    _ours: Option<(JoinSet<()>, ApiServer, TempDir)>,
}

impl Place {
    /// The one that the environment names, else one of our own.
    pub async fn find() -> Self {
        if var("MUSTER_TEST_IMAGE").is_ok() { Self::named().await } else { Self::ours().await }
    }

    async fn named() -> Self {
        let image_pull_policy = match var("MUSTER_TEST_PULL_POLICY").as_deref() {
            Ok("Never") => PullPolicy::Never,
            Ok("Always") => PullPolicy::Always,
            _ => PullPolicy::IfNotPresent,
        };
        let target = Kubernetes { image_pull_policy, ..Kubernetes::default() };
        let revision = |suffix: &str, usual: &str| {
            let named = |name: &str| var(format!("MUSTER_TEST_{name}{suffix}"));
            let image = named("IMAGE").ok()?;
            let digest = named("DIGEST").unwrap_or_else(|_| panic!("MUSTER_TEST_DIGEST{suffix} goes with the image"));
            Some(revision(&named("MODEL").unwrap_or_else(|_| usual.into()), &digest, &image))
        };
        let input = var("MUSTER_TEST_INPUT").map_or_else(|_| digits("seven.png"), Into::into);
        Self {
            namespace: var("MUSTER_TEST_NAMESPACE").ok(),
            drain: var("MUSTER_TEST_DRAIN").as_deref() != Ok("0"),
            revisions: [revision("", "digits:1"), revision("_2", "digits:2")].into_iter().flatten().collect(),
            ..Self::at(target, &input).await
        }
    }

    async fn ours() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let server = ApiServer::start().await;
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig()).expect("written");
        let (mut images, mut revisions) = (BTreeMap::new(), Vec::new());
        let dispatcher = Dispatcher::start(folder.path(), &[]).expect("a dispatcher");
        for version in [1, 2] {
            let registered = dispatcher.register_digits(version).expect("registered");
            let (model, image) = (format!("digits:{version}"), format!("registry.example/digits:{version}"));
            let bundle = folder.path().join(format!("digits-{version}"));
            let to = bundle.display().to_string();
            assert!(dispatcher.command(&["model", "download", &model, "--to", &to]).expect("it runs").status.success());
            revisions.push(revision(&model, registered["digest"].as_str().expect("a digest"), &image));
            images.insert(image, bundle);
        }
        let tasks = server.run_cluster(binaries().join("muster-agent"), images, folder.path().join("pods"));
        let target = Kubernetes { kubeconfig: Some(kubeconfig.display().to_string()), ..Kubernetes::default() };
        let place = Self::at(target, &digits("seven.png")).await;
        Self { revisions, _ours: Some((tasks, server, folder)), ..place }
    }

    async fn at(target: Kubernetes, input: &Path) -> Self {
        let mut config = match &target.kubeconfig {
            None => Config::infer().await.expect("a cluster"),
            Some(path) => {
                let file = Kubeconfig::read_from(path).expect("a kubeconfig");
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("its cluster")
            }
        };
        // A request that is lost is to be seen, not made again in silence.
        config.default_retry = false;
        Self {
            client: Client::try_from(config).expect("a client"),
            cluster: Cluster::connect(&target).await.expect("a client"),
            target,
            revisions: Vec::new(),
            namespace: None,
            input: std::fs::read(input).expect("the input"),
            drain: true,
            _ours: None,
        }
    }
}

fn revision(model: &str, digest: &str, image: &str) -> Revision {
    let (model, version) = model.rsplit_once(':').expect("MUSTER_TEST_MODEL is NAME:VERSION");
    Revision {
        model: model.into(),
        version: version.parse().expect("a version"),
        digest: digest.into(),
        traffic: 100,
        image: Some(image.into()),
        memory: Some(64 << 20),
    }
}
