//! Apply, prune and delete.

use muster_dispatcher::cluster::{Error, Ownership};
use muster_dispatcher::domain::service::{Load, Replicas, Route, Service, Target};
use serde_json::{Value, json};

use crate::apiserver::{ApiServer, Fault};
use crate::support::{DEPLOYMENTS, client, deployment, next, roll_out, service};

const SERVICES: &str = "v1/services";
const SCALERS: &str = "autoscaling/v2/horizontalpodautoscalers";

fn versions(server: &ApiServer) -> Vec<Value> {
    let of = |collection: &str| -> Vec<Value> {
        let names = server.names(collection);
        names.iter().map(|name| server.get(collection, name).unwrap()["metadata"]["resourceVersion"].clone()).collect()
    };
    [DEPLOYMENTS, SERVICES, "v1/secrets", "v1/configmaps", "policy/v1/poddisruptionbudgets"]
        .into_iter()
        .flat_map(of)
        .collect()
}

#[tokio::test]
async fn a_service_is_created_and_a_second_apply_changes_nothing() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    let first = cluster.apply(&service('a'), Ownership::Respect).await.unwrap();
    assert_eq!(first.created.len(), 7, "{first:?}");
    assert_eq!(server.names(DEPLOYMENTS), [deployment('a')]);
    let before = versions(&server);
    let second = cluster.apply(&service('a'), Ownership::Respect).await.unwrap();
    assert!(second.created.is_empty() && second.put_back.is_empty());
    assert_eq!(versions(&server), before);
}

#[tokio::test]
async fn what_another_applier_holds_is_reported_and_taken_only_when_asked() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    cluster.apply(&service('a'), Ownership::Respect).await.unwrap();
    server.change(|store| {
        let body = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "replicas": 9 } });
        store.apply(DEPLOYMENTS, "models", &deployment('a'), &body, "argocd", true).unwrap();
    });
    let changed = next(&service('a'), |service| service.settings.replicas = Replicas::Fixed(3));
    let error = cluster.apply(&changed, Ownership::Respect).await.unwrap_err();
    assert_eq!(error.code(), "cluster_conflict");
    assert!(error.to_string().contains(".spec.replicas by argocd"), "{error}");
    assert_eq!(server.get(DEPLOYMENTS, &deployment('a')).unwrap()["spec"]["replicas"], 9);
    cluster.apply(&changed, Ownership::Take).await.unwrap();
    assert_eq!(server.get(DEPLOYMENTS, &deployment('a')).unwrap()["spec"]["replicas"], 3);
}

#[tokio::test]
async fn what_was_ours_and_was_edited_is_put_back() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    cluster.apply(&service('a'), Ownership::Respect).await.unwrap();
    server.change(|store| {
        store.edit(DEPLOYMENTS, &deployment('a'), "kubectl-edit", "", |object| {
            object["spec"]["template"]["spec"]["containers"][0]["image"] = json!("evil:1");
            object["metadata"]["annotations"]["note"] = json!("mine");
        });
    });
    let applied = cluster.apply(&service('a'), Ownership::Respect).await.unwrap();
    assert_eq!(applied.put_back.len(), 1);
    assert!(applied.put_back[0].contains("image by kubectl-edit"), "{applied:?}");
    let live = server.get(DEPLOYMENTS, &deployment('a')).unwrap();
    assert_eq!(live["spec"]["template"]["spec"]["containers"][0]["image"], "digits:1");
    assert_eq!(live["metadata"]["annotations"]["note"], "mine", "what was never ours stays");
}

#[tokio::test]
async fn nothing_is_touched_where_a_name_belongs_to_somebody_else() {
    let server = ApiServer::start().await;
    server.change(|store| {
        let labels = json!({ "metadata": { "labels": { "app.kubernetes.io/managed-by": "Helm" } } });
        store.make(SERVICES, "Service", "digits", labels, "helm");
    });
    let error = client(&server).await.apply(&service('a'), Ownership::Take).await.unwrap_err();
    assert_eq!(error.code(), "cluster_name_taken");
    assert!(error.to_string().contains("managed by \"Helm\""), "{error}");
    assert!(server.names(DEPLOYMENTS).is_empty() && server.names("v1/secrets").is_empty());
}

