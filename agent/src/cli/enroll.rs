//! `muster-agent enroll`

use anyhow::{Result, anyhow};
use muster_proto::enroll::Invitation;
use muster_proto::id::DeviceId;

use crate::config::Config;
use crate::{run, vitals};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The token that `muster device enroll-token` printed.
    #[arg(env = "MUSTER_ENROLL_TOKEN", hide_env_values = true)]
    token: String,
    /// The device's name; the host name by default.
    #[arg(long)]
    name: Option<String>,
    /// Give an enrolled device a new identity; under its old name only once `muster device revoke` has freed that.
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args, config: &Config) -> Result<()> {
    let invitation: Invitation = args.token.parse()?;
    let name = args.name.clone().unwrap_or_else(host_name);
    let device: DeviceId = name.parse().map_err(|e| anyhow!("{e}; choose one with --name"))?;
    let dir = run::identity_dir(&config.data);
    let enrolled = crate::enroll::enroll(&invitation, &device, vitals::agent_info(0), &dir, args.force);
    let enrollment = enrolled.map_err(|e| anyhow!("{e} [{}]\nnext:  {}", e.code(), e.code().next_step()))?;
    println!("Enrolled as {} in workspace {}.", enrollment.device, enrollment.workspace);
    println!("Broker {}:{}. Identity in {}.", enrollment.broker.host, enrollment.broker.port, dir.display());
    println!("Start the agent with `muster-agent run`.");
    Ok(())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
