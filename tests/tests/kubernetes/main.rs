//! One story on a cluster: create, ask, update under load, canary, bad image, no room, drain, delete.
//!
//! By itself it plays on a small cluster of our own: `dispatcher/tests/apiserver` with controllers, a scheduler and a node
//! whose pods are processes of the agent. `tests/kubernetes/run` plays it on a real one, with
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `KUBECONFIG` | the cluster, as somebody who may cordon its nodes | the home folder's |
//! | `MUSTER_TEST_IMAGE` | an image that holds the agent and a model | without it, the cluster is our own |
//! | `MUSTER_TEST_DIGEST` | the SHA-256 of that model's manifest | required with an image |
//! | `MUSTER_TEST_IMAGE_2`, `MUSTER_TEST_DIGEST_2` | another version; without them there is no canary | none |
//! | `MUSTER_TEST_PULL_POLICY` | `Never`, `IfNotPresent` or `Always` | `IfNotPresent` |
//! | `MUSTER_TEST_MODEL`, `MUSTER_TEST_MODEL_2` | what the images hold | `digits:1`, `digits:2` |
//! | `MUSTER_TEST_NAMESPACE` | a namespace that exists and may be filled | one that is made and removed |
//! | `MUSTER_TEST_INPUT` | what `/score` is sent | the seven of `tests/models/digits` |
//! | `MUSTER_TEST_DRAIN` | `0` not to cordon and drain nodes | `1` |
//!
//! Requests go through the API server's proxy, so that it needs no DNS, no ingress and no route to the pods.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, unused_imports)]
#[path = "../../../dispatcher/tests/apiserver/mod.rs"]
mod apiserver;
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::Request;
use kube::Client;
use kube::core::WatchEvent;
use muster_dispatcher::cluster::watch::{Keeper, Patience, Report};
use muster_dispatcher::domain::service::{Kubernetes, Replicas, Service, Settings, State, Target};
use place::Place;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

const NAME: &str = "muster-suite";
/// A state that has not come after so long will not come.
const PATIENCE: Duration = Duration::from_secs(180);

fn service(place: &Place, namespace: &str) -> Service {
    let target = Kubernetes { namespace: namespace.into(), ..place.target.clone() };
    Service {
        name: NAME.into(),
        workspace: "suite".into(),
        generation: 1,
        revisions: place.revisions[..1].to_vec(),
        // The API server's proxy does not hand keys on.
        settings: Settings { auth: false, replicas: Replicas::Fixed(2), ..Settings::default() },
        fetch: None,
        target: Target::Kubernetes(Box::new(target)),
    }
}

/// Requests that the cluster code does not make.
#[derive(Clone)]
struct Asker {
    client: Client,
    namespace: String,
    input: Vec<u8>,
}

impl Asker {
    /// One inference through the API server's proxy: the version that answered.
    async fn ask(&self) -> Result<Value, kube::Error> {
        let path = format!("/api/v1/namespaces/{}/services/{NAME}:http/proxy/score", self.namespace);
        let kind = muster_agent::cli::kind_of_input(&self.input).expect("an input of a known kind");
        let request = Request::post(path).header("content-type", kind).body(self.input.clone()).unwrap();
        self.client.request::<Value>(request).await.map(|answer| answer["version"].clone())
    }

