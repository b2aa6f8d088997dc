//! `muster demo`: the real dispatcher and real agents in one process, on free loopback ports, with a real
//! model on real input. Nothing in it is staged but the cut of one connection.

mod bad;
mod cable;
mod digits;
mod fleet;
mod plans;
mod show;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use muster_proto::id::Version;

use digits::Digits;
use fleet::Fleet;
use show::Show;

/// Nothing in the demo takes this long, even on a small and busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// How many devices to run; at least one has to wait for another.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=200))]
    pub devices: u32,
    /// Stop when everything has been shown, instead of serving on.
    #[arg(long)]
    pub once: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(args: DemoArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(demo(args))
}

async fn demo(args: DemoArgs) -> Result<()> {
    let began = Instant::now();
    let show = Show::new(args.json);
    let folder = tempfile::tempdir().context("no temporary folder")?;
    show.say(&format!("Starting a dispatcher and {} devices in {}", args.devices, folder.path().display()));
    let mut fleet = Fleet::start(folder.path(), args.devices, &show).await?;
    let digits = Digits::embedded(folder.path())?;

    show.step("Version 1: registered, signed, rolled out over MQTT with mTLS");
    fleet.register(Version(1), &show).await?;
    fleet.roll_out(Version(1), &show).await?;
    let first = fleet.score_all(&digits).await?;
    show.say(&format!("Every device scored {} held-out images: {}", digits.len(), first.text()));

    show.step("Version 2, by the preset standard: a shadow run, then stages; one device is cut off mid-download");
    let load = fleet.register(Version(2), &show).await?;
    let requests = fleet.constant_load(&digits);
    fleet.roll_out_and_cut(Version(2), &show).await?;
    let answered = requests.stop().await?;
    let second = fleet.score_all(&digits).await?;
    show.say(&format!("Every device scored {} held-out images: {}", digits.len(), second.text()));
    show.say(&format!("{answered} requests were answered during the change-over, none failed"));
    let bare = digits.bare_accuracy(Version(2), &load)?;
    ensure!(
        second.per_device.iter().all(|correct| *correct == bare),
        "the devices' accuracy {:?} differs from the bare engine's {bare} of {}",
        second.per_device,
        digits.len()
    );
    show.say(&format!(
        "The same file on the bare engine: {bare} of {} right, exactly as on every device",
        digits.len()
    ));

    show.step("Version 3 is bad: it loads, passes its own samples, and answers nonsense");
    fleet.register(Version(3), &show).await?;
    let requests = fleet.constant_load(&digits);
    let by_shadow = bad::stopped_by_shadow(&fleet, &show).await?;
    show.step("The same without a shadow run: one device has to find out");
    let at_canary = bad::stopped_at_canary(&fleet, &show).await?;
    let answered = requests.stop().await?;
    show.say(&format!("{answered} requests were answered meanwhile, none failed"));

    let summary = fleet.summary(&second, (by_shadow, at_canary), began.elapsed());
    show.step("What happened");
    show.say(&summary.text());
    if !args.once {
        fleet.invite(&digits, &show);
        tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    }
    fleet.stop().await;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    }
    Ok(())
}