#[tokio::test]
async fn an_old_version_shrinks_as_the_new_one_comes_up_and_then_goes() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    cluster.apply(&service('a'), Ownership::Respect).await.unwrap();
    server.change(|store| roll_out(store, 'a', 2));
    let kept = |kind| server.get(kind, "digits").unwrap()["metadata"]["uid"].clone();
    let (url, keys) = (kept(SERVICES), kept("v1/secrets"));
    let new = next(&service('b'), |service| service.revisions[0].version = 2);
    cluster.apply(&new, Ownership::Respect).await.unwrap();

    let pruned = cluster.prune(&new).await.unwrap();
    assert!(pruned.deleted.is_empty(), "{pruned:?}");
    assert_eq!(server.get(DEPLOYMENTS, &deployment('a')).unwrap()["spec"]["replicas"], 2, "nothing new answers yet");

    server.change(|store| roll_out(store, 'b', 1));
    cluster.prune(&new).await.unwrap();
    assert_eq!(server.get(DEPLOYMENTS, &deployment('a')).unwrap()["spec"]["replicas"], 1);

    server.change(|store| roll_out(store, 'b', 2));
    let pruned = cluster.prune(&new).await.unwrap();
    assert_eq!((pruned.deleted.len(), pruned.waiting.len()), (2, 0), "{pruned:?}");
    assert_eq!(server.names(DEPLOYMENTS), [deployment('b')]);
    assert_eq!((kept(SERVICES), kept("v1/secrets")), (url, keys));
}

#[tokio::test]
async fn a_version_that_shrinks_comes_back_when_it_is_wanted_again() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    cluster.apply(&service('a'), Ownership::Respect).await.unwrap();
    let new = next(&service('b'), |_| {});
    cluster.apply(&new, Ownership::Respect).await.unwrap();
    server.change(|store| roll_out(store, 'b', 1));
    cluster.prune(&new).await.unwrap();
    let replicas = || server.get(DEPLOYMENTS, &deployment('a')).unwrap()["spec"]["replicas"].clone();
    assert_eq!(replicas(), 1);
    for generation in [3, 4] {
        let back = next(&service('a'), |service| service.generation = generation);
        cluster.apply(&back, Ownership::Respect).await.unwrap();
        assert_eq!(replicas(), 2);
    }
}

#[tokio::test]
async fn what_a_service_no_longer_wants_goes_and_what_is_not_its_own_stays() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    cluster.apply(&service('a'), Ownership::Respect).await.unwrap();
    server.change(|store| {
        roll_out(store, 'a', 2);
        let labels = json!({ "app.kubernetes.io/managed-by": "muster", "muster.dev/service": "other", "muster.dev/workspace": "vision" });
        store.make("v1/configmaps", "ConfigMap", "other", json!({ "metadata": { "labels": labels } }), "muster");
        store.missing.insert("gateway.networking.k8s.io/v1/httproutes".into());
    });
    let open = next(&service('a'), |service| {
        let Target::Kubernetes(target) = &mut service.target else { panic!("not on a cluster") };
        target.network_policy = false;
    });
    cluster.apply(&open, Ownership::Respect).await.unwrap();
    server.change(|store| roll_out(store, 'a', 2));
    assert_eq!(cluster.prune(&open).await.unwrap().deleted, ["NetworkPolicy digits"]);
    assert_eq!(cluster.delete_service(&open).await.unwrap(), 6);
    assert_eq!(server.names("v1/configmaps"), ["other"]);
    assert!(server.names(DEPLOYMENTS).is_empty());
}

