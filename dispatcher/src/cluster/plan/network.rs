//! How pods are reached, and what they reach.

use serde_json::{Value, json};

use super::Plan;
use super::pod::{ADMIN_PORT, HTTP_PORT};
use crate::cluster::names::{REVISION, of_revision, selector, short};
use crate::domain::service::{Revision, Route, Service, ServiceType};

/// The port of a Service: azureml-fe's.
const PORT: u16 = 80;

/// The account of the pods: it has no rights, and its token is not mounted.
pub fn service_account(plan: &Plan) -> Value {
    let mut account = json!({ "automountServiceAccountToken": false });
    if let Some(client) = &plan.target.workload_identity {
        account["annotations"] = json!({ "azure.workload.identity/client-id": client });
    }
    account
}

/// The Service: one URL for all revisions.
pub fn service(plan: &Plan) -> Value {
    let mut body = service_body(json!(selector(plan.service)));
    match &plan.target.service_type {
        ServiceType::ClusterIp => {}
        ServiceType::NodePort => body["spec"]["type"] = json!("NodePort"),
        ServiceType::LoadBalancer { internal, subnet } => {
            body["spec"]["type"] = json!("LoadBalancer");
            if *internal {
                body["annotations"] = json!({ "service.beta.kubernetes.io/azure-load-balancer-internal": "true" });
            }
            if let Some(subnet) = subnet {
                body["annotations"]["service.beta.kubernetes.io/azure-load-balancer-internal-subnet"] = json!(subnet);
            }
        }
    }
    body
}

/// The Service of one revision, to which a route gives its share.
pub fn revision_service(service: &Service, revision: &Revision) -> Value {
    let mut matches = json!(selector(service));
    matches[REVISION] = json!(short(revision));
    service_body(matches)
}

fn service_body(selector: Value) -> Value {
    json!({ "spec": {
        "type": "ClusterIP",
        "selector": selector,
        "ports": [{ "name": "http", "port": PORT, "protocol": "TCP", "targetPort": "http" }],
    } })
}

/// Lets in what scoring needs; lets out only what fetches the model or signs in to Azure.
pub fn policy(plan: &Plan) -> Value {
    let tcp = |port: u16| json!({ "port": port, "protocol": "TCP" });
    let fetched = plan.service.revisions.iter().any(|revision| revision.image.is_none());
    let mut out: Vec<Value> = Vec::new();
    if fetched || plan.target.workload_identity.is_some() {
        let dns = json!([{ "port": 53, "protocol": "UDP" }, { "port": 53, "protocol": "TCP" }]);
        let fetch = plan.service.fetch.as_ref().filter(|_| fetched);
        let mut ports = vec![tcp(443)];
        ports.extend(fetch.map(|fetch| https_port(&fetch.url)).filter(|&port| port != 443).map(tcp));
        out = vec![json!({ "ports": dns }), json!({ "ports": ports })];
    }
    let admin = json!({ "ports": [tcp(ADMIN_PORT)], "from": [{ "namespaceSelector": {} }] });
    json!({ "spec": {
        "podSelector": { "matchLabels": selector(plan.service) },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "ports": [tcp(HTTP_PORT)] }, admin],
        "egress": out,
    } })
}

/// The port of an HTTPS address.
fn https_port(url: &str) -> u16 {
    let authority = url.trim_start_matches("https://").split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(443)
}

/// The Ingress.
pub fn ingress(plan: &Plan) -> Value {
    let Some(Route::Ingress { class, host, tls_secret, annotations }) = &plan.target.route else { return json!({}) };
    let backend = json!({ "service": { "name": plan.service.name, "port": { "name": "http" } } });
    let mut rule = json!({ "http": { "paths": [{ "path": "/", "pathType": "Prefix", "backend": backend }] } });
    if let Some(host) = host {
        rule["host"] = json!(host);
    }
    let mut spec = json!({ "rules": [rule] });
    if let Some(class) = class {
        spec["ingressClassName"] = json!(class);
    }
    if let Some(secret) = tls_secret {
        spec["tls"] = json!([{ "secretName": secret }]);
        if let Some(host) = host {
            spec["tls"][0]["hosts"] = json!([host]);
        }
    }
    json!({ "annotations": annotations, "spec": spec })
}

/// The Gateway API's route, with exact weights.
pub fn http_route(plan: &Plan) -> Value {
    let Some(Route::Gateway { name, namespace, section, host }) = &plan.target.route else { return json!({}) };
    let mut parent = json!({ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name });
    if let Some(namespace) = namespace {
        parent["namespace"] = json!(namespace);
    }
    if let Some(section) = section {
        parent["sectionName"] = json!(section);
    }
    let backend = |revision: &Revision| {
        json!({
            "group": "", "kind": "Service", "name": of_revision(plan.service, revision),
            "port": PORT, "weight": revision.traffic,
        })
    };
    let backends: Vec<Value> = plan.service.revisions.iter().map(backend).collect();
    let matches = json!([{ "path": { "type": "PathPrefix", "value": "/" } }]);
    let mut spec = json!({ "parentRefs": [parent], "rules": [{ "matches": matches, "backendRefs": backends }] });
    if let Some(host) = host {
        spec["hostnames"] = json!([host]);
    }
    json!({ "spec": spec })
}
