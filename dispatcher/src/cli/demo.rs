//! `muster demo`.

use clap::Args;
use muster_proto::code::Code;

use super::Failure;

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// How many devices to run.
    #[arg(long, default_value_t = 12)]
    pub devices: u32,
    /// Stop when everything has been shown, instead of serving on.
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: DemoArgs) -> anyhow::Result<()> {
    let what = format!("the demo with {} devices is not part of this build", args.devices);
    Err(Failure::new(Code::Internal, what).with_next("run `muster serve` and an agent instead").into())
}
