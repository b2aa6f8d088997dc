//! What an image says of itself: labels, and its date.

use std::collections::BTreeMap;

use super::Recipe;
use crate::image::document::CREATED;

/// Seconds since 1970 as RFC 3339; none beyond the year 9999.
pub fn date(seconds: u64) -> Option<String> {
    let time = jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    Some(time.to_string())
}

/// The labels of OCI's annotation rules and Muster's own.
pub fn labels(recipe: &Recipe, created: &str) -> BTreeMap<String, String> {
    let version = recipe.version.to_string();
    let mut labels = BTreeMap::new();
    let mut put = |key: &str, value: &str| {
        if !value.is_empty() {
            labels.insert(key.to_owned(), value.to_owned());
        }
    };
    put("org.opencontainers.image.title", &recipe.model);
    put("org.opencontainers.image.version", &version);
    put("org.opencontainers.image.description", &recipe.description);
    put("org.opencontainers.image.licenses", recipe.licence.as_deref().unwrap_or_default());
    put(CREATED, created);
    put("dev.muster.model", &recipe.model);
    put("dev.muster.version", &version);
    put("dev.muster.digest", &recipe.digest);
    put("dev.muster.agent", &recipe.agent_version);
    for (key, value) in &recipe.labels {
        put(key, value);
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_plain_and_bounded() {
        assert_eq!(date(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(date(1_790_000_000).as_deref(), Some("2026-09-21T14:13:20Z"));
        assert_eq!(date(u64::MAX), None);
        assert_eq!(date(1 << 62), None);
    }
}
