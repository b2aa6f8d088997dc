//! What every protocol of rows does with a request: receive it, read it, run it, write the answer; what
//! is large on a thread of its own.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::request::Parts;
use axum::response::Response;
use muster_proto::manifest::TensorSpec;

use super::answers::{self, Several};
use super::caller::Caller;
use super::error::Error;
use super::find::Found;
use super::rows::Inputs;
use super::{Api, body, compute};

/// Answers of more bytes are written on a thread of their own.
const LARGE: usize = 64 << 10;

/// In which form an answer goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// The key above the outputs, where there is one.
    pub key: Option<&'static str>,
    /// How several outputs are told apart.
    pub several: Several,
}

/// Answers `request` by what was found. `read` gets the plain body and the model's inputs.
pub async fn exchange(
    api: &Api,
    caller: Caller,
    found: Found,
    request: Request,
    form: Form,
    read: impl FnOnce(&Parts, &[u8], &[TensorSpec]) -> Result<Inputs, Error> + Send + 'static,
) -> Result<Response, Error> {
    let (head, body) = request.into_parts();
    let coding = body::accepted(&head.headers);
    let received = body::receive(&head.headers, body, &api.budget_of(&found)).await?;
    let loaded = Arc::clone(&found.1);
    let (inputs, held) = compute(received.is_heavy(), move || {
        let plain = received.plain()?;
        Ok((read(&head, &plain.bytes, loaded.model.inputs())?, plain.held))
    })
    .await?;
    let inference = api.infer(caller, &found, inputs).await?;
    drop(held);
    let is_heavy = inference.1.values().map(|tensor| tensor.data().len()).sum::<usize>() > LARGE;
    compute(is_heavy, move || answers::write(&inference, form.key, form.several, coding)).await
}
