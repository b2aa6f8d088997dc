//! The browsable page: static, self-contained, without any data. It reads /openapi.json and tries requests with a
//! token that stays in the browser's memory.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::id::Digest;

use super::problem;
use crate::app::App;

const PAGE: &str = include_str!("page.html");

pub(super) fn routes() -> Router<App> {
    let policy = policy(PAGE);
    let page = move || {
        let policy = policy.clone();
        async move { page(policy) }
    };
    Router::new().route("/", get(page)).route("/problems/{code}", get(problem::describe))
}

fn page(policy: HeaderValue) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, PAGE).into_response()
}

/// Only the page's own script and style run, known by their digests: a token typed into it can go nowhere else.
fn policy(page: &str) -> HeaderValue {
    let hash = |tag: &str| {
        let inner = page.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
        STANDARD.encode(Digest::of(inner.map_or("", |(inner, _)| inner).as_bytes()).0)
    };
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style"),
    );
    HeaderValue::try_from(policy).expect("a policy of ASCII fits a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_needs_nothing_else() {
        assert!(PAGE.len() < 20 * 1024, "{} bytes", PAGE.len());
        assert_eq!(PAGE.matches("<script>").count(), 1);
        assert_eq!(PAGE.matches("<style>").count(), 1);
        for foreign in ["http://", "https://", "src=", "@import", "innerHTML", "style=\""] {
            assert!(!PAGE.contains(foreign), "the page contains {foreign}");
        }
    }
}