#[tokio::test]
async fn replicas_are_handed_to_an_autoscaler_and_back_without_a_drop() {
    let server = ApiServer::start().await;
    let cluster = client(&server).await;
    let replicas = || server.get(DEPLOYMENTS, &deployment('a')).unwrap()["spec"]["replicas"].clone();
    let fixed = next(&service('a'), |service| service.settings.replicas = Replicas::Fixed(5));
    cluster.apply(&fixed, Ownership::Respect).await.unwrap();
    let auto =
        next(&fixed, |service| service.settings.replicas = Replicas::Auto { min: 2, max: 8, target: Load::Cpu(70) });
    cluster.apply(&auto, Ownership::Respect).await.unwrap();
    assert_eq!(replicas(), 5, "a field that nobody held would be 1 again");
    assert_eq!(server.names(SCALERS), [deployment('a')]);
    server.change(|store| {
        store.edit(DEPLOYMENTS, &deployment('a'), "kube-controller-manager", "scale", |object| {
            object["spec"]["replicas"] = json!(7)
        });
    });
    cluster.apply(&auto, Ownership::Respect).await.unwrap();
    assert_eq!(replicas(), 7);
    let fixed = next(&auto, |service| service.settings.replicas = Replicas::Fixed(3));
    cluster.apply(&fixed, Ownership::Respect).await.unwrap();
    assert_eq!(replicas(), 3);
    assert!(server.names(SCALERS).is_empty());
    let more = next(&fixed, |service| service.settings.replicas = Replicas::Fixed(4));
    cluster.apply(&more, Ownership::Respect).await.unwrap();
    assert_eq!(replicas(), 4);
}

#[tokio::test]
async fn each_refusal_has_its_code_its_words_and_a_next_step() {
    const ALL: &str = "PATCH /api";
    let gateway = |service: &mut Service| {
        let Target::Kubernetes(target) = &mut service.target else { panic!("not on a cluster") };
        target.route = Some(Route::Gateway { name: "public".into(), namespace: None, section: None, host: None });
    };
    let fault = |code, reason, message| Fault { holds: ALL, times: 100, code, reason, message };
    let rbac = "secrets \"digits\" is forbidden: User \"system:serviceaccount:muster:muster\" cannot patch resource \"secrets\"";
    let quota = "services \"digits\" is forbidden: exceeded quota: small, requested: services=1, used: services=5, limited: services=5";
    for (fault, code, words, transient) in [
        (fault(401, "Unauthorized", "Unauthorized"), "cluster_unauthorized", "does not accept the credentials", false),
        (fault(403, "Forbidden", rbac), "cluster_forbidden", "cannot patch resource", false),
        (fault(403, "Forbidden", quota), "cluster_quota", "no room for ServiceAccount models/digits", true),
        (fault(403, "Forbidden", "admission webhook \"x\" denied the request"), "cluster_refused", "denied", false),
        (fault(422, "Invalid", "spec.x: Invalid value"), "cluster_refused", "Invalid value", false),
        (fault(429, "TooManyRequests", "slow down"), "cluster_failed", "429", true),
        (fault(500, "InternalError", "etcd"), "cluster_failed", "500", true),
    ] {
        let server = ApiServer::start().await;
        server.change(|store| store.faults.push(fault));
        let error = client(&server).await.apply(&service('a'), Ownership::Respect).await.unwrap_err();
        assert_eq!((error.code(), error.is_transient()), (code, transient), "{error}");
        assert!(error.to_string().contains(words) && !error.next_step().is_empty(), "{error}");
    }
    let server = ApiServer::start().await;
    server.change(|store| store.missing.insert("gateway.networking.k8s.io/v1/httproutes".into()));
    let error = client(&server).await.apply(&next(&service('a'), gateway), Ownership::Respect).await.unwrap_err();
    assert_eq!(error.code(), "cluster_missing", "{error}");
    let elsewhere = next(&service('a'), |service| {
        let Target::Kubernetes(target) = &mut service.target else { panic!("not on a cluster") };
        target.namespace = "nowhere".into();
    });
    let error = client(&server).await.apply(&elsewhere, Ownership::Respect).await.unwrap_err();
    assert!(matches!(&error, Error::Missing { message, .. } if message.contains("namespaces \"nowhere\"")), "{error}");
}
