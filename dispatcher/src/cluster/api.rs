//! The requests that are made of an API server, on plain JSON, and what its answers mean.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use http::Request;
use http::header::CONTENT_TYPE;
use kube::Client;
use kube::core::{Status, WatchEvent};
use serde_json::{Value, json};

use super::error::Conflict;
use super::object::text;
use super::{Error, Kind, Object};
use crate::domain::service::Kubernetes;

/// A request that is no watch and takes longer was lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A watch ends by itself after so long, a little before the client would give up on it.
const WATCH_SECONDS: u32 = 290;
/// Objects of one page of a list.
const PAGE: u32 = 500;

/// A cluster, as one account sees it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

/// A kind of objects, as it is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection {
    /// Group and version.
    pub api_version: &'static str,
    /// The name in a path.
    pub plural: &'static str,
}

impl From<Kind> for Collection {
    fn from(kind: Kind) -> Self {
        Self { api_version: kind.api_version(), plural: kind.plural() }
    }
}

impl Collection {
    pub(super) fn path(self, namespace: &str) -> String {
        let root = if self.api_version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{}/namespaces/{namespace}/{}", self.api_version, self.plural)
    }
}

/// Which objects of a collection.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// A label selector, empty for all.
    pub labels: String,
    /// A field selector, empty for all.
    pub fields: String,
}

impl Selection {
    fn query(&self) -> String {
        format!("labelSelector={}&fieldSelector={}", encoded(&self.labels), encoded(&self.fields))
    }
}

/// Whether fields that others hold are taken from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// They are left to them, and the request fails.
    Respect,
    /// They are taken.
    Take,
}

impl Cluster {
    /// The cluster that `target` means: a context of a kubeconfig, or the one whose pod this runs in.
    pub async fn connect(target: &Kubernetes) -> Result<Self, Error> {
        Ok(Self { client: super::connect::client(target).await? })
    }

    /// The version of the server, e.g. `v1.36.1`: whether it is there and knows the account.
    pub async fn version(&self) -> Result<String, Error> {
        let version: Value = self.request("the server's version", "GET", "/version", None, "").await?;
        Ok(text(&version, "/gitVersion").to_owned())
    }

