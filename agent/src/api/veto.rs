//! `/v1/veto`: whoever may use the local API may ask to wait with switches. How long that counts is the desired
//! state's matter.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::error::Error;
use crate::veto::{self, Vetoes};

/// The largest body in bytes.
const MAX_BODY: usize = 4096;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    seconds: u64,
    #[serde(default)]
    reason: String,
}

/// `GET /v1/veto`: the vetoes that hold now.
pub async fn show(State(api): State<Arc<Api>>) -> Result<Json<Value>, Error> {
    Ok(Json(describe(vetoes(&api)?)))
}

/// `PUT /v1/veto`: asks to wait.
pub async fn ask(State(api): State<Arc<Api>>, body: Body) -> Result<Json<Value>, Error> {
    let vetoes = vetoes(&api)?;
    let bytes = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| Error::TooLarge(MAX_BODY))?;
    let asked: Asked = serde_json::from_slice(&bytes)
        .map_err(|e| Error::BadRequest(format!("want {{\"seconds\": 3600, \"reason\": \"…\"}}: {e}")))?;
    let most = veto::MAX.as_secs();
    if !(1..=most).contains(&asked.seconds) {
        return Err(Error::BadRequest(format!("seconds = {} is not between 1 and {most}", asked.seconds)));
    }
    if asked.reason.len() > veto::MAX_REASON {
        return Err(Error::BadRequest(format!("the reason is longer than {} bytes", veto::MAX_REASON)));
    }
    vetoes.ask(Duration::from_secs(asked.seconds), &asked.reason);
    Ok(Json(describe(vetoes)))
}

/// `DELETE /v1/veto`: takes back what was asked here. A file stays.
pub async fn take_back(State(api): State<Arc<Api>>) -> Result<Json<Value>, Error> {
    let vetoes = vetoes(&api)?;
    vetoes.take_back();
    Ok(Json(describe(vetoes)))
}

fn vetoes(api: &Api) -> Result<&Vetoes, Error> {
    let vetoes = api.vetoes.as_deref();
    vetoes.ok_or_else(|| Error::NotFound("there is no agent behind this server, and so nothing to wait with".into()))
}

fn describe(vetoes: &Vetoes) -> Value {
    let asked = vetoes.asked().map(|(left, reason)| json!({"seconds": left.as_secs_f64().ceil(), "reason": reason}));
    let file = vetoes.filed().map(|reason| json!({"path": vetoes.file(), "reason": reason}));
    json!({"veto": asked.is_some() || file.is_some(), "asked": asked, "file": file})
}
