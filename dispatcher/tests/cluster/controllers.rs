//! What the controllers of our own cluster say where nothing comes up, in the words of real ones.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::apiserver::ApiServer;
use crate::support::DEPLOYMENTS;

fn deployment(image: &str) -> Value {
    let labels = json!({ "app": "late" });
    let probe = json!({ "httpGet": { "path": "/", "port": 8080 } });
    let container = json!({ "name": "server", "image": image, "readinessProbe": probe });
    json!({ "spec": {
        "replicas": 1, "progressDeadlineSeconds": 1, "selector": { "matchLabels": labels },
        "strategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
        "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
    } })
}

/// Waits until the Deployment has missed its deadline; its pod then.
async fn missed(server: &ApiServer) -> Value {
    let late = async {
        loop {
            let status = server.get(DEPLOYMENTS, "late").unwrap()["status"].clone();
            let mut conditions = status["conditions"].as_array().into_iter().flatten();
            let progress = conditions.find(|condition| condition["type"] == "Progressing");
            if progress.is_some_and(|it| it["reason"] == "ProgressDeadlineExceeded" && it["status"] == "False") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), late).await.expect("the deadline passes");
    server.get("v1/pods", &server.names("v1/pods")[0]).unwrap()
}

#[tokio::test]
async fn a_deployment_that_does_not_come_up_in_time_says_so_and_its_pod_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let images = [("there:1".to_owned(), PathBuf::from("/"))];
    for (image, reason) in [("nowhere:1", "ErrImagePull"), ("there:1", "CrashLoopBackOff")] {
        let server = ApiServer::start().await;
        let _cluster = server.run_cluster("/bin/false".into(), images.clone().into(), folder.path().join(reason));
        server.change(|store| store.make(DEPLOYMENTS, "Deployment", "late", deployment(image), "test"));
        let pod = missed(&server).await;
        assert_eq!(pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], reason, "{pod:#}");
    }
}
