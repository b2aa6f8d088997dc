//! How many replicas each revision gets, and what share of the requests that makes.

use crate::cluster::plan::target;
use crate::domain::service::{Replicas, Route, Service};

/// The replicas of the revision at `index`: the fewest and the most, equal where nothing scales.
///
/// With a gateway a canary's share of requests is exact, so that both revisions get all replicas that their share
/// needs; without one the share is the share of replicas. A revision without requests keeps one replica behind a
/// gateway, where its own Service can be asked, and none otherwise: it would be given requests.
pub fn of(service: &Service, index: usize) -> (u32, u32) {
    let (min, max) = bounds(service.settings.replicas);
    let traffic: Vec<u8> = service.revisions.iter().map(|revision| revision.traffic).collect();
    let idle = u32::from(matches!(target(service).route, Some(Route::Gateway { .. })));
    if traffic.get(index) == Some(&0) {
        return (idle, idle);
    }
    let low = split(min, &traffic).get(index).copied().unwrap_or_default();
    let high = split(max, &traffic).get(index).copied().unwrap_or_default();
    (low, high.max(low))
}

/// The share of requests in percent that each revision really gets while nothing has scaled.
pub fn shares(service: &Service) -> Vec<f64> {
    if matches!(target(service).route, Some(Route::Gateway { .. })) {
        return service.revisions.iter().map(|revision| f64::from(revision.traffic)).collect();
    }
    let counts: Vec<u32> = (0..service.revisions.len()).map(|index| of(service, index).0).collect();
    let sum = counts.iter().sum::<u32>().max(1);
    counts.iter().map(|&count| f64::from(count) * 100.0 / f64::from(sum)).collect()
}

/// Why the numbers cannot be, if they cannot.
pub(super) fn wrong(service: &Service) -> Option<String> {
    let all_idle = (0..service.revisions.len()).all(|index| of(service, index).1 == 0);
    all_idle.then(|| "no revision would have a replica".into())
}

fn bounds(replicas: Replicas) -> (u32, u32) {
    match replicas {
        Replicas::Fixed(n) => (n, n),
        Replicas::Auto { min, max, .. } => (min, max),
    }
}

/// Splits `total` by `traffic`: at least one for each that has any, the nearest for the rest. Rounding favours the
/// first, which is the stable one.
fn split(total: u32, traffic: &[u8]) -> Vec<u32> {
    let wanted = |&percent: &u8| u64::from(total) * u64::from(percent);
    let mut counts: Vec<u32> = traffic
        .iter()
        .map(
            |percent| {
                if *percent == 0 { 0 } else { u32::try_from((wanted(percent) + 50) / 100).unwrap_or(total).max(1) }
            },
        )
        .collect();
    let others: u32 = counts.iter().skip(1).sum();
    if let (Some(first), Some(1..)) = (counts.first_mut(), traffic.first()) {
        *first = total.saturating_sub(others).max(1);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::plan::tests::{canary, service};
    use crate::domain::service::Load;

    #[test]
    fn shares_become_numbers_of_replicas() {
        for (total, traffic, want) in [
            (3, &[100][..], &[3][..]),
            (10, &[90, 10], &[9, 1]),
            (10, &[75, 25], &[7, 3]),
            (1, &[90, 10], &[1, 1]),
            (2, &[50, 50], &[1, 1]),
            (3, &[1, 99], &[1, 3]),
            (4, &[100, 0], &[4, 0]),
            (4, &[0, 100], &[0, 4]),
            (1000, &[50, 50], &[500, 500]),
        ] {
            assert_eq!(split(total, traffic), want, "{total} by {traffic:?}");
        }
    }

    #[test]
    fn what_is_given_is_told_beside_what_was_asked() {
        let mut two = canary(service("digits"), 10);
        two.settings.replicas = Replicas::Fixed(2);
        assert_eq!(shares(&two), [50.0, 50.0]);
        two.settings.replicas = Replicas::Auto { min: 10, max: 20, target: Load::Cpu(70) };
        assert_eq!(shares(&two), [90.0, 10.0]);
        assert_eq!((of(&two, 0), of(&two, 1)), ((9, 18), (1, 2)));
    }
}
