//! `muster-agent support-bundle`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::config::Config;
use crate::{check, vitals};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to write; a name with the time in the current folder by default.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args, config_path: &Path, config: &Config) -> Result<()> {
    let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let output = args.output.clone().unwrap_or_else(|| format!("muster-support-{now}.json").into());
    let local = |path: &str| match super::local::request(config, path, None) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => json!({ "unavailable": format!("{error:#}") }),
    };
    // Keys are never read here; the configuration has no secrets.
    let bundle = json!({
        "made_at": now,
        "agent": vitals::agent_info(0),
        "config_path": config_path,
        "config": format!("{config:#?}"),
        "checks": check::all(config_path, Ok(config)),
        "status": local("/status"),
        "metrics": local("/metrics"),
        "kernel": std::fs::read_to_string("/proc/version").unwrap_or_default().trim(),
        "uptime": std::fs::read_to_string("/proc/uptime").unwrap_or_default().trim(),
        "memory": std::fs::read_to_string("/proc/meminfo").unwrap_or_default(),
    });
    let bytes = serde_json::to_vec_pretty(&bundle).context("the bundle cannot be written")?;
    std::fs::write(&output, bytes).with_context(|| output.display().to_string())?;
    println!("Wrote {}. It holds no keys; read it before you send it.", output.display());
    Ok(())
}
