//! `POST /v2/models/…/infer`

use std::sync::Arc;

use axum::extract::Request as HttpRequest;
use axum::response::Response;

use super::super::caller::Caller;
use super::super::error::Error;
use super::super::find::Address;
use super::super::{Api, body, compute, guard};
use super::request;
use super::response::{self, Inference};

/// Answers of more bytes are written on a thread of their own.
const LARGE: usize = 64 << 10;

pub async fn infer(api: &Api, caller: Caller, address: &Address, http: HttpRequest) -> Result<Response, Error> {
    let found = api.find(caller, &address.name, address.version.as_deref())?;
    let (head, body) = http.into_parts();
    let header_length = request::header_length(&head.headers)?;
    let coding = body::accepted(&head.headers);
    let received = body::receive(&head.headers, body, &api.budget_of(&found)).await?;

    // The request stays with the model that it was checked against, whatever the slot is switched to.
    let (name, model) = (address.name.clone(), Arc::clone(&found.1));
    let (request, held) = compute(received.is_heavy(), move || {
        let plain = received.plain()?;
        let request = request::read(&plain.bytes, header_length, &name, &model.model)?;
        Ok((request, plain.held))
    })
    .await?;

    let caller = caller.within(request.timeout);
    let (loaded, outputs) = api.infer(caller, &found, request.inputs).await?;
    drop(held);

    let id = request.id.unwrap_or_else(guard::new_id);
    let is_heavy = outputs.values().map(|tensor| tensor.data().len()).sum::<usize>() > LARGE;
    let inference = Inference { name: address.name.clone(), id, loaded, outputs, wanted: request.wanted };
    compute(is_heavy, move || response::write(&inference, coding)).await
}
