//! ModelServices: a real dispatcher keeps what a cluster declares.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::StatusCode;
use muster_dispatcher::control;
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, Fault};
use crate::fixture::Dispatcher;
use crate::support::{DEPLOYMENTS, kubeconfig};

const RESOURCES: &str = "muster.dev/v1alpha1/modelservices";

/// A cluster, and a dispatcher that keeps its ModelServices.
struct Kept {
    server: ApiServer,
    dispatcher: Dispatcher,
    kubeconfig: tempfile::NamedTempFile,
}

impl Kept {
    async fn start() -> Self {
        let server = ApiServer::start().await;
        let file = kubeconfig(&server.kubeconfig());
        let config = control::Config {
            namespaces: vec!["models".into()],
            kubeconfig: Some(file.path().display().to_string()),
            context: None,
        };
        let dispatcher = Dispatcher::start_with(Some(config)).await;
        for version in [1, 2] {
            let answer = dispatcher.register("digits", version).await;
            assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        }
        Self { server, dispatcher, kubeconfig: file }
    }

    fn apply(&self, name: &str, spec: Value) {
        self.server.change(|store| match store.get(RESOURCES, "models", name).is_some() {
            true => store.edit(RESOURCES, name, "kubectl", "", |object| object["spec"] = spec),
            false => drop(store.make(RESOURCES, "ModelService", name, json!({ "spec": spec }), "kubectl")),
        });
    }

    /// Waits until the server has it so.
    async fn until<T>(&self, what: &str, so: impl Fn(&ApiServer) -> Option<T>) -> T {
        let look = async {
            loop {
                if let Some(found) = so(&self.server) {
                    return found;
                }
                self.server.changed().await;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), look).await;
        found.unwrap_or_else(|_| {
            let all = |of: &str| self.server.names(of).iter().map(|name| self.server.get(of, name)).collect::<Vec<_>>();
            panic!("never {what}: {:#?}\n{:#?}", all(RESOURCES), all(DEPLOYMENTS))
        })
    }

    async fn state(&self, name: &str, state: &str, about: &str) -> Value {
        self.until(state, |server| {
            let object = server.get(RESOURCES, name)?;
            let status = &object["status"];
            let current = status["observedGeneration"] == object["metadata"]["generation"];
            let said = status["reason"].as_str().unwrap_or_default().contains(about);
            (current && status["state"] == state && said).then(|| status.clone())
        })
        .await
    }
}

fn spec(version: u32) -> Value {
    json!({
        "model": format!("digits:{version}"), "image": format!("hub.example/digits:{version}"),
        "settings": { "replicas": { "fixed": 1 } },
    })
}

