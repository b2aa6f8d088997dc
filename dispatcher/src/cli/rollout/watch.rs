//! Following a rollout to its end, over cut connections too.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use muster_proto::code::Code;

use super::{path, text};
use crate::app::{RolloutDetail, RolloutId, RolloutStatus, RolloutView, WatchEvent};
use crate::cli::client::Event;
use crate::cli::output::{Output, print};
use crate::cli::{EXIT_UNREACHABLE, Failure, Session};

/// How long the dispatcher may be gone before watching gives up.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long to wait between two attempts to reach it.
const PAUSE: Duration = Duration::from_secs(2);

/// How long to follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Until it ends.
    Ended,
    /// Until it ends or waits for somebody's word.
    Stopped,
}

impl Until {
    fn is_over(self, status: RolloutStatus) -> bool {
        status.has_ended() || (self == Until::Stopped && status == RolloutStatus::Paused)
    }
}

/// Shows the rollout as it advances, and fails unless it completes.
pub(super) fn follow(id: RolloutId, until: Until, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    let bar = out.bar(0, "{msg}");
    let mut lost: Option<Instant> = None;
    loop {
        let failure = match client.events(&format!("{}/events", path(id))) {
            Ok(events) => {
                lost = None;
                if watch(events.map_while(Result::ok), until, &bar, *out)? {
                    bar.finish_and_clear();
                    let detail: RolloutDetail = client.get(&path(id))?.parse()?;
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

/// Shows events until it is over; false where the stream ends before.
fn watch(events: impl Iterator<Item = Event>, until: Until, bar: &ProgressBar, out: Output) -> anyhow::Result<bool> {
    for event in events {
        if out.is_json() {
            print(&event.data)?;
        }
        let view = match event.name.as_str() {
            "snapshot" => Some(serde_json::from_str::<RolloutDetail>(&event.data)?.rollout),
            "progress" => Some(serde_json::from_str::<RolloutView>(&event.data)?),
            _ => None,
        };
        if let Some(view) = view {
            bar.set_message(format!("{}\n{}", text::headline(&view), text::stages(&view)));
            if until.is_over(view.status) {
                return Ok(true);
            }
        } else if let Ok(happened) = serde_json::from_str::<WatchEvent>(&event.data) {
            tell(&happened, bar, out);
            if matches!(happened, WatchEvent::Rollout { status, .. } if until.is_over(status)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// A line for each step of a device and each decision where there is no live view; above it only decisions, and
/// failures, which must not be missed.
fn tell(event: &WatchEvent, bar: &ProgressBar, out: Output) {
    let (line, matters) = match event {
        WatchEvent::RolloutDevice { device, phase, code, detail, .. } => {
            let code = code.map(|code| format!(" [{code}]")).unwrap_or_default();
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            let failed = *phase == crate::app::DevicePhase::Failed;
            (format!("{device} {}{detail}{code}", text::name(*phase)), failed)
        }
        WatchEvent::Decision { decision, .. } => (decision.in_words(), true),
        _ => return,
    };
    match out.shows_progress() {
        false => out.note(&line),
        true if matters => bar.println(line),
        true => {}
    }
}

fn conclude(detail: &RolloutDetail, out: Output) -> anyhow::Result<()> {
    if !out.is_json() {
        print(&text::status(detail))?;
    }
    let view = &detail.rollout;
    let id = view.id;
    let (code, how, next) = match view.status {
        RolloutStatus::Completed => return Ok(()),
        RolloutStatus::Cancelled => {
            (Code::Superseded, "was cancelled", "start another one; those that have it keep it".to_owned())
        }
        RolloutStatus::Paused => (
            Code::Conflict,
            "is paused",
            format!(
                "look at the gates above, then `muster rollout resume {id}`, or `muster rollout abort {id}` to take it back"
            ),
        ),
        _ => (
            Code::Recalled,
            "was recalled",
            "the devices run what they had before. Mend the model, register it and start again".to_owned(),
        ),
    };
    let why = if view.reason.is_empty() { String::new() } else { format!(": {}", view.reason) };
    Err(Failure::new(code, format!("rollout {id} {how}{why}")).with_next(next).into())
}
