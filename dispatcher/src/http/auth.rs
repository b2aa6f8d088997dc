//! Who is calling: the token of a request becomes a [`Principal`], and a handler's argument demands its role.
//!
//! A handler that takes none of [`Viewer`], [`Operator`] and [`Admin`] still asks for a token, because
//! [`authenticate`] stands before all of them (invariant 14).

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use muster_proto::code::Code;

use super::problem::Problem;
use crate::app::{App, Principal, Role};

/// Lets a request with a valid token pass, and tells the handler and the log whose it is.
pub(super) async fn authenticate(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let principal = match identify(&app, request.headers()).await {
        Ok(principal) => principal,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(principal.clone());
    let mut response = next.run(request).await;
    response.extensions_mut().insert(principal);
    response
}

async fn identify(app: &App, headers: &HeaderMap) -> Result<Principal, Problem> {
    let refuse = |detail: &str| {
        Problem::new(Code::Unauthorized, detail)
            .with_next("send `Authorization: Bearer TOKEN`; an administrator makes tokens with `muster key create`")
    };
    let token = token(headers).ok_or_else(|| refuse("this needs a token"))?;
    app.authenticate(&token).await?.ok_or_else(|| refuse("the token is wrong, expired or deleted"))
}

/// The token of a request: after `Bearer`, or as the password of `Basic` for clients that know nothing else.
fn token(headers: &HeaderMap) -> Option<String> {
    let (scheme, rest) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.to_owned()).filter(|token| !token.is_empty());
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        return pair.split_once(':').map(|(_, password)| password.to_owned());
    }
    None
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        pub(super) struct $name(pub Principal);

        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
                let principal = parts.extensions.get::<Principal>().cloned();
                let principal = principal.ok_or_else(|| Problem::new(Code::Unauthorized, "this needs a token"))?;
                principal.require(Role::$name)?;
                Ok(Self(principal))
            }
        }
    )+};
}

roles! {
    /// A caller who may read.
    #[allow(dead_code, reason = "reading leaves no trace in the audit log")]
    Viewer;
    /// A caller who may change models, devices and rollouts.
    Operator;
    /// A caller who may also hand out keys.
    Admin;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_both_schemes() {
        let table = [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic dG9rZW46YWJj", Some("abc")),
            ("Basic OmE6Yg==", Some("a:b")),
            ("Basic !!", None),
            ("Basic YWJj", None),
            ("Digest abc", None),
        ];
        for (value, want) in table {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            assert_eq!(token(&headers).as_deref(), want, "{value:?}");
        }
        assert_eq!(token(&HeaderMap::new()), None);
    }
}
