//! An API server for tests: enough of the real protocol, over loopback, in memory.
//!
//! It speaks list (with pages) and watch (with bookmarks and 410), resource versions and their conflicts, server-side
//! apply with ownership of fields, merge patches, the subresources `status`, `scale` and `eviction`, deletion with
//! preconditions, and fails as it is told. By itself it runs no controllers: a test says what they would do, or asks
//! [`ApiServer::run_cluster`] for a small cluster with a node on which pods are processes.

mod controllers;
mod deployments;
mod fields;
mod http;
mod kubelet;
mod proxy;
mod scheduler;
mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::task::JoinSet;

pub use store::{Fault, Store};

/// What is stored, and the signal that something changed.
#[derive(Clone)]
struct Shared {
    store: Arc<Mutex<Store>>,
    signal: Arc<tokio::sync::watch::Sender<u64>>,
}

impl Shared {
    fn look<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        act(&mut self.store.lock().expect("not poisoned"))
    }

    fn change<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let done = self.look(act);
        self.signal.send_modify(|count| *count += 1);
        done
    }
}

/// A running server.
pub struct ApiServer {
    /// Its address, e.g. `http://127.0.0.1:40123`.
    pub url: String,
    shared: Shared,
    task: tokio::task::JoinHandle<()>,
}

impl ApiServer {
    /// Starts one with the namespaces `default` and `models`.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut store = Store::default();
        for name in ["default", "models"] {
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
            store.update(store::NAMESPACES, namespace, "kube-apiserver", "").expect("a new namespace");
        }
        let signal = Arc::new(tokio::sync::watch::Sender::new(0));
        let shared = Shared { store: Arc::new(Mutex::new(store)), signal };
        let router = http::router(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("served") });
        Self { url, shared, task }
    }

    /// Runs controllers, and a node whose pods are processes of `program`, the agent; until what is returned is dropped.
    /// `images` are the bundles' folders by the images' names, and in `folder` pods have their files.
    pub fn run_cluster(&self, program: PathBuf, images: BTreeMap<String, PathBuf>, folder: PathBuf) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(controllers::run(self.shared.clone()));
        tasks.spawn(kubelet::Kubelet { server: self.shared.clone(), program, images, folder }.run());
        tasks
    }

    /// Does something to what is stored; watches hear of it.
    pub fn change<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        self.shared.change(act)
    }

    /// Waits until something happens to what is stored.
    pub async fn changed(&self) {
        // What happens between a look and this is seen by the next look: soon enough.
        let mut signal = self.shared.signal.subscribe();
        let _ = tokio::time::timeout(std::time::Duration::from_millis(50), signal.changed()).await;
    }

    /// An object by its collection, e.g. `apps/v1/deployments`, and name, in the namespace `models`.
    pub fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.change(|store| store.get(collection, "models", name).cloned())
    }

    /// The names of a collection's objects in `models`.
    pub fn names(&self, collection: &str) -> Vec<String> {
        self.change(|store| store.names(collection, "models"))
    }

    /// A kubeconfig with this server as its only cluster, in the context `test`.
    pub fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters:\n- name: test\n  cluster:\n    server: {}\n\
             contexts:\n- name: test\n  context:\n    cluster: test\n    user: test\n    namespace: models\n\
             users:\n- name: test\n  user:\n    token: t0ken\n",
            self.url
        )
    }

    /// Stops it at once, with all connections.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
