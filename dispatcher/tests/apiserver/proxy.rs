//! `services/NAME:PORT/proxy/PATH`: the request goes to one of the pods that are ready, in turn.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::controllers::{has_labels, is_ready};
use super::store::{PODS, Refusal, Store, name_of, not_found};

/// Where a request to `NAME:PORT` goes. A pod that is to end gets none from the moment on at which that is said.
pub fn endpoint(store: &Store, namespace: &str, name: &str) -> Result<String, Refusal> {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let (service_name, port) = name.split_once(':').unwrap_or((name, ""));
    let service =
        store.get("v1/services", namespace, service_name).ok_or_else(|| not_found("services", service_name))?;
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let none =
        |what: &str| Refusal(503, "ServiceUnavailable", format!("{what} available for service \"{name}\""), vec![]);
    let wanted = ports.into_iter().find(|wanted| port.is_empty() || wanted["name"] == port);
    let wanted = wanted.ok_or_else(|| none("no service port"))?;
    let pods = store.list(PODS, namespace).into_iter();
    let ready: Vec<&Value> =
        pods.filter(|pod| has_labels(pod, &service["spec"]["selector"]) && is_ready(pod)).collect();
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    let pod = ready.get(turn % ready.len().max(1)).ok_or_else(|| none("no endpoints"))?;
    let port = container_port(pod, &wanted["targetPort"]).ok_or_else(|| none("no container port"))?;
    Ok(format!("{}:{port}", pod["status"]["podIP"].as_str().unwrap_or(name_of(pod))))
}

/// The number of a port that is named or numbered.
pub fn container_port(pod: &Value, port: &Value) -> Option<u64> {
    let containers = pod["spec"]["containers"].as_array()?.iter();
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    port.as_u64().or_else(|| ports.find(|named| named["name"] == *port)?["containerPort"].as_u64())
}

/// Sends the request on, without what is between the client and the server alone.
pub async fn forward(endpoint: &str, path: &str, parts: Parts, body: Bytes) -> Response {
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::builder().method(parts.method).uri(format!("http://{endpoint}/{path}{query}"));
    let ours =
        [header::HOST, header::AUTHORIZATION, header::CONNECTION, header::CONTENT_LENGTH, header::ACCEPT_ENCODING];
    for (name, value) in parts.headers.iter().filter(|(name, _)| !ours.contains(name)) {
        request = request.header(name, value);
    }
    let request = request.body(body.to_vec()).expect("the parts of a request");
    let asked = tokio::task::spawn_blocking(move || {
        let config = ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build();
        let mut answer = ureq::Agent::new_with_config(config).run(request)?;
        let kind = answer.headers().get(header::CONTENT_TYPE).cloned();
        Ok::<_, ureq::Error>((answer.status(), kind, answer.body_mut().read_to_vec()?))
    });
    match asked.await.expect("it does not panic") {
        Ok((status, kind, body)) => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            kind.map(|kind| response.headers_mut().insert(header::CONTENT_TYPE, kind));
            response
        }
        Err(error) => {
            let message = format!("error trying to reach service: {error}");
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
                "reason": "ServiceUnavailable", "code": 503,
            });
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(status)).into_response()
        }
    }
}
