//! The pod of a revision: one container without rights, under the restricted Pod Security Standard.

use serde_json::{Value, json};

use super::quantity::{bytes, millicores, whole_mebibytes};
use super::{Plan, config, fingerprint};
use crate::cluster::names::{REVISION, of_revision, revision_labels, selector, short};
use crate::domain::service::{Amount, Kubernetes, Revision, Service, Spread};

/// The port of the protocols, REST and gRPC alike.
pub const HTTP_PORT: u16 = 8080;
/// The port of metrics.
pub const ADMIN_PORT: u16 = 8081;

/// So long a pod that ends still gets requests: until each node has heard that it does.
const PROPAGATION_SECONDS: u64 = 5;
/// A model may take so long to load: Azure ML's 310 seconds.
const STARTUP_SECONDS: u32 = 310;
/// The user of a container; distroless images call it nonroot.
pub const USER: u32 = 65532;
/// Bytes that a server takes beside its model, and what an unmeasured model gets.
const SERVER_BYTES: u64 = 32 << 20;
const UNMEASURED_BYTES: u64 = 512 << 20;
/// Bytes of `/tmp`, and of the fetched bundle beside its own size.
const TMP_BYTES: u64 = 64 << 20;
const STORE_BYTES: u64 = 2 << 30;

/// The pod template.
pub fn template(plan: &Plan, revision: &Revision) -> Value {
    let (service, target) = (plan.service, plan.target);
    let fetched = revision.image.is_none();
    let mut labels = json!(revision_labels(service, revision));
    let mut annotations = json!({ "muster.dev/config": fingerprint(&config::config_map(service, revision)) });
    if target.prometheus {
        annotations["prometheus.io/scrape"] = json!("true");
        annotations["prometheus.io/port"] = json!(ADMIN_PORT.to_string());
        annotations["prometheus.io/path"] = json!("/metrics");
    }
    if target.workload_identity.is_some() {
        labels["azure.workload.identity/use"] = json!("true");
    }
    let mut spec = json!({
        "serviceAccountName": service.name,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace_seconds(service),
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container(service, target, revision)],
        "volumes": volumes(service, revision, fetched),
    });
    if let Some(secret) = &target.pull_secret {
        spec["imagePullSecrets"] = json!([{ "name": secret }]);
    }
    if !target.node_selector.is_empty() {
        spec["nodeSelector"] = json!(target.node_selector);
    }
    if !target.tolerations.is_empty() {
        spec["tolerations"] = tolerations(target);
    }
    if target.spread != Spread::Off {
        spec["topologySpreadConstraints"] = spread(service, target.spread, revision);
    }
    json!({ "metadata": { "labels": labels, "annotations": annotations }, "spec": spec })
}

/// How long a pod may take to end: what is still routed to it, then what it has begun, and a little.
pub fn grace_seconds(service: &Service) -> u64 {
    let settings = &service.settings;
    PROPAGATION_SECONDS + (settings.queue_wait_ms + settings.timeout_ms).div_ceil(1000) + 5
}

/// The memory of a revision: what was asked for, or what was measured and a quarter more beside the server's own. The
/// limit is twice the request, because a model that leaks is to end itself and not its neighbours.
pub fn memory(service: &Service, revision: &Revision) -> Amount {
    let asked = service.settings.memory;
    let request = asked.map_or_else(
        || {
            // Batches have a plan of their own, with weights of its own.
            let plans = if service.settings.max_batch_size > 1 { 2 } else { 1 };
            let measured = revision.memory.map(|bytes| bytes.saturating_mul(plans));
            let measured = measured.map(|bytes| bytes.saturating_add(bytes / 4).saturating_add(SERVER_BYTES));
            whole_mebibytes(measured.unwrap_or(UNMEASURED_BYTES))
        },
        |amount| amount.request,
    );
    Amount { request, limit: Some(asked.and_then(|amount| amount.limit).unwrap_or(request.saturating_mul(2))) }
}

fn container(service: &Service, target: &Kubernetes, revision: &Revision) -> Value {
    let mut mounts = vec![
        json!({ "name": "config", "mountPath": config::FOLDER, "readOnly": true }),
        json!({ "name": "secrets", "mountPath": config::SECRETS, "readOnly": true }),
        json!({ "name": "tmp", "mountPath": "/tmp" }),
    ];
    if revision.image.is_none() {
        mounts.push(json!({ "name": "store", "mountPath": "/var/lib/muster" }));
    }
    let mut container = json!({
        "name": "server",
        "image": revision.image.as_ref().unwrap_or(&target.image),
        "imagePullPolicy": target.image_pull_policy.name(),
        "args": ["serve", "--file", format!("{}/serve.toml", config::FOLDER)],
        "ports": [
            { "name": "http", "containerPort": HTTP_PORT, "protocol": "TCP" },
            { "name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP" },
        ],
        "resources": resources(service, revision),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "startupProbe": probe("/v2/health/ready", 1, STARTUP_SECONDS),
        "readinessProbe": probe("/v2/health/ready", 2, 2),
        "livenessProbe": probe("/healthz", 10, 3),
        // By the kubelet itself: the image has no shell and no `sleep`.
        "lifecycle": { "preStop": { "sleep": { "seconds": PROPAGATION_SECONDS } } },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    });
    if !service.settings.env.is_empty() {
        let env = service.settings.env.iter();
        container["env"] = env.map(|(name, value)| json!({ "name": name, "value": value })).collect();
    }
    container
}

fn resources(service: &Service, revision: &Revision) -> Value {
    let (cpu, memory) = (service.settings.cpu, memory(service, revision));
    let mut limits = json!({});
    if let Some(limit) = cpu.limit {
        limits["cpu"] = json!(millicores(limit));
    }
    if let Some(limit) = memory.limit {
        limits["memory"] = json!(bytes(limit));
    }
    json!({ "requests": { "cpu": millicores(cpu.request), "memory": bytes(memory.request) }, "limits": limits })
}

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": path, "port": "http" },
        "periodSeconds": period, "timeoutSeconds": 2, "failureThreshold": failures,
    })
}

fn volumes(service: &Service, revision: &Revision, fetched: bool) -> Value {
    let mut volumes = vec![
        json!({ "name": "config", "configMap": { "name": of_revision(service, revision), "defaultMode": 0o444 } }),
        json!({ "name": "secrets", "secret": { "secretName": service.name, "defaultMode": 0o440 } }),
        json!({ "name": "tmp", "emptyDir": { "sizeLimit": bytes(TMP_BYTES) } }),
    ];
    if fetched {
        volumes.push(json!({ "name": "store", "emptyDir": { "sizeLimit": bytes(STORE_BYTES) } }));
    }
    json!(volumes)
}

fn tolerations(target: &Kubernetes) -> Value {
    let one = |toleration: &crate::domain::service::Toleration| {
        let mut value = json!({ "operator": if toleration.value.is_some() { "Equal" } else { "Exists" } });
        let parts = [("key", &toleration.key), ("value", &toleration.value), ("effect", &toleration.effect)];
        for (name, part) in parts {
            if let Some(part) = part {
                value[name] = json!(part);
            }
        }
        value
    };
    target.tolerations.iter().map(one).collect()
}

fn spread(service: &Service, spread: Spread, revision: &Revision) -> Value {
    let when = if spread == Spread::Require { "DoNotSchedule" } else { "ScheduleAnyway" };
    let mut matches = json!(selector(service));
    matches[REVISION] = json!(short(revision));
    let over = |key: &str| json!({ "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": { "matchLabels": matches } });
    json!([over("topology.kubernetes.io/zone"), over("kubernetes.io/hostname")])
}
