//! Following a rollout to its end, over cut connections too.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use muster_proto::code::Code;

use super::client::Event;
use super::output::{Output, print};
use super::rollout::{counts, name, path, status};
use super::{EXIT_UNREACHABLE, Failure, Session};
use crate::app::{DevicePhase, RolloutDetail, RolloutId, RolloutStatus, WatchEvent};

/// How long the dispatcher may be gone before watching gives up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long to wait between two attempts to reach it.
const PAUSE: Duration = Duration::from_secs(2);

/// Shows the rollout as it advances, and fails unless it completes.
pub(super) fn follow(id: RolloutId, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    let bar = out.bar(0, "{prefix} {bar:30} {pos}/{len} {msg}");
    let mut lost: Option<Instant> = None;
    loop {
        let failure = match client.events(&format!("{}/events", path(id))) {
            Ok(events) => {
                lost = None;
                if let Some(detail) = watch(events.map_while(Result::ok), &bar, *out)? {
                    bar.finish_and_clear();
                    return conclude(&detail, *out);
                }
                None
            }
            Err(failure) if failure.exit() != EXIT_UNREACHABLE => return Err(failure.into()),
            Err(failure) => Some(failure),
        };
        let since = *lost.get_or_insert_with(Instant::now);
        if let Some(failure) = failure.filter(|_| since.elapsed() > PATIENCE) {
            return Err(failure.into());
        }
        bar.set_message("the dispatcher is gone; trying again");
        std::thread::sleep(PAUSE);
    }
}

/// Shows events until the rollout has ended; none where the stream ends before.
fn watch(events: impl Iterator<Item = Event>, bar: &ProgressBar, out: Output) -> anyhow::Result<Option<RolloutDetail>> {
    for event in events {
        if out.is_json() {
            print(&event.data)?;
        }
        if event.name == "snapshot" {
            let detail: RolloutDetail = serde_json::from_str(&event.data)?;
            progress(&detail, bar);
            if detail.rollout.status != RolloutStatus::Running {
                return Ok(Some(detail));
            }
        } else if let Ok(happened) = serde_json::from_str::<WatchEvent>(&event.data) {
            tell(&happened, bar, out);
        }
    }
    Ok(None)
}

fn progress(detail: &RolloutDetail, bar: &ProgressBar) {
    let view = &detail.rollout;
    let healthy = view.counts.get(&DevicePhase::Healthy).copied().unwrap_or(0);
    bar.set_prefix(format!("{}:{}", view.model, view.version));
    bar.set_length(view.total.into());
    bar.set_position(healthy.into());
    bar.set_message(counts(view));
}

/// A line for each step of a device where there is no bar; with a bar only for failures, which must not be missed.
fn tell(event: &WatchEvent, bar: &ProgressBar, out: Output) {
    let WatchEvent::RolloutDevice { device, phase, code, detail, .. } = event else { return };
    let code = code.map(|code| format!(" [{code}]")).unwrap_or_default();
    let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
    let line = format!("{device} {}{detail}{code}", name(*phase));
    match phase {
        _ if !out.shows_progress() => out.note(&line),
        DevicePhase::Failed => bar.println(line),
        DevicePhase::Healthy => {
            bar.inc(1);
            bar.set_message(line);
        }
        _ => bar.set_message(line),
    }
}

fn conclude(detail: &RolloutDetail, out: Output) -> anyhow::Result<()> {
    if !out.is_json() {
        print(&status(detail))?;
    }
    let view = &detail.rollout;
    let (code, how) = match view.status {
        RolloutStatus::Completed => return Ok(()),
        RolloutStatus::Cancelled => (Code::Superseded, "was cancelled"),
        _ => (Code::Conflict, "was halted"),
    };
    let why = if view.reason.is_empty() { String::new() } else { format!(": {}", view.reason) };
    let next = format!(
        "look at the failed devices above; the others keep what they run. Mend the model, register it and start again, or cancel with `muster rollout cancel {}`",
        view.id
    );
    Err(Failure::new(code, format!("rollout {} {how}{why}", view.id)).with_next(next).into())
}
