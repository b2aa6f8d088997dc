//! Services in tables and facts.

use crate::app::{RenderedFile, RevisionView, ServiceKeyView, ServiceView, Target};
use crate::cli::output::{facts, table, when};
use crate::domain::service::{Load, Replicas, Settings};

pub(super) fn list(all: &[ServiceView]) -> String {
    table(
        ["NAME", "STATE", "ANSWERS", "TARGET", "URL", "REASON"],
        all.iter().map(|view| {
            let reason: String = view.reason.chars().take(60).collect();
            let url = view.scoring_url.clone().unwrap_or_default();
            [view.name.clone(), view.state.to_string(), answers(&view.revisions), target(&view.target), url, reason]
        }),
    )
}

pub(super) fn show(view: &ServiceView) -> String {
    let settings = &view.settings;
    let local = matches!(view.target, Target::Local(_));
    let answered: u64 = view.revisions.iter().map(|revision| revision.answered).sum();
    facts([
        ("name", view.name.clone()),
        ("state", format!("{} since {}", view.state, when(view.since))),
        ("reason", view.reason.clone()),
        ("answers", answers(&view.revisions)),
        ("before", view.before.clone().unwrap_or_default()),
        ("scoring URL", view.scoring_url.clone().unwrap_or_default()),
        ("documents", view.url.as_ref().map(|url| format!("{url}/openapi.json, {url}/ui")).unwrap_or_default()),
        ("keys", if settings.auth { "asked for" } else { "none: everybody may ask" }.to_owned()),
        ("target", target(&view.target)),
        ("declared by", view.owner.clone().unwrap_or_default()),
        ("replicas", if local { "one process".to_owned() } else { replicas(settings.replicas) }),
        (
            "limits",
            format!(
                "{} at once, {} wait up to {} ms, {} ms in all",
                settings.concurrency, settings.queue, settings.queue_wait_ms, settings.timeout_ms
            ),
        ),
        ("batches", batches(settings)),
        ("answered", format!("{answered} requests since it was loaded")),
        ("generation", view.generation.to_string()),
    ])
}

fn batches(settings: &Settings) -> String {
    match (settings.max_batch_size, settings.max_queue_delay_us) {
        (0 | 1, _) => String::new(),
        (size, 0) => format!("up to {size} items that wait anyway, where that is measured to be faster"),
        (size, delay) => {
            format!("up to {size} items, the first waits up to {delay} µs, where that is measured to be faster")
        }
    }
}

pub(super) fn keys(all: &[ServiceKeyView]) -> String {
    table(
        ["KEY", "BEGINS", "MADE"],
        all.iter().map(|key| [key.which.clone(), format!("{}…", key.prefix), when(key.created_at)]),
    )
}

/// One file as it is, several each behind its name.
pub(super) fn files(all: &[RenderedFile]) -> String {
    match all {
        [only] => only.text.trim_end().to_owned(),
        _ => all.iter().map(|file| format!("# --- {}\n{}", file.path, file.text)).collect(),
    }
}

fn answers(revisions: &[RevisionView]) -> String {
    let one = |revision: &RevisionView| match revision.traffic {
        100 => revision.model.clone(),
        share => format!("{} {share} %", revision.model),
    };
    revisions.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn target(target: &Target) -> String {
    match target {
        Target::Local(_) => "local".into(),
        Target::Kubernetes(cluster) => format!("kubernetes ({})", cluster.namespace),
    }
}

fn replicas(replicas: Replicas) -> String {
    match replicas {
        Replicas::Fixed(count) => count.to_string(),
        Replicas::Auto { min, max, target: Load::Cpu(percent) } => format!("{min} to {max} at {percent} % of the CPU"),
        Replicas::Auto { min, max, target: Load::Queue(waiting) } => {
            format!("{min} to {max} at {waiting} waiting each")
        }
    }
}
