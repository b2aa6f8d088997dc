//! Batch runs as Jobs.

use std::collections::BTreeMap;
use std::time::Duration;

use muster_dispatcher::cluster::jobs::{Ended, Standing};
use muster_dispatcher::cluster::plan::job::{Job, Model, plan};
use muster_dispatcher::cluster::watch::Patience;
use muster_dispatcher::cluster::{Cluster, Error};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::apiserver::ApiServer;
use crate::support::client;

const JOBS: &str = "batch/v1/jobs";
const SECRETS: &str = "v1/secrets";
const PATIENCE: Patience = Patience { first: Duration::from_millis(1), most: Duration::from_millis(10) };

fn objects(shards: u32) -> Vec<Value> {
    let job = Job {
        name: "nightly".into(),
        namespace: "models".into(),
        about: "digits:1".into(),
        image: "hub.example/digits:1".into(),
        model: Model::Image,
        inputs: vec!["https://store.example/rows.csv?sig=secret".into()],
        output: "https://store.example/{name}?sig=secret".into(),
        args: vec![],
        shards,
        parallelism: shards,
        retries: 3,
        cpu: 100,
        memory: 1 << 30,
        scratch: 1 << 30,
        volumes: vec![],
        pull_secret: None,
        service_account: None,
        node_selector: BTreeMap::new(),
        ttl_seconds: None,
    };
    plan(&job).unwrap()
}

#[tokio::test]
async fn a_job_is_made_once_and_another_of_its_name_is_left_alone() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    assert!(cluster.make_job(&objects(2)).await.unwrap());
    let job = server.get(JOBS, "nightly").unwrap();
    let secret = server.get(SECRETS, "nightly").unwrap();
    // It goes when the job goes.
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], job["metadata"]["uid"]);
    assert_eq!(secret["metadata"]["ownerReferences"][0]["kind"], "Job");

    assert!(!cluster.make_job(&objects(2)).await.unwrap(), "the same words");
    let error = cluster.make_job(&objects(3)).await.unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error}");
    assert_eq!(server.get(JOBS, "nightly").unwrap()["spec"]["completions"], 2);
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_left_alone() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    let rest = json!({ "data": { "OUTPUT": "b3RoZXI=" } });
    server.change(|store| drop(store.make(SECRETS, "Secret", "nightly", rest, "kubectl")));
    let error = cluster.make_job(&objects(2)).await.unwrap_err();
    assert!(matches!(&error, Error::Taken { subject, .. } if subject == "Secret models/nightly"), "{error}");
    assert!(server.get(JOBS, "nightly").is_none());
    assert_eq!(server.get(SECRETS, "nightly").unwrap()["data"]["OUTPUT"], "b3RoZXI=");
}

/// Follows the job and sends what is told.
fn follow(cluster: Cluster) -> (mpsc::Receiver<Standing>, tokio::task::JoinHandle<Result<Standing, Error>>) {
    let (sender, told) = mpsc::channel(64);
    let task = tokio::spawn(async move {
        let tell = |standing: &Standing, _: Option<&Error>| {
            sender.try_send(standing.clone()).unwrap();
        };
        cluster.follow_job("models", "nightly", PATIENCE, tell).await
    });
    (told, task)
}

async fn until(told: &mut mpsc::Receiver<Standing>, done: u64) {
    let wait = async { while told.recv().await.unwrap().done != done {} };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}

fn set(server: &ApiServer, status: Value) {
    server
        .change(|store| store.edit(JOBS, "nightly", "kube-controller-manager", "status", |job| job["status"] = status));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_followed_through_a_cut_to_its_end() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    cluster.make_job(&objects(2)).await.unwrap();
    let (mut told, task) = follow(cluster);
    until(&mut told, 0).await;
    set(&server, json!({ "active": 1, "succeeded": 1 }));
    until(&mut told, 1).await;
    server.change(|store| store.cuts += 1);
    let condition =
        json!({ "type": "Failed", "status": "True", "reason": "FailedIndexes", "message": "Job has failed indexes" });
    set(&server, json!({ "succeeded": 1, "failedIndexes": "1", "conditions": [condition] }));
    let standing = tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap().unwrap();
    assert_eq!((standing.done, standing.failed.as_str()), (1, "1"));
    assert_eq!(standing.ended, Some(Ended::Failed("Job has failed indexes (FailedIndexes)".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_deleted_has_ended() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    cluster.make_job(&objects(1)).await.unwrap();
    let (mut told, task) = follow(cluster);
    until(&mut told, 0).await;
    server.change(|store| store.delete(JOBS, "models", "nightly", None).unwrap());
    let standing = tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap().unwrap();
    assert_eq!(standing.ended, Some(Ended::Gone));
}