/// What the Deployment controller does: all replicas of all Deployments have come up.
fn come_up(server: &ApiServer) {
    for name in server.names(DEPLOYMENTS) {
        server.change(|store| {
            store.edit(DEPLOYMENTS, &name, "kube-controller-manager", "status", |object| {
                object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!("1");
                object["status"] = json!({
                    "observedGeneration": object["metadata"]["generation"], "replicas": 1, "updatedReplicas": 1,
                    "availableReplicas": 1, "readyReplicas": 1,
                    "conditions": [{ "type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable" }],
                });
            });
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_becomes_a_service_and_hears_how_it_is() {
    let kept = Kept::start().await;
    kept.apply("digits", spec(1));
    let image = |server: &ApiServer, of: &str| {
        let all = server.names(DEPLOYMENTS);
        all.iter().filter_map(|name| server.get(DEPLOYMENTS, name)).any(|deployment| {
            deployment["spec"]["template"]["spec"]["containers"][0]["image"] == format!("hub.example/{of}")
        })
    };
    kept.until("a Deployment", |server| image(server, "digits:1").then_some(())).await;
    come_up(&kept.server);
    let status = kept.state("digits", "Healthy", "").await;
    assert_eq!(status["revisions"][0]["model"], "digits:1");
    assert_eq!(
        (&status["conditions"][1]["type"], &status["conditions"][1]["status"]),
        (&json!("Ready"), &json!("True"))
    );

    // Its people find the keys beside it, and operators whose it is.
    let secret = kept.until("the keys", |server| server.get("v1/secrets", "digits-keys")).await;
    assert!(secret["data"]["primary"].is_string(), "{secret}");
    let refused =
        kept.dispatcher.call("PATCH", "/v1/services/digits", Some(json!({ "model": "digits:2", "image": "x" }))).await;
    let detail = refused.problem(409, "conflict");
    assert!(detail.contains("ModelService models/digits declares"), "{detail}");

    kept.apply("digits", spec(2));
    kept.until("another Deployment", |server| image(server, "digits:2").then_some(())).await;
    come_up(&kept.server);
    let status = kept.state("digits", "Healthy", "").await;
    assert_eq!(status["revisions"][0]["model"], "digits:2");

    // Somebody deletes the keys: there are new ones.
    let before = secret["data"]["primary"].clone();
    kept.server.change(|store| store.delete("v1/secrets", "models", "digits-keys", None).unwrap());
    kept.apply("digits", {
        let mut spec = spec(2);
        spec["settings"]["queue"] = json!(20);
        spec
    });
    let again = kept.until("new keys", |server| server.get("v1/secrets", "digits-keys")).await;
    assert_ne!(again["data"]["primary"], before);

    kept.server.change(|store| store.delete(RESOURCES, "models", "digits", None).unwrap());
    kept.until("its end", |server| server.get(RESOURCES, "digits").is_none().then_some(())).await;
    assert_eq!(kept.server.names(DEPLOYMENTS), Vec::<String>::new());
    assert_eq!(kept.dispatcher.get("/v1/services/digits").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_said_where_it_was_declared_and_mends_itself() {
    let kept = Kept::start().await;
    for (wrong, said) in [
        (json!({ "model": "digits" }), "NAME:VERSION"),
        (json!({ "model": "digits:9", "image": "x" }), "digits"),
        (json!({ "model": "digits:1" }), "muster image build"),
        (json!({ "model": "digits:1", "image": "x", "settings": { "concurrency": 0 } }), "concurrency"),
    ] {
        kept.apply("digits", wrong);
        let status = kept.state("digits", "Failed", said).await;
        assert_eq!(status["conditions"][0]["status"], "False", "{status}");
    }
    kept.apply("digits", spec(1));
    kept.until("a Deployment", |server| (!server.names(DEPLOYMENTS).is_empty()).then_some(())).await;
    come_up(&kept.server);
    kept.state("digits", "Healthy", "").await;

    // An operator's service is not taken over.
    let place = json!({ "namespace": "models", "kubeconfig": kept.kubeconfig.path() });
    let operators = json!({ "name": "mine", "model": "digits:1", "image": "x", "target": { "kubernetes": place } });
    let made = kept.dispatcher.call("POST", "/v1/services", Some(operators)).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    kept.apply("mine", spec(1));
    kept.state("mine", "Failed", "already, an operator's").await;
    kept.server.change(|store| store.delete(RESOURCES, "models", "mine", None).unwrap());
    kept.until("its end", |server| server.get(RESOURCES, "mine").is_none().then_some(())).await;
    assert_eq!(kept.dispatcher.get("/v1/services/mine").await.status, StatusCode::OK, "it stays its operator's");
    assert_eq!(kept.dispatcher.call("DELETE", "/v1/services/mine", None).await.status, StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_its_cluster_is_away_goes_once_that_is_back() {
    let kept = Kept::start().await;
    let place = json!({ "namespace": "models", "kubeconfig": kept.kubeconfig.path() });
    let service =
        |name: &str| json!({ "name": name, "model": "digits:1", "image": "x", "target": { "kubernetes": place } });
    for name in ["goes", "stays"] {
        let made = kept.dispatcher.call("POST", "/v1/services", Some(service(name))).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    }
    let there = |server: &ApiServer| server.names(DEPLOYMENTS).len();
    kept.until("two Deployments", |server| (there(server) == 2).then_some(())).await;
    let away = |times| Fault { holds: "DELETE /apis", times, code: 503, reason: "ServiceUnavailable", message: "away" };
    kept.server.change(|store| store.faults.push(away(u32::MAX)));

    let delete = |query: &'static str| kept.dispatcher.call("DELETE", query, None);
    assert_eq!(delete("/v1/services/goes?wait_seconds=0").await.status, StatusCode::ACCEPTED);
    let view = async {
        loop {
            let view = kept.dispatcher.get("/v1/services/goes?wait_seconds=5").await.json();
            let reason = view["reason"].as_str().unwrap_or_default();
            if reason.starts_with("it is being deleted, but ") && reason.contains("away") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), view).await.expect("it says what is in the way");
    let change = json!({ "model": "digits:2", "image": "x" });
    let refused = kept.dispatcher.call("PATCH", "/v1/services/goes", Some(change)).await;
    assert!(refused.problem(409, "conflict").contains("is being deleted"), "{}", refused.text());
    // Others are not held up, and who knows better does not wait.
    assert_eq!(delete("/v1/services/stays?forget=true").await.status, StatusCode::NO_CONTENT);
    assert_eq!(kept.dispatcher.get("/v1/services/stays").await.status, StatusCode::NOT_FOUND);

    kept.server.change(|store| store.faults.clear());
    assert_eq!(delete("/v1/services/goes?wait_seconds=25").await.status, StatusCode::NO_CONTENT);
    assert_eq!(kept.dispatcher.get("/v1/services/goes").await.status, StatusCode::NOT_FOUND);
    let names = kept.server.names(DEPLOYMENTS);
    assert!(names.iter().all(|name| !name.starts_with("goes")), "{names:?}");
}

/// The names of all API keys.
async fn keys(kept: &Kept) -> BTreeSet<String> {
    let answer = kept.dispatcher.get("/v1/keys").await.json();
    let names = answer["items"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned());
    names.collect()
}

fn named<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(String::from).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_fetches_has_an_api_key_and_it_goes_with_the_service() {
    let kept = Kept::start().await;
    let place = json!({ "namespace": "models", "kubeconfig": kept.kubeconfig.path(), "image": "hub.example/agent:1" });
    let fetches = |queue_wait_ms: u64| {
        let settings = json!({ "queue_wait_ms": queue_wait_ms });
        json!({ "name": "fetches", "model": "digits:1", "target": { "kubernetes": place }, "settings": settings })
    };
    let refused = kept.dispatcher.call("POST", "/v1/services", Some(fetches(1_000_000))).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
    let mut held = fetches(1);
    held["name"] = json!("holds");
    held["image"] = json!("hub.example/digits:1");
    assert_eq!(kept.dispatcher.call("POST", "/v1/services", Some(held)).await.status, StatusCode::CREATED);
    assert_eq!(keys(&kept).await, named(["admin"]), "neither what was refused nor what has its image fetches");

    for status in [StatusCode::CREATED, StatusCode::CONFLICT] {
        assert_eq!(kept.dispatcher.call("POST", "/v1/services", Some(fetches(1))).await.status, status);
        assert_eq!(keys(&kept).await, named(["admin", "service fetches"]));
    }
    let secret = kept.until("the secret", |server| server.get("v1/secrets", "fetches")).await;
    assert!(secret["data"]["token"].as_str().is_some_and(|token| !token.is_empty()), "{secret}");
    assert_eq!(kept.dispatcher.call("DELETE", "/v1/services/fetches", None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(keys(&kept).await, named(["admin"]));
}