    /// Asks until somebody answers: who hands requests on may hear of the first pod a moment later than we do.
    async fn until_answered(&self) {
        let asking = async {
            while let Err(error) = self.ask().await {
                assert!(matches!(&error, kube::Error::Api(status) if status.code == 503), "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("somebody answers");
    }

    /// Asks until all these versions have answered.
    async fn hear(&self, versions: &[u32]) {
        let (wanted, mut heard) =
            (versions.iter().map(|&version| json!(version).to_string()).collect(), BTreeSet::new());
        let asking = async {
            while heard != wanted {
                heard.insert(self.ask().await.unwrap().to_string());
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("not all of {versions:?} answer"));
    }

    /// Asks again and again until told to stop; how often, and how many were lost.
    fn load(&self) -> (Arc<AtomicBool>, JoinHandle<(u32, u32)>) {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, asker) = (Arc::clone(&stop), self.clone());
        let task = tokio::spawn(async move {
            let (mut asked, mut failed) = (0, 0);
            while !told.load(Ordering::Relaxed) {
                asked += 1;
                if let Err(error) = asker.ask().await {
                    println!("  request {asked}: {error}");
                    failed += 1;
                }
            }
            (asked, failed)
        });
        (stop, task)
    }

    async fn send(&self, method: &str, path: &str, form: &str, body: &Value) -> Result<Value, kube::Error> {
        let request = Request::builder().method(method).uri(path).header("content-type", form);
        self.client.request(request.body(body.to_string().into_bytes()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Value {
        self.client.request(Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
    }

    /// What tells the Service apart from another of its name.
    async fn uid(&self) -> Value {
        self.get(&format!("/api/v1/namespaces/{}/services/{NAME}", self.namespace)).await["metadata"]["uid"].clone()
    }

    /// The nodes that take pods.
    async fn nodes(&self) -> Vec<String> {
        let list = self.get("/api/v1/nodes").await;
        let open = list["items"].as_array().unwrap().iter().filter(|node| node["spec"]["unschedulable"] != true);
        open.map(|node| node["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    async fn cordon(&self, nodes: &[String], on: bool) {
        for node in nodes {
            let body = json!({ "spec": { "unschedulable": on } });
            let path = format!("/api/v1/nodes/{node}");
            self.send("PATCH", &path, "application/merge-patch+json", &body).await.unwrap();
        }
    }

    fn pods(&self) -> (String, String) {
        let selector = format!("labelSelector=muster.dev/service%3D{NAME}");
        (format!("/api/v1/namespaces/{}/pods", self.namespace), selector)
    }

    /// Asks for the eviction of each pod once; how many were let go.
    async fn evict(&self) -> usize {
        let (pods, selector) = self.pods();
        let list = self.get(&format!("{pods}?{selector}")).await;
        let mut gone = 0;
        // Those that are already on their way out may always go.
        for pod in list["items"].as_array().unwrap().iter().filter(|pod| !is_leaving(pod)) {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let body = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name, "namespace": self.namespace } });
            match self.send("POST", &format!("{pods}/{name}/eviction"), "application/json", &body).await {
                Ok(_) => gone += 1,
                Err(kube::Error::Api(status)) => assert_eq!(status.code, 429, "{status:?}"),
                Err(error) => panic!("{error}"),
            }
        }
        gone
    }

    /// Waits until the budget lets a pod go: who counts for it comes behind the pods.
    async fn until_one_may_go(&self) {
        let path = format!("/apis/policy/v1/namespaces/{}/poddisruptionbudgets", self.namespace);
        let may = |budget: &Value| budget["status"]["disruptionsAllowed"].as_u64() > Some(0);
        let budgets = (path, format!("labelSelector=muster.dev/service%3D{NAME}"));
        self.until(budgets, "none lets a pod go", |budgets| budgets.iter().any(may)).await;
    }

    /// Waits until what is listed at `path` is as it should be; whatever happens there makes it be looked at again.
    async fn until(&self, (path, selector): (String, String), what: &str, fits: impl Fn(&[Value]) -> bool) {
        let wait = async {
            loop {
                let list = self.get(&format!("{path}?{selector}")).await;
                if fits(list["items"].as_array().unwrap()) {
                    return;
                }
                let version = list["metadata"]["resourceVersion"].as_str().unwrap();
                let watch = format!("{path}?{selector}&watch=true&timeoutSeconds=60&resourceVersion={version}");
                let events = self.client.request_events::<Value>(Request::get(watch).body(Vec::new()).unwrap());
                let mut events = pin!(events.await.unwrap());
                while events.next().await.is_some_and(|event| matches!(event, Ok(WatchEvent::Bookmark(_)))) {}
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{path}: {what}"));
    }

    /// A namespace of this run's own.
    async fn make_namespace(&self) {
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let metadata = json!({ "name": self.namespace, "labels": labels });
        let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
        self.send("POST", "/api/v1/namespaces", "application/json", &body).await.expect("a namespace is made");
    }

    async fn remove_namespace(&self) {
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        self.send("DELETE", &path, "application/json", &json!({})).await.expect("the namespace goes");
        let selector = format!("fieldSelector=metadata.name%3D{}", self.namespace);
        self.until(("/api/v1/namespaces".into(), selector), "it stays", <[Value]>::is_empty).await;
    }
}

fn is_leaving(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// What is wanted, and what is told of it.
struct Story {
    wanted: watch::Sender<Arc<BTreeMap<String, Service>>>,
    reports: mpsc::Receiver<Report>,
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
}

#[tokio::test]
#[cfg_attr(not(target_os = "linux"), ignore = "pods of our own have addresses that only Linux takes unasked")]
async fn a_service_lives_on_a_cluster() {
    let place = Arc::new(Place::find().await);
    let named = place.namespace.clone();
    let namespace = named.clone().unwrap_or_else(|| format!("{NAME}-{}", std::process::id()));
    let asker = Asker { client: place.client.clone(), namespace, input: place.input.clone() };
    if named.is_none() {
        asker.make_namespace().await;
    }
    let nodes = if place.drain { asker.nodes().await } else { Vec::new() };
    // What the story leaves in the middle of a failure is cleared away all the same.
    let told = tokio::spawn(story(Arc::clone(&place), asker.clone(), nodes.clone())).await;
    if told.is_err() {
        asker.cordon(&nodes, false).await;
        place.cluster.delete_service(&service(&place, &asker.namespace)).await.expect("deleted");
    }
    if named.is_none() {
        asker.remove_namespace().await;
    }
    if let Err(failed) = told {
        std::panic::resume_unwind(failed.into_panic());
    }
}

async fn story(place: Arc<Place>, asker: Asker, nodes: Vec<String>) {
    let cluster = place.cluster.clone();
    println!("the cluster is {}", cluster.version().await.unwrap());
    let mut service = service(&place, &asker.namespace);
    let (wanted, receiver) = watch::channel(Arc::new(BTreeMap::new()));
    let (sender, reports) = mpsc::channel(100);
    tokio::spawn(Keeper::new(cluster.clone(), &asker.namespace, Patience::default(), &[]).run(receiver, sender));
    let mut story = Story { wanted, reports };
    let version = service.revisions[0].version;

    println!("create");
    story.want(&service);
    story.until(&service, State::Healthy).await;
    asker.until_answered().await;
    let before = asker.uid().await;

    println!("update under load");
    let (stop, load) = asker.load();
    service.generation += 1;
    service.settings.env.insert("RUST_LOG".into(), "info".into());
    story.want(&service);
    story.until(&service, State::Healthy).await;
    asker.until(asker.pods(), "some do not end", |pods| !pods.iter().any(is_leaving)).await;
    stop.store(true, Ordering::Relaxed);
    let (asked, failed) = load.await.unwrap();
    println!("  {asked} requests, {failed} failed");
    assert!(asked > 0 && failed == 0);

    if let [_, canary] = &place.revisions[..] {
        println!("canary");
        service.generation += 1;
        service.revisions.push(canary.clone());
        service.revisions.iter_mut().for_each(|revision| revision.traffic = 50);
        story.want(&service);
        story.until(&service, State::Healthy).await;
        asker.hear(&[version, canary.version]).await;
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
    asker.ask().await.expect("what was there goes on answering");

    println!("no room");
    let generation = service.generation;
    service = Service { generation: generation + 1, ..good.clone() };
    service.settings.cpu.request = 100_000_000;
    story.want(&service);
    story.until(&service, State::Unschedulable).await;
    asker.ask().await.expect("what was there goes on answering");

    println!("back");
    service = Service { generation: generation + 2, ..good };
    story.want(&service);
    story.until(&service, State::Healthy).await;

    if place.drain {
        println!("drain");
        asker.until_one_may_go().await;
        asker.cordon(&nodes, true).await;
        let gone = asker.evict().await;
        println!("  {gone} of 2 pods were let go at once");
        assert_eq!(gone, 1, "the budget lets one go at a time");
        story.until(&service, State::Unschedulable).await;
        asker.ask().await.expect("the other one goes on answering");
        asker.cordon(&nodes, false).await;
        story.until(&service, State::Healthy).await;
    }

    assert_eq!(before, asker.uid().await, "the address is the same all along");
    println!("delete");
    story.wanted.send_replace(Arc::default());
    let left = async { while cluster.delete_service(&service).await.unwrap() > 0 {} };
    tokio::time::timeout(PATIENCE, left).await.expect("deleted");
    asker.until(asker.pods(), "some stay", <[Value]>::is_empty).await;
}
