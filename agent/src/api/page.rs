//! `GET /ui`: a page on which a person can see what answers here and try it. It is one file without
//! anything from elsewhere, and its policy lets nothing else in.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Api;

const PAGE: &str = include_str!("page.html");

/// Only the page's own script and style run, and only this server is asked.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let (script, style) = (hash_of("script"), hash_of("style"));
    format!(
        "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// Its route.
pub fn routes() -> Router<Arc<Api>> {
    Router::new().route("/ui", get(|| async { page() }))
}

/// The page.
pub fn page() -> Response {
    let mut response = PAGE.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    // Base64 and the words around it are a header's value.
    if let Ok(policy) = HeaderValue::from_str(&POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Whether a caller likes a page better than JSON, as browsers do and programs do not.
pub fn is_preferred(headers: &HeaderMap) -> bool {
    let weight = |kind: &str| {
        let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).find_map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(kind));
            let q = parts.find_map(|parameter| parameter.strip_prefix("q="));
            named.then(|| q.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0)))
        })
    };
    weight("text/html").is_some_and(|html| html > 0.0 && html >= weight("application/json").unwrap_or(0.0))
}

/// What a content security policy calls the page's only element of this name.
fn hash_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inside = PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(inside, _)| inside);
    let digest = ring::digest::digest(&ring::digest::SHA256, inside.as_bytes());
    format!("sha256-{}", STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_the_page_and_programs_do_not() {
        let table = [
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true),
            ("text/html", true),
            ("application/json", false),
            ("application/json, text/html;q=0.5", false),
            ("*/*", false),
            ("", false),
            ("text/html;q=0", false),
        ];
        for (accept, page) in table {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(is_preferred(&headers), page, "{accept}");
        }
    }

    #[test]
    fn the_page_brings_all_that_it_needs() {
        for outside in ["http://", "https://", "src=", "@import", "url(", " onclick=", " style="] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        assert_eq!((PAGE.matches("<script").count(), PAGE.matches("<style").count()), (1, 1));
        assert!(POLICY.contains("script-src 'sha256-") && !POLICY.contains("unsafe"), "{}", *POLICY);
    }
}
