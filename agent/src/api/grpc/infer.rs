//! One inference, from its message to its answer's.

use std::sync::Arc;

use tonic::Status;

use super::super::caller::Caller;
use super::super::{Api, compute, guard};
use super::proto::{ModelInferRequest, ModelInferResponse};
use super::request::{self, Asked};
use super::response::{self, Inference};
use super::status::Deadline;
use crate::engine::Loaded;

/// Requests and answers of more bytes are handled on a thread of their own.
const LARGE: usize = 64 << 10;

/// Answers `request`, and says what has answered.
pub async fn infer(
    api: &Api,
    caller: Caller,
    request: ModelInferRequest,
    deadline: Deadline,
) -> Result<(ModelInferResponse, Arc<Loaded>), Status> {
    let version = Some(request.model_version.as_str()).filter(|version| !version.is_empty());
    let found = api.find(caller, &request.model_name, version)?;
    let name = request.model_name.clone();
    let id = if request.id.is_empty() { guard::new_id() } else { request.id.clone() };

    // The request stays with the model that it was checked against, whatever the slot is switched to.
    let model = Arc::clone(&found.1);
    let is_heavy = prost::Message::encoded_len(&request) > LARGE;
    let read = move || request::read(request, model.model.inputs(), model.model.outputs());
    let Asked { inputs, wanted, form, timeout } = compute(is_heavy, read).await?;
    let deadline = timeout.map_or(deadline, |limit| deadline.within(limit));
    let (loaded, outputs) = deadline.bound(api.infer(caller, &found, inputs)).await??;

    let is_heavy = outputs.values().map(|tensor| tensor.data().len()).sum::<usize>() > LARGE;
    let inference = Inference { name, id, loaded: Arc::clone(&loaded), outputs, wanted, form };
    let most = api.limits.body;
    let answer = compute(is_heavy, move || response::write(inference, most)).await?;
    Ok((answer, loaded))
}
