//! A client of the running agent's local API.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::config::Config;

/// A request that the agent refused, as it says so itself.
#[derive(Debug, Deserialize, thiserror::Error)]
#[error("{what} [{code}]")]
pub struct Refused {
    #[serde(rename = "error")]
    what: String,
    code: String,
    /// What to do about it.
    #[serde(rename = "next_step")]
    pub next: String,
}

/// A request to the local API of the agent that `config` describes; returns the body.
pub fn request(config: &Config, path: &str, body: Option<(&str, &[u8])>) -> Result<Vec<u8>> {
    let Some(address) = config.http else {
        bail!("the local API has no address (local.http is empty): set one in the configuration");
    };
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(60))).http_status_as_error(false).build(),
    );
    let url = format!("http://{address}{path}");
    let answer = match body {
        Some((kind, bytes)) => agent.post(&url).header("content-type", kind).send(bytes),
        None => agent.get(&url).call(),
    };
    let mut answer =
        answer.with_context(|| format!("no agent answers at {address}: is `muster-agent run` running?"))?;
    let bytes = answer.body_mut().with_config().limit(64 << 20).read_to_vec().context("the answer was cut off")?;
    if !answer.status().is_success() {
        return Err(refused(answer.status().as_u16(), &bytes));
    }
    Ok(bytes)
}

/// Something else than an agent may listen there, and say anything.
fn refused(status: u16, body: &[u8]) -> anyhow::Error {
    match serde_json::from_slice::<Refused>(body) {
        Ok(refused) => refused.into(),
        Err(_) => {
            let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
            anyhow::anyhow!("status {status}: {}", text.trim_end())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_code_and_what_to_do() {
        let error = refused(400, br#"{"error": "too short", "code": "input_invalid", "next_step": "send more"}"#);
        assert_eq!(error.to_string(), "too short [input_invalid]");
        assert_eq!(error.downcast_ref::<Refused>().map(|r| r.next.as_str()), Some("send more"));
        let error = refused(502, b"<html>Bad Gateway\n");
        assert_eq!(error.to_string(), "status 502: <html>Bad Gateway");
    }
}
