//! Watching and keeping.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_dispatcher::cluster::Kind;
use muster_dispatcher::cluster::watch::{Keeper, Patience, Report};
use muster_dispatcher::domain::service::{Service, State};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::apiserver::{ApiServer, Fault};
use crate::support::{DEPLOYMENTS, client, deployment, make_pod, next, roll_out, service};

/// A keeper that runs, and what it tells.
struct Kept {
    server: ApiServer,
    wanted: watch::Sender<Arc<BTreeMap<String, Service>>>,
    reports: mpsc::Receiver<Report>,
}

impl Kept {
    async fn start(server: ApiServer, service: Service) -> Self {
        let patience = Patience { first: Duration::from_millis(1), most: Duration::from_millis(20) };
        let keeper = Keeper::new(client(&server).await, "models", patience, &[Kind::Ingress]);
        let (wanted, receiver) = watch::channel(Arc::new(BTreeMap::from([(service.name.clone(), service)])));
        let (sender, reports) = mpsc::channel(100);
        tokio::spawn(keeper.run(receiver, sender));
        Self { server, wanted, reports }
    }

    fn want(&self, service: Service) {
        self.wanted.send_replace(Arc::new(BTreeMap::from([(service.name.clone(), service)])));
    }

    /// The first report that fits.
    async fn until(&mut self, what: &str, fits: impl Fn(&Report) -> bool) -> Report {
        let mut told = Vec::new();
        let found = async {
            loop {
                let report = self.reports.recv().await.expect("the keeper runs");
                if fits(&report) {
                    return report;
                }
                told.push(format!("{:?} {:?}", report.put_back, report.error));
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), found).await;
        found.unwrap_or_else(|_| panic!("never {what}, but {told:#?}"))
    }

    async fn state(&mut self, state: State) -> String {
        let is = |report: &Report| report.status.as_ref().is_some_and(|status| status.state == state);
        let report = self.until(&format!("{state}"), is).await;
        report.status.map(|status| status.reason).unwrap_or_default()
    }

    /// Waits until the server has it so.
    async fn becomes(&mut self, what: &str, so: impl Fn(&ApiServer) -> bool) {
        let found = async {
            while !so(&self.server) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), found).await.unwrap_or_else(|_| panic!("never {what}"));
    }
}

fn ready() -> serde_json::Value {
    json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] })
}

fn image_pull() -> serde_json::Value {
    json!({ "phase": "Pending", "containerStatuses": [
        { "image": "digits:1", "restartCount": 0, "state": { "waiting": { "reason": "ImagePullBackOff", "message": "not found" } } },
    ] })
}

fn image(server: &ApiServer) -> serde_json::Value {
    let live = server.get(DEPLOYMENTS, &deployment('a'));
    live.map(|live| live["spec"]["template"]["spec"]["containers"][0]["image"].clone()).unwrap_or_default()
}

fn edit_image(server: &ApiServer) {
    server.change(|store| {
        store.edit(DEPLOYMENTS, &deployment('a'), "kubectl-edit", "", |object| {
            object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other:1");
        });
    });
}

#[tokio::test]
async fn states_follow_what_the_cluster_does() {
    let mut kept = Kept::start(ApiServer::start().await, service('a')).await;
    kept.state(State::Transitioning).await;
    kept.server.change(|store| {
        roll_out(store, 'a', 0);
        make_pod(store, 'a', image_pull());
    });
    assert!(kept.state(State::Failed).await.contains("cannot be pulled: not found"));
    kept.server.change(|store| {
        roll_out(store, 'a', 2);
        make_pod(store, 'a', ready());
    });
    assert_eq!(kept.state(State::Healthy).await, "2 of 2 replicas answer");
    kept.want(next(&service('b'), |_| {}));
    kept.state(State::Transitioning).await;
    kept.server.change(|store| roll_out(store, 'b', 2));
    kept.state(State::Healthy).await;
    kept.becomes("pruned", |server| server.names(DEPLOYMENTS) == [deployment('b')]).await;
    kept.wanted.send_replace(Arc::default());
    kept.becomes("deleted", |server| server.names(DEPLOYMENTS).is_empty() && server.names("v1/services").is_empty())
        .await;
}

