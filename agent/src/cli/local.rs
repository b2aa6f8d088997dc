//! A client of the running agent's local API.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::config::Config;

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
        let text = serde_json::from_slice::<serde_json::Value>(&bytes)
            .ok()
            .and_then(|v| v.get("error").and_then(|e| e.as_str()).map(str::to_owned))
            .unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
        bail!("{text} (status {})", answer.status().as_u16());
    }
    Ok(bytes)
}
