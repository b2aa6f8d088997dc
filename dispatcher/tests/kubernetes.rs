//! One story on a real cluster: create, ask, update under load, canary, bad image, no room, drain, delete.
//!
//! `tests/kubernetes/run`, with
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `KUBECONFIG` | the cluster, as somebody who may cordon its nodes | the home folder's |
//! | `MUSTER_TEST_IMAGE` | an image that holds the agent and a model | required |
//! | `MUSTER_TEST_DIGEST` | the SHA-256 of that model's manifest | required |
//! | `MUSTER_TEST_IMAGE_2`, `MUSTER_TEST_DIGEST_2` | another version; without them there is no canary | none |
//! | `MUSTER_TEST_PULL_POLICY` | `Never`, `IfNotPresent` or `Always` | `IfNotPresent` |
//! | `MUSTER_TEST_MODEL`, `MUSTER_TEST_MODEL_2` | what the images hold | `digits:1`, `digits:2` |
//! | `MUSTER_TEST_NAMESPACE` | a namespace that exists and may be filled | one that is made and removed |
//! | `MUSTER_TEST_INPUT` | what `/score` is sent | the seven of `tests/models/digits` |
//! | `MUSTER_TEST_DRAIN` | `0` not to cordon and drain nodes | `1` |
//!
//! Requests go through the API server's proxy, so that it needs no DNS, no ingress and no route to the pods.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::env::var;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use http::Request;
use kube::Client;
use muster_dispatcher::cluster::Cluster;
use muster_dispatcher::cluster::watch::{Keeper, Patience, Report};
use muster_dispatcher::domain::service::{
    Kubernetes, PullPolicy, Replicas, Revision, Service, Settings, State, Target,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

const NAME: &str = "muster-suite";
/// A state that has not come after so long will not come.
const PATIENCE: Duration = Duration::from_secs(180);

struct Story {
    client: Client,
    namespace: String,
    input: Vec<u8>,
    wanted: watch::Sender<Arc<BTreeMap<String, Service>>>,
    reports: mpsc::Receiver<Report>,
}

fn service(namespace: &str) -> Service {
    let policy = match var("MUSTER_TEST_PULL_POLICY").as_deref() {
        Ok("Never") => PullPolicy::Never,
        Ok("Always") => PullPolicy::Always,
        _ => PullPolicy::IfNotPresent,
    };
    let target = Kubernetes { namespace: namespace.into(), image_pull_policy: policy, ..Kubernetes::default() };
    Service {
        name: NAME.into(),
        workspace: "suite".into(),
        generation: 1,
        revisions: vec![revision("", "digits:1", 100).expect("MUSTER_TEST_IMAGE and _DIGEST")],
        // The API server's proxy does not hand keys on.
        settings: Settings { auth: false, replicas: Replicas::Fixed(2), ..Settings::default() },
        fetch: None,
        target: Target::Kubernetes(Box::new(target)),
    }
}

fn revision(suffix: &str, usual: &str, traffic: u8) -> Option<Revision> {
    let named = |name: &str| var(format!("MUSTER_TEST_{name}{suffix}"));
    let (image, digest) = (named("IMAGE").ok()?, named("DIGEST").ok()?);
    let model = named("MODEL").unwrap_or_else(|_| usual.into());
    let (model, version) = model.rsplit_once(':').expect("MUSTER_TEST_MODEL is NAME:VERSION");
    let (model, version) = (model.to_owned(), version.parse().expect("a version"));
    Some(Revision { model, version, digest, traffic, image: Some(image), memory: Some(64 << 20) })
}

impl Story {
    fn want(&self, service: &Service) {
        self.wanted.send_replace(Arc::new(BTreeMap::from([(NAME.to_owned(), service.clone())])));
    }

    /// Waits for a state of that generation; its reason.
    async fn until(&mut self, service: &Service, state: State) -> String {
        let wait = async {
            loop {
                let report = self.reports.recv().await.expect("the keeper runs");
                if let Some(error) = &report.error {
                    println!("  {} {error}; {}", error.code(), error.next_step());
                }
                let Some(status) = report.status.filter(|_| report.generation == service.generation) else { continue };
                println!("  {} {}: {}", report.generation, status.state, status.reason);
                if status.state == state {
                    return status.reason;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never {state}"))
    }

    async fn ask(&self) -> Result<String, kube::Error> {
        ask(&self.client, &self.namespace, &self.input).await
    }

    async fn send(&self, method: &str, path: &str, form: &str, body: &Value) -> Result<Value, kube::Error> {
        let request = Request::builder().method(method).uri(path).header("content-type", form);
        self.client.request(request.body(body.to_string().into_bytes()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Value {
        self.client.request(Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
    }

    async fn cordon(&self, on: bool) {
        for node in self.get("/api/v1/nodes").await["items"].as_array().unwrap() {
            let path = format!("/api/v1/nodes/{}", node["metadata"]["name"].as_str().unwrap());
            let body = json!({ "spec": { "unschedulable": on } });
            self.send("PATCH", &path, "application/merge-patch+json", &body).await.unwrap();
        }
    }

    /// Asks for the eviction of each pod once; how many were let go.
    async fn evict(&self) -> usize {
        let pods = format!("/api/v1/namespaces/{}/pods", self.namespace);
        let list = self.get(&format!("{pods}?labelSelector=muster.dev/service%3D{NAME}")).await;
        let mut gone = 0;
        for pod in list["items"].as_array().unwrap() {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let body = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name, "namespace": self.namespace } });
            gone += usize::from(
                self.send("POST", &format!("{pods}/{name}/eviction"), "application/json", &body).await.is_ok(),
            );
        }
        gone
    }
}

/// One inference through the API server's proxy.
async fn ask(client: &Client, namespace: &str, input: &[u8]) -> Result<String, kube::Error> {
    let path = format!("/api/v1/namespaces/{namespace}/services/{NAME}:http/proxy/score");
    let kind = muster_agent::cli::kind_of_input(input).expect("an input of a known kind");
    client.request_text(Request::post(path).header("content-type", kind).body(input.to_vec()).unwrap()).await
}

/// A namespace of this run's own, where none was named.
async fn make_namespace(client: &Client) -> String {
    let name = format!("{NAME}-{}", std::process::id());
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
    let request = Request::post("/api/v1/namespaces").header("content-type", "application/json");
    client.request::<Value>(request.body(body.to_string().into_bytes()).unwrap()).await.expect("a namespace is made");
    name
}

/// Asks again and again until told to stop.
fn load(client: Client, namespace: String, input: Vec<u8>) -> (Arc<AtomicBool>, tokio::task::JoinHandle<(u32, u32)>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (told, failed) = (Arc::clone(&stop), AtomicU32::new(0));
    let task = tokio::spawn(async move {
        let mut asked = 0;
        while !told.load(Ordering::Relaxed) {
            asked += 1;
            if let Err(error) = ask(&client, &namespace, &input).await {
                println!("  request {asked}: {error}");
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        (asked, failed.into_inner())
    });
    (stop, task)
}

#[tokio::test]
#[ignore = "needs a cluster: see the top of the file"]
async fn a_service_lives_on_a_real_cluster() {
    let client = Client::try_default().await.unwrap();
    let named = var("MUSTER_TEST_NAMESPACE").ok();
    let namespace = match &named {
        Some(name) => name.clone(),
        None => make_namespace(&client).await,
    };
    // What the story leaves in the middle of a failure is cleared away all the same.
    let told = tokio::spawn(story(client.clone(), namespace.clone())).await;
    let nodes: Value = client.request(Request::get("/api/v1/nodes").body(Vec::new()).unwrap()).await.unwrap();
    if told.is_err() && var("MUSTER_TEST_DRAIN").as_deref() != Ok("0") {
        for node in nodes["items"].as_array().unwrap() {
            uncordon(&client, node).await;
        }
    }
    if named.is_none() {
        let path = format!("/api/v1/namespaces/{namespace}");
        client.request::<Value>(Request::delete(path).body(Vec::new()).unwrap()).await.expect("the namespace goes");
    }
    if let Err(failed) = told {
        std::panic::resume_unwind(failed.into_panic());
    }
}

async fn uncordon(client: &Client, node: &Value) {
    let path = format!("/api/v1/nodes/{}", node["metadata"]["name"].as_str().unwrap());
    let request = Request::patch(path).header("content-type", "application/merge-patch+json");
    let body = json!({ "spec": { "unschedulable": false } }).to_string().into_bytes();
    client.request::<Value>(request.body(body).unwrap()).await.unwrap();
}

async fn story(client: Client, namespace: String) {
    let seven = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/models/digits/seven.png");
    let input = std::fs::read(var("MUSTER_TEST_INPUT").unwrap_or_else(|_| seven.into())).expect("the input");
    let cluster = Cluster::connect(&Kubernetes::default()).await.unwrap();
    println!("the cluster is {}", cluster.version().await.unwrap());
    let mut service = service(&namespace);
    let (wanted, receiver) = watch::channel(Arc::new(BTreeMap::new()));
    let (sender, reports) = mpsc::channel(100);
    tokio::spawn(Keeper::new(cluster.clone(), &namespace, Patience::default(), &[]).run(receiver, sender));
    let mut story =
        Story { client: client.clone(), namespace: namespace.clone(), input: input.clone(), wanted, reports };

    println!("create");
    story.want(&service);
    story.until(&service, State::Healthy).await;
    story.ask().await.unwrap();
    let before = story.get(&format!("/api/v1/namespaces/{namespace}/services/{NAME}")).await["metadata"]["uid"].clone();

    println!("update under load");
    let (stop, task) = load(client.clone(), namespace.clone(), input);
    service.generation += 1;
    service.settings.env.insert("RUST_LOG".into(), "info".into());
    story.want(&service);
    story.until(&service, State::Healthy).await;
    stop.store(true, Ordering::Relaxed);
    let (asked, failed) = task.await.unwrap();
    println!("  {asked} requests, {failed} failed");
    assert!(asked > 0 && failed == 0);

    if let Some(canary) = revision("_2", "digits:2", 50) {
        println!("canary");
        service.generation += 1;
        service.revisions[0].traffic = 50;
        service.revisions.push(canary);
        story.want(&service);
        story.until(&service, State::Healthy).await;
        story.ask().await.unwrap();
        println!("back");
        service.generation += 1;
        service.revisions.truncate(1);
        service.revisions[0].traffic = 100;
        story.want(&service);
        story.until(&service, State::Healthy).await;
    }

    println!("bad image");
    let good = service.clone();
    service.generation += 1;
    service.revisions[0].image = Some("localhost:1/not-there:0".into());
    story.want(&service);
    let reason = story.until(&service, State::Failed).await;
    assert!(reason.contains("localhost:1/not-there:0"), "{reason}");
    story.ask().await.expect("what was there goes on answering");

    println!("no room");
    let generation = service.generation;
    service = Service { generation: generation + 1, ..good.clone() };
    service.settings.cpu.request = 100_000_000;
    story.want(&service);
    story.until(&service, State::Unschedulable).await;
    story.ask().await.expect("what was there goes on answering");

    println!("back");
    service = Service { generation: generation + 2, ..good };
    story.want(&service);
    story.until(&service, State::Healthy).await;

    if var("MUSTER_TEST_DRAIN").as_deref() != Ok("0") {
        println!("drain");
        story.cordon(true).await;
        let gone = story.evict().await;
        println!("  {gone} of 2 pods were let go at once");
        if gone > 0 {
            story.until(&service, State::Unschedulable).await;
        }
        story.cordon(false).await;
        assert_eq!(gone, 1, "the budget lets one go at a time");
        story.until(&service, State::Healthy).await;
    }

    let after = story.get(&format!("/api/v1/namespaces/{namespace}/services/{NAME}")).await["metadata"]["uid"].clone();
    assert_eq!(before, after, "the address is the same all along");
    println!("delete");
    story.wanted.send_replace(Arc::default());
    let left = async { while cluster.delete_service(&service).await.unwrap() > 0 {} };
    tokio::time::timeout(PATIENCE, left).await.expect("deleted");
}
