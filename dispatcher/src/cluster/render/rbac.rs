//! The rights that keeping services needs, and none beside them.

use serde_json::{Value, json};

use super::yaml;
use crate::cluster::Kind;

/// Everything that is applied is read, made, changed by patch and deleted; nothing is ever replaced by PUT.
const KEPT: [&str; 6] = ["get", "list", "watch", "create", "patch", "delete"];

/// An account called `muster` in `home`, where the dispatcher runs, and its rights in `namespace`, where services run.
///
/// Kubernetes cannot bind rights to labels, so that all secrets of `namespace` can be read: give services a namespace
/// of their own. No right is for the whole cluster; the namespace has to exist.
pub fn rbac(namespace: &str, home: &str) -> String {
    let mut rules: Vec<Value> = Vec::new();
    for kind in Kind::ALL {
        let group = kind.api_version().rsplit_once('/').map_or("", |(group, _)| group);
        match rules.iter_mut().find(|rule| rule["apiGroups"] == json!([group])) {
            Some(rule) => rule["resources"].as_array_mut().into_iter().for_each(|all| all.push(json!(kind.plural()))),
            None => rules.push(json!({ "apiGroups": [group], "resources": [kind.plural()], "verbs": KEPT })),
        }
    }
    let resources = json!(["modelservices", "modelservices/status"]);
    rules.push(
        json!({ "apiGroups": ["muster.dev"], "resources": resources, "verbs": ["get", "list", "watch", "patch"] }),
    );
    rules.push(json!({ "apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"] }));
    rules.push(json!({ "apiGroups": ["apps"], "resources": ["replicasets"], "verbs": ["list", "watch"] }));
    rules.push(json!({ "apiGroups": [""], "resources": ["pods", "events"], "verbs": ["list", "watch"] }));
    let labels = json!({ "app.kubernetes.io/name": "muster" });
    let metadata = |namespace: &str| json!({ "name": "muster", "namespace": namespace, "labels": labels });
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(home) });
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata(namespace), "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata(namespace),
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "muster" },
        "subjects": [{ "kind": "ServiceAccount", "name": "muster", "namespace": home }],
    });
    [account, role, binding].iter().map(|object| format!("---\n{}", yaml(object))).collect()
}
