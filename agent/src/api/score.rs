//! `/score`: the simple form. A caller sends what the input transforms take, numbers or an image, and
//! gets what the output transforms give.

mod inputs;
pub(crate) mod npy;
mod scripted;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use muster_proto::id::{Digest, ModelName, Version};
use muster_proto::manifest::Tensor;
use serde::Serialize;
use serde_json::json;

use super::body::{Held, Received};
use super::caller::Caller;
use super::error::Error;
use super::exchange::Form;
use super::find::Found;
use super::{Api, Inputs, answers, azure, body, compute, provenance};
use crate::engine::executor::Inference;
use crate::engine::json::dictionary::takes_image;
use crate::engine::transforms::Answer;
use crate::engine::{Loaded, script};

type Slot = Result<Path<String>, PathRejection>;

/// Outputs of more bytes are transformed on a thread of their own.
const LARGE: usize = 64 << 10;

/// `GET /score`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller) -> Response {
    let one = |(slot, loaded): Found| {
        let url = format!("/score/{slot}");
        json!({"slot": slot, "model": loaded.manifest.model, "version": loaded.manifest.version, "url": url})
    };
    let slots: Vec<_> = api.answering(caller).into_iter().map(one).collect();
    Json(json!({"slots": slots})).into_response()
}

/// `GET /score/{slot}`: what to send, and an example.
pub async fn usage(
    State(api): State<Arc<Api>>,
    caller: Caller,
    slot: Slot,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let found = api.find(caller, &name(slot)?, None)?;
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let mut response = Json(usage::describe(&found, host)).into_response();
    provenance(&found.1, response.headers_mut());
    Ok(response)
}

/// `POST /score`, where there is no doubt about the slot.
pub async fn score_only(State(api): State<Arc<Api>>, caller: Caller, request: Request) -> Result<Response, Error> {
    let found = api.only(caller, "/score")?;
    answer(&api, caller, found, request).await
}

/// `POST /score/{slot}`
pub async fn score(
    State(api): State<Arc<Api>>,
    caller: Caller,
    slot: Slot,
    request: Request,
) -> Result<Response, Error> {
    let found = api.find(caller, &name(slot)?, None)?;
    answer(&api, caller, found, request).await
}

fn name(slot: Slot) -> Result<String, Error> {
    let Path(slot) = slot.map_err(|_| Error::NotFound("the slot's name is not UTF-8".into()))?;
    Ok(slot.strip_suffix('/').unwrap_or(&slot).to_owned())
}

/// Answers by what was found, in the form in which `request` asks.
pub async fn answer(api: &Api, caller: Caller, found: Found, request: Request) -> Result<Response, Error> {
    if found.1.script.is_some() {
        return scripted::answer(api, caller, found, request).await;
    }
    let (head, body) = request.into_parts();
    let kind = inputs::kind_of(&head.headers)?;
    let coding = body::accepted(&head.headers);
    let received = body::receive(&head.headers, body, &api.budget_of(&found)).await?;
    let (inputs, form, held) = read(received, kind, &found.1).await?;
    let inference = api.infer(caller, &found, inputs).await?;
    drop(held);
    respond(inference, form, coding).await
}

/// The inputs in a body, and the form of the answer where it is not the simple one.
async fn read(
    received: Received,
    kind: inputs::Kind,
    loaded: &Arc<Loaded>,
) -> Result<(Inputs, Option<Form>, Held), Error> {
    let is_heavy = received.is_heavy() || loaded.manifest.transforms.inputs.values().any(|ops| takes_image(ops));
    let loaded = Arc::clone(loaded);
    compute(is_heavy, move || {
        let plain = received.plain()?;
        let (inputs, form) = match azure::read(&plain.bytes, loaded.model.inputs()) {
            Some(read) => read.map(|(inputs, form)| (inputs, Some(form)))?,
            None => (inputs::read(&plain.bytes, kind, &loaded)?, None),
        };
        Ok((inputs, form, plain.held))
    })
    .await
}

async fn respond(inference: Inference, form: Option<Form>, coding: Option<body::Coding>) -> Result<Response, Error> {
    let is_heavy = inference.1.values().map(|tensor| tensor.data().len()).sum::<usize>() > LARGE;
    compute(is_heavy, move || match form {
        Some(form) => answers::write(&inference, form.key, form.several, coding),
        None => write(&inference.0, &inference.1, coding),
    })
    .await
}

#[derive(Serialize)]
struct Document<'a> {
    model: &'a ModelName,
    version: Version,
    digest: Digest,
    outputs: BTreeMap<&'a str, Answer>,
}

fn write(loaded: &Loaded, outputs: &BTreeMap<String, Tensor>, coding: Option<body::Coding>) -> Result<Response, Error> {
    let manifest = &loaded.manifest;
    let answers = script::answers(outputs, &manifest.transforms).map_err(|error| {
        tracing::warn!(model = %manifest.model, %error, "an output transform failed");
        Error::InferenceFailed
    })?;
    let document =
        Document { model: &manifest.model, version: manifest.version, digest: loaded.digest, outputs: answers };
    let bytes = serde_json::to_vec(&document).map_err(|_| Error::Internal)?;
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    provenance(loaded, &mut headers);
    let bytes = body::pack(bytes, coding, &mut headers)?;
    let mut response = Response::new(Body::from(bytes));
    *response.headers_mut() = headers;
    Ok(response)
}