#[tokio::test]
async fn drift_is_put_back_whatever_became_of_the_watch() {
    let mut kept = Kept::start(ApiServer::start().await, service('a')).await;
    kept.state(State::Transitioning).await;
    edit_image(&kept.server);
    kept.until("put back", |report| !report.put_back.is_empty()).await;
    kept.becomes("as it was", |server| image(server) == "digits:1").await;

    // The watch is cut and its place is forgotten: a list shows what was missed.
    kept.server.change(|store| {
        store.edit("v1/services", "digits", "kubectl-edit", "", |object| {
            object["spec"]["ports"][0]["targetPort"] = json!(9)
        });
        store.compact();
        store.bookmarks += 1;
        store.cuts += 1;
    });
    kept.until("put back after 410", |report| report.put_back.keys().any(|subject| subject.starts_with("Service ")))
        .await;

    // A bookmark moves the place on, so that a cut after it needs no list.
    kept.server.change(|store| store.bookmarks += 1);
    let uid = kept.server.get("v1/secrets", "digits").unwrap()["metadata"]["uid"].clone();
    kept.server.change(|store| {
        store.cuts += 1;
        store.delete("v1/secrets", "models", "digits", None).unwrap();
    });
    kept.until("made again", |report| report.put_back.values().any(|field| field == "it is gone")).await;
    assert_ne!(kept.server.get("v1/secrets", "digits").unwrap()["metadata"]["uid"], uid);
}

#[tokio::test]
async fn two_that_change_the_same_field_do_not_fight_for_ever() {
    let mut kept = Kept::start(ApiServer::start().await, service('a')).await;
    kept.state(State::Transitioning).await;
    for _ in 0..3 {
        edit_image(&kept.server);
        kept.until("put back", |report| !report.put_back.is_empty()).await;
        kept.becomes("as it was", |server| image(server) == "digits:1").await;
    }
    edit_image(&kept.server);
    let report = kept.until("given up", |report| report.error.is_some()).await;
    let error = report.error.unwrap();
    assert_eq!(error.code(), "cluster_conflict");
    assert!(error.to_string().contains("changed it 4 times"), "{error}");
}

#[tokio::test]
async fn what_fails_for_a_while_is_tried_again_and_told() {
    let server = ApiServer::start().await;
    let quota = "services \"digits\" is forbidden: exceeded quota: small";
    server.change(|store| {
        store.page = Some(2);
        store.faults.push(Fault {
            holds: "PATCH /api/v1/namespaces/models/services",
            times: 2,
            code: 403,
            reason: "Forbidden",
            message: quota,
        });
        store.faults.push(Fault {
            holds: "watch=true",
            times: 5,
            code: 503,
            reason: "ServiceUnavailable",
            message: "later",
        });
    });
    let mut kept = Kept::start(server, service('a')).await;
    let report = kept.until("a quota", |report| report.error.is_some()).await;
    assert_eq!(report.error.unwrap().code(), "cluster_quota");
    kept.state(State::Transitioning).await;
    kept.becomes("applied", |server| !server.names(DEPLOYMENTS).is_empty()).await;
    kept.server.change(|store| roll_out(store, 'a', 2));
    kept.state(State::Healthy).await;
}

#[tokio::test]
async fn a_new_generation_does_not_wait_for_the_pause_of_the_one_before() {
    let server = ApiServer::start().await;
    server.change(|store| {
        let message = "spec.x: Invalid value";
        store.faults.push(Fault { holds: "PATCH /apis/apps", times: 1, code: 422, reason: "Invalid", message });
    });
    let patience = Patience { first: Duration::from_secs(3600), most: Duration::from_secs(3600) };
    let keeper = Keeper::new(client(&server).await, "models", patience, &[]);
    let (wanted, receiver) = watch::channel(Arc::new(BTreeMap::from([("digits".to_owned(), service('a'))])));
    let (sender, reports) = mpsc::channel(100);
    tokio::spawn(keeper.run(receiver, sender));
    let mut kept = Kept { server, wanted, reports };
    kept.until("refused", |report| report.error.as_ref().is_some_and(|error| error.code() == "cluster_refused")).await;
    kept.want(next(&service('a'), |_| {}));
    kept.becomes("applied", |server| !server.names(DEPLOYMENTS).is_empty()).await;
}

#[tokio::test]
async fn a_cluster_that_goes_away_makes_what_is_known_old_and_its_return_makes_it_fresh() {
    let mut kept = Kept::start(ApiServer::start().await, service('a')).await;
    kept.state(State::Transitioning).await;
    kept.server.change(|store| {
        store.faults.push(Fault {
            holds: "watch=true",
            times: 30,
            code: 503,
            reason: "ServiceUnavailable",
            message: "later",
        });
        store.cuts += 1;
    });
    let report = kept.until("stale", |report| report.stale.is_some()).await;
    assert!(report.stale.is_some_and(|why| why.contains("503")) && report.status.is_some());
    kept.until("fresh", |report| report.stale.is_none()).await;
}