    /// The object, if it is there.
    pub(super) async fn get(&self, kind: Kind, namespace: &str, name: &str) -> Result<Option<Value>, Error> {
        let path = format!("{}/{name}", Collection::from(kind).path(namespace));
        let subject = format!("{} {namespace}/{name}", kind.name());
        match self.request(&subject, "GET", &path, None, "").await {
            Ok(value) => Ok(Some(value)),
            Err(Error::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects of a selection, and the version from which a watch goes on.
    pub(super) async fn list(
        &self,
        of: Collection,
        namespace: &str,
        which: &Selection,
    ) -> Result<(Vec<Value>, String), Error> {
        let subject = format!("the {} of {namespace}", of.plural);
        let (mut all, mut next) = (Vec::new(), String::new());
        loop {
            let path = format!("{}?{}&limit={PAGE}&continue={}", of.path(namespace), which.query(), encoded(&next));
            let mut page = self.request(&subject, "GET", &path, None, "").await?;
            let kind = text(&page, "/kind").strip_suffix("List").unwrap_or_default().to_owned();
            if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
                all.extend(items.into_iter().map(|item| typed(item, of.api_version, &kind)));
            }
            next = text(&page, "/metadata/continue").to_owned();
            if next.is_empty() {
                return Ok((all, text(&page, "/metadata/resourceVersion").to_owned()));
            }
        }
    }

    /// What happens to a selection after `version`, until the server ends the stream.
    pub(super) async fn events(
        &self,
        of: Collection,
        namespace: &str,
        which: &Selection,
        version: &str,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>, Error>> + Send + use<>, Error> {
        let subject = format!("the {} of {namespace}", of.plural);
        let path = format!(
            "{}?{}&watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}",
            of.path(namespace),
            which.query(),
            encoded(version)
        );
        let stream = self.client.request_events(built(&subject, "GET", &path, None, "")?).await;
        let stream = stream.map_err(|error| meaning(&subject, error))?;
        Ok(stream.map(move |event| event.map_err(|error| meaning(&subject, error))))
    }

    /// Server-side apply of `object` in the name of `manager`; the object as it then is.
    pub(super) async fn patch(&self, object: &Object, manager: &str, ownership: Ownership) -> Result<Value, Error> {
        let path = format!(
            "{}/{}?fieldManager={manager}&force={}&fieldValidation=Strict",
            Collection::from(object.kind).path(&object.namespace),
            object.name,
            ownership == Ownership::Take
        );
        self.request(&object.subject(), "PATCH", &path, Some(&object.value), "application/apply-patch+yaml").await
    }

    /// Sets the number of replicas of a Deployment.
    pub(super) async fn scale(&self, namespace: &str, name: &str, replicas: u32, manager: &str) -> Result<(), Error> {
        let path =
            format!("{}/{name}/scale?fieldManager={manager}", Collection::from(Kind::Deployment).path(namespace));
        let body = json!({ "spec": { "replicas": replicas } });
        self.request(
            &format!("Deployment {namespace}/{name}"),
            "PATCH",
            &path,
            Some(&body),
            "application/merge-patch+json",
        )
        .await?;
        Ok(())
    }

    /// Deletes the very object that was looked at, and what it owns; gone is as good as deleted.
    pub(super) async fn delete(&self, kind: Kind, live: &Value) -> Result<(), Error> {
        let (namespace, name) = (text(live, "/metadata/namespace"), text(live, "/metadata/name"));
        let subject = format!("{} {namespace}/{name}", kind.name());
        let path = format!("{}/{name}", Collection::from(kind).path(namespace));
        let body = json!({
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background",
            "preconditions": { "uid": text(live, "/metadata/uid") },
        });
        match self.request(&subject, "DELETE", &path, Some(&body), "application/json").await {
            Ok(_) | Err(Error::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn request(
        &self,
        subject: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
        form: &str,
    ) -> Result<Value, Error> {
        let request = built(subject, method, path, body, form)?;
        match tokio::time::timeout(REQUEST_TIMEOUT, self.client.request(request)).await {
            Ok(answer) => answer.map_err(|error| meaning(subject, error)),
            Err(_) => Err(Error::Away { reason: format!("no answer within {} seconds", REQUEST_TIMEOUT.as_secs()) }),
        }
    }
}

/// An item of a list, which leaves out what the list says of all of them; a watch and a get tell it of each.
fn typed(mut item: Value, api_version: &str, kind: &str) -> Value {
    for (name, value) in [("apiVersion", api_version), ("kind", kind)] {
        if item[name].is_null() && !value.is_empty() {
            item[name] = json!(value);
        }
    }
    item
}

fn built(subject: &str, method: &str, path: &str, body: Option<&Value>, form: &str) -> Result<Request<Vec<u8>>, Error> {
    let mut request = Request::builder().method(method).uri(path);
    if !form.is_empty() {
        request = request.header(CONTENT_TYPE, form);
    }
    let body = body.map(|value| value.to_string().into_bytes()).unwrap_or_default();
    request.body(body).map_err(|source| Error::Unreadable { subject: subject.into(), source: source.into() })
}

/// What a failed request means.
fn meaning(subject: &str, error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) => refusal(subject, *status),
        kube::Error::Auth(error) => Error::Credentials { reason: chain(&error) },
        kube::Error::SerdeError(source) => Error::Unreadable { subject: subject.into(), source: source.into() },
        other => Error::Away { reason: chain(&other) },
    }
}

/// What a refusal of the server means.
pub(super) fn refusal(subject: &str, status: Status) -> Error {
    let (subject, message) = (subject.to_owned(), status.message);
    match status.code {
        401 => Error::Unauthorized { message },
        403 if message.contains("exceeded quota") => Error::Quota { subject, message },
        // Admission answers with the same code as a missing right.
        403 if ["admission webhook", "violates PodSecurity", "being terminated", "AdmissionPolicy"]
            .iter()
            .any(|words| message.contains(words)) =>
        {
            Error::Refused { subject, message }
        }
        403 => Error::Forbidden { subject, message },
        404 => Error::Missing { subject, message },
        409 => {
            let causes = status.details.map(|details| details.causes).unwrap_or_default();
            let held = causes.into_iter().filter(|cause| cause.reason == "FieldManagerConflict");
            let fields: Vec<Conflict> =
                held.map(|cause| Conflict { manager: holder(&cause.message), field: cause.field }).collect();
            if fields.is_empty() {
                Error::Server { subject, code: 409, message }
            } else {
                Error::Conflict { subject, fields }
            }
        }
        code @ (400..=428 | 430..=499) if code != 408 && code != 410 => Error::Refused { subject, message },
        code => Error::Server { subject, code, message },
    }
}

/// The manager's name in `conflict with "kubectl-edit" using apps/v1`.
fn holder(message: &str) -> String {
    message.split('"').nth(1).unwrap_or(message).to_owned()
}

/// An error and its causes in one line, none said twice.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// `text` as a value of a query.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
