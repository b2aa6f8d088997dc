//! An API server for tests: enough of the real protocol, over loopback, in memory.
//!
//! It speaks list (with pages) and watch (with bookmarks and 410), resource versions and their conflicts, server-side
//! apply with ownership of fields, merge patches, the subresources `status`, `scale` and `eviction`, deletion with
//! preconditions, and fails as it is told. It runs no controllers: a test says what they would do.

mod fields;
mod http;
mod store;

use std::sync::{Arc, Mutex};

use serde_json::Value;

pub use store::{Fault, Store};

/// A running server.
pub struct ApiServer {
    /// Its address, e.g. `http://127.0.0.1:40123`.
    pub url: String,
    store: Arc<Mutex<Store>>,
    signal: Arc<tokio::sync::watch::Sender<u64>>,
    task: tokio::task::JoinHandle<()>,
}

impl ApiServer {
    /// Starts one with the namespaces `default` and `models`.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let store = Arc::new(Mutex::new(Store::default()));
        let signal = Arc::new(tokio::sync::watch::Sender::new(0));
        let router = http::router(Arc::clone(&store), Arc::clone(&signal));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("served") });
        Self { url, store, signal, task }
    }

    /// Does something to what is stored; watches hear of it.
    pub fn change<T>(&self, act: impl FnOnce(&mut Store) -> T) -> T {
        let done = act(&mut self.store.lock().expect("not poisoned"));
        self.signal.send_modify(|count| *count += 1);
        done
    }

    /// Waits until something happens to what is stored.
    pub async fn changed(&self) {
        // What happens between a look and this is seen by the next look: soon enough.
        let mut signal = self.signal.subscribe();
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
