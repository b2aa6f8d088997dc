//! Services, and what a cluster's own controllers would do.

use std::io::Write as _;

use muster_dispatcher::cluster::Cluster;
use muster_dispatcher::domain::service::{Kubernetes, Replicas, Revision, Service, Settings, Target};
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, Store};

pub const DEPLOYMENTS: &str = "apps/v1/deployments";

/// A service of one version, with two replicas.
pub fn service(digest: char) -> Service {
    Service {
        name: "digits".into(),
        workspace: "vision".into(),
        generation: 1,
        revisions: vec![Revision {
            model: "digits".into(),
            version: 1,
            digest: digest.to_string().repeat(64),
            traffic: 100,
            image: Some("digits:1".into()),
            memory: Some(40 << 20),
        }],
        settings: Settings { key_hashes: vec!["1".repeat(64)], replicas: Replicas::Fixed(2), ..Settings::default() },
        fetch: None,
        target: Target::Kubernetes(Box::new(Kubernetes { namespace: "models".into(), ..Kubernetes::default() })),
    }
}

/// The next generation of `service`, changed.
pub fn next(service: &Service, change: impl FnOnce(&mut Service)) -> Service {
    let mut service = service.clone();
    service.generation += 1;
    change(&mut service);
    service
}

pub fn deployment(digest: char) -> String {
    format!("digits-{}", digest.to_string().repeat(10))
}

/// A file that is a kubeconfig.
pub fn kubeconfig(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// A client of `server`.
pub async fn client(server: &ApiServer) -> Cluster {
    let file = kubeconfig(&server.kubeconfig());
    let target = Kubernetes { kubeconfig: Some(file.path().display().to_string()), ..Kubernetes::default() };
    Cluster::connect(&target).await.unwrap()
}

/// What the Deployment controller does when `ready` replicas of a Deployment have come up.
pub fn roll_out(store: &mut Store, digest: char, ready: u32) {
    let name = deployment(digest);
    store.edit(DEPLOYMENTS, &name, "kube-controller-manager", "status", |object| {
        let wanted = object["spec"]["replicas"].as_u64().unwrap();
        let done = u64::from(ready) >= wanted;
        object["status"] = json!({
            "observedGeneration": object["metadata"]["generation"], "replicas": wanted, "updatedReplicas": wanted,
            "availableReplicas": ready,
            "conditions": [{ "type": "Progressing", "status": "True", "reason": if done { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" } }],
        });
        object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = json!("1");
    });
}

/// The ReplicaSet of a Deployment and a pod of it in the given state.
pub fn make_pod(store: &mut Store, digest: char, status: Value) {
    let uid = store.get(DEPLOYMENTS, "models", &deployment(digest)).unwrap()["metadata"]["uid"].clone();
    let labels = json!({
        "app.kubernetes.io/managed-by": "muster", "muster.dev/service": "digits",
        "muster.dev/revision": digest.to_string().repeat(10), "pod-template-hash": "h",
    });
    let set = json!({ "metadata": {
        "labels": labels, "ownerReferences": [{ "uid": uid }], "annotations": { "deployment.kubernetes.io/revision": "1" },
    } });
    store.make("apps/v1/replicasets", "ReplicaSet", "set", set, "kube-controller-manager");
    store.make("v1/pods", "Pod", "pod", json!({ "metadata": { "labels": labels }, "status": status }), "kubelet");
}
