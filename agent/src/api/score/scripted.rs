//! `/score` of a version with a scoring script: the request goes to `preprocess`, and what `postprocess` gives is the
//! answer. A version without one of them has that half as plain scoring has it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use base64::Engine as _;
use muster_proto::manifest::Hook;
use serde_json::json;
use serde_json::value::RawValue;

use super::super::caller::Caller;
use super::super::error::Error;
use super::super::exchange::Form;
use super::super::find::Found;
use super::super::observe::Work;
use super::super::{Api, body, compute, provenance};
use super::inputs::Kind;
use super::{inputs, npy, read, respond};
use crate::engine::Loaded;
use crate::engine::json::dictionary::BASE64;

/// Answers by what was found, which has a script. All its parts are one turn at the gate.
pub async fn answer(api: &Api, caller: Caller, found: Found, request: Request) -> Result<Response, Error> {
    let (head, body) = request.into_parts();
    let kind = inputs::kind_of(&head.headers)?;
    let coding = body::accepted(&head.headers);
    let received = body::receive(&head.headers, body, &api.budget_of(&found)).await?;
    let has = |hook| found.1.script.as_ref().is_some_and(|script| script.has(hook));

    let loaded = &found.1;
    let (turn, inputs, form, held) = if has(Hook::Preprocess) {
        let plain = compute(received.is_heavy(), move || {
            let plain = received.plain()?;
            Ok((as_json(plain.bytes, kind)?, plain.held))
        });
        let (json, held) = plain.await?;
        let turn = api.turn(caller, &found).await?;
        let inputs = turn.within(Work::Script, api.executor.prepare(Arc::clone(loaded), json)).await?;
        (turn, inputs, None, held)
    } else {
        let (inputs, form, held) = read(received, kind, loaded).await?;
        (api.turn(caller, &found).await?, inputs, form, held)
    };
    let inference = turn.within(Work::Inference, api.executor.infer_on(Arc::clone(loaded), inputs)).await?;
    drop(held);
    if !has(Hook::Postprocess) {
        drop(turn);
        return respond(inference, form, coding).await;
    }
    let answer = turn.within(Work::Script, api.executor.finish(Arc::clone(loaded), inference.1)).await?;
    drop(turn);
    write(loaded, answer, form, coding)
}

/// What a script gets: the body where it is JSON, else its bytes in base64.
fn as_json(body: Vec<u8>, kind: Kind) -> Result<Vec<u8>, Error> {
    if inputs::is_image(&body, kind) || kind == Kind::Npy || kind == Kind::Unknown && npy::is_npy(&body) {
        return Ok(json!({"b64": BASE64.encode(body)}).to_string().into_bytes());
    }
    match serde_json::from_slice::<&RawValue>(&body) {
        Ok(_) => Ok(body),
        Err(error) => Err(Error::BadRequest(format!("the body is not JSON: {error}"))),
    }
}

fn write(
    loaded: &Loaded,
    answer: Vec<u8>,
    form: Option<Form>,
    coding: Option<body::Coding>,
) -> Result<Response, Error> {
    let bytes = match form.and_then(|form| form.key) {
        Some(key) => [format!("{{\"{key}\":").into_bytes(), answer, b"}".to_vec()].concat(),
        None => answer,
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    provenance(loaded, &mut headers);
    let bytes = body::pack(bytes, coding, &mut headers)?;
    let mut response = Response::new(Body::from(bytes));
    *response.headers_mut() = headers;
    Ok(response)
}
