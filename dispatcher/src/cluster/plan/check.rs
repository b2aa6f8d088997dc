//! What a service must be before it is planned.

use std::collections::BTreeSet;

use super::replicas;
use crate::cluster::Error;
use crate::cluster::names::{check_dns, check_label, check_service, check_value, check_variable, short};
use crate::domain::service::{Amount, Fetch, Load, Replicas, Revision, Route, Service, ServiceType};

/// The most replicas that a service may ask for.
const MAX_REPLICAS: u32 = 1000;
/// The longest time that a request may take: an hour.
const MAX_TIMEOUT_MS: u64 = 3_600_000;
/// ConfigMaps and Secrets hold a MiB; a trust root is far smaller.
const MAX_TRUST_ROOT: usize = 512 * 1024;

/// Refuses what cannot be planned, with the first reason.
pub fn check(service: &Service) -> Result<(), Error> {
    check_service(&service.name)?;
    check_value("the workspace", &service.workspace)?;
    names(service)?;
    let wrong = |reason: String| Err(Error::Service { service: service.name.clone(), reason });
    match contents(service) {
        Some(reason) => wrong(reason),
        None => Ok(()),
    }
}

fn names(service: &Service) -> Result<(), Error> {
    let target = super::target(service);
    check_label("the namespace", &target.namespace)?;
    if let Some(secret) = &target.pull_secret {
        check_dns("the pull secret", secret)?;
    }
    match &target.route {
        Some(Route::Ingress { class, host, tls_secret, .. }) => {
            class.iter().try_for_each(|name| check_dns("the ingress class", name))?;
            host.iter().try_for_each(|name| check_dns("the host", name.trim_start_matches("*.")))?;
            tls_secret.iter().try_for_each(|name| check_dns("the certificate's secret", name))?;
        }
        Some(Route::Gateway { name, namespace, section, host }) => {
            check_dns("the gateway", name)?;
            namespace.iter().try_for_each(|name| check_label("the gateway's namespace", name))?;
            section.iter().try_for_each(|name| check_dns("the gateway's listener", name))?;
            host.iter().try_for_each(|name| check_dns("the host", name.trim_start_matches("*.")))?;
        }
        None => {}
    }
    target.node_selector.values().try_for_each(|value| check_value("the node selector's value", value))?;
    service.settings.env.keys().try_for_each(|name| check_variable(name))
}

/// The first thing that is wrong, in words.
fn contents(service: &Service) -> Option<String> {
    let settings = &service.settings;
    let target = super::target(service);
    let limits = [
        (settings.concurrency == 0, "concurrency has to be at least 1"),
        (settings.timeout_ms == 0 || settings.timeout_ms > MAX_TIMEOUT_MS, "the timeout has to be 1 ms to 1 hour"),
        (settings.queue_wait_ms > settings.timeout_ms, "a request may not wait longer than its timeout"),
        (settings.body_bytes == 0, "the largest request has to be at least 1 byte"),
        (settings.cpu.request == 0, "at least 1 millicore has to be requested"),
        (below(&settings.cpu), "the limit of cpu is below its request"),
        (
            settings.memory.as_ref().is_some_and(|memory| memory.request == 0),
            "at least 1 byte of memory has to be requested",
        ),
        (settings.memory.as_ref().is_some_and(below), "the limit of memory is below its request"),
        (
            settings.auth && settings.key_hashes.is_empty(),
            "keys are asked for and there is none; make them or turn auth off",
        ),
        (settings.key_hashes.len() > 2, "a service has two keys at most"),
        (!settings.key_hashes.iter().all(|hash| is_sha256(hash)), "a key's hash is no SHA-256 in hex"),
        (
            target.image.is_empty() && service.revisions.iter().any(|revision| revision.image.is_none()),
            "neither the version nor the target names an image",
        ),
        (
            matches!(target.service_type, ServiceType::LoadBalancer { internal: false, subnet: Some(_) }),
            "a subnet is for internal load balancers only",
        ),
    ];
    limits
        .iter()
        .find_map(|&(wrong, reason)| wrong.then(|| reason.to_owned()))
        .or_else(|| wrong_replicas(settings.replicas))
        .or_else(|| wrong_revisions(&service.revisions))
        .or_else(|| service.revisions.iter().find_map(|revision| wrong_source(revision, service.fetch.as_ref())))
        .or_else(|| replicas::wrong(service))
}

fn below(amount: &Amount) -> bool {
    amount.limit.is_some_and(|limit| limit < amount.request)
}

fn wrong_replicas(replicas: Replicas) -> Option<String> {
    let reason = match replicas {
        Replicas::Fixed(n) if n == 0 || n > MAX_REPLICAS => format!("{n} replicas: 1 to {MAX_REPLICAS} are possible"),
        Replicas::Auto { min, max, .. } if min == 0 || max < min || max > MAX_REPLICAS => {
            format!("{min} to {max} replicas: 1 to {MAX_REPLICAS} are possible, and the most is not below the fewest")
        }
        Replicas::Auto { target: Load::Cpu(0) | Load::Queue(0), .. } => {
            "the load of a replica has to be above 0".into()
        }
        _ => return None,
    };
    Some(reason)
}

fn wrong_revisions(revisions: &[Revision]) -> Option<String> {
    if revisions.is_empty() || revisions.len() > 2 {
        return Some(format!("{} revisions: a stable one, and at most one canary, are possible", revisions.len()));
    }
    if let Some(bad) = revisions.iter().find(|revision| !is_sha256(&revision.digest)) {
        return Some(format!("the digest {:?} is no SHA-256 in hex", bad.digest));
    }
    let shorts: BTreeSet<&str> = revisions.iter().map(short).collect();
    if shorts.len() < revisions.len() {
        return Some("stable and canary are the same version; change the settings of one in a step of its own".into());
    }
    let sum: u32 = revisions.iter().map(|revision| u32::from(revision.traffic)).sum();
    if sum != 100 {
        return Some(format!("the shares of traffic sum to {sum} %, not to 100 %"));
    }
    revisions.iter().find_map(|revision| {
        let text = format!(
            "the model's name {:?} is refused: letters, digits, dashes, dots, underscores, slashes",
            revision.model
        );
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/');
        (revision.model.is_empty() || !revision.model.chars().all(good)).then_some(text)
    })
}

fn wrong_source(revision: &Revision, fetch: Option<&Fetch>) -> Option<String> {
    match (&revision.image, fetch) {
        (Some(image), _) if image.is_empty() || image.contains(char::is_whitespace) => {
            Some(format!("the image {image:?} is no image's name"))
        }
        (Some(_), _) => None,
        (None, None) => Some(format!(
            "version {} of {} is in no image and there is no address to fetch it from",
            revision.version, revision.model
        )),
        (None, Some(fetch)) if !fetch.url.starts_with("https://") => {
            Some(format!("models are fetched over HTTPS only, not from {:?}", fetch.url))
        }
        (None, Some(fetch)) if fetch.trust_root.len() > MAX_TRUST_ROOT => Some("the trust root is too large".into()),
        (None, Some(_)) => None,
    }
}

fn is_sha256(hex: &str) -> bool {
    hex.len() == 64 && hex.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
}
