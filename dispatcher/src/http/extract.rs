//! Paths, queries and bodies as typed values whose rejections are problems.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use muster_proto::code::Code;
use serde::de::DeserializeOwned;

use super::MAX_JSON;
use super::problem::{Problem, Result};

/// A JSON body.
pub(super) struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        match axum::Json::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(refuse(&rejection)),
        }
    }
}

fn refuse(rejection: &JsonRejection) -> Problem {
    let text = rejection.body_text();
    match rejection {
        JsonRejection::MissingJsonContentType(_) => Problem::bad_request("the body has to be JSON")
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
            .with_next("send `content-type: application/json`"),
        _ if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Code::TooLarge, format!("the body is larger than {MAX_JSON} bytes"))
                .with_next("send less: files are uploaded by PUT /v1/uploads, and fewer samples do as well")
        }
        JsonRejection::JsonDataError(_) => {
            let detail = text.rsplit_once("target type: ").map_or(text.as_str(), |(_, detail)| detail);
            Problem::bad_request(detail)
        }
        _ => Problem::bad_request(text),
    }
}

/// The parts of the path, as a value or a tuple of values.
pub(super) struct At<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                Err(Problem::bad_request(text.strip_prefix("Invalid URL: ").unwrap_or(&text)))
            }
        }
    }
}

/// The query, whose parameters may repeat.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}

impl Params {
    /// Refuses parameters that are not in `names`: a misspelt filter must not match everything.
    pub(super) fn only(self, names: &[&str]) -> Result<Self> {
        match self.0.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            None => Ok(self),
            Some((name, _)) => {
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                Err(Problem::bad_request(format!("there is no query parameter {name:?}; there are: {known}")))
            }
        }
    }

    /// The value of `name`, at most one.
    pub(super) fn one<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<Option<T>> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some((_, text)), None) => {
                let wrong = |e: T::Err| Problem::bad_request(format!("query parameter {name:?}: {e}"));
                text.parse().map(Some).map_err(wrong)
            }
            (Some(_), Some(_)) => Err(Problem::bad_request(format!("query parameter {name:?} stands twice"))),
        }
    }

    /// Every `name=key=value`; without a second `=` the value is empty, which matches any.
    pub(super) fn pairs(&self, name: &str) -> BTreeMap<String, String> {
        let values = self.0.iter().filter(|(key, _)| key == name);
        values.map(|(_, text)| text.split_once('=').unwrap_or((text, ""))).map(|(k, v)| (k.into(), v.into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn filters_repeat_and_single_values_do_not() {
        let query = params(&[("tag", "stage=prod"), ("tag", "team"), ("tag", "url=a=b"), ("limit", "7")]);
        let tags = query.pairs("tag");
        assert_eq!(tags.get("stage").map(String::as_str), Some("prod"));
        assert_eq!(tags.get("team").map(String::as_str), Some(""));
        assert_eq!(tags.get("url").map(String::as_str), Some("a=b"));
        assert_eq!(query.one::<u32>("limit").expect("a number"), Some(7));
        assert_eq!(query.one::<u32>("before").expect("none"), None);
        assert!(query.one::<String>("tag").is_err());
        assert!(params(&[("limit", "x")]).one::<u32>("limit").is_err());
    }

    #[test]
    fn a_misspelt_filter_is_refused() {
        let problem = params(&[("tags", "a")]).only(&["name", "tag"]).err().expect("refused");
        assert_eq!(problem.detail, "there is no query parameter \"tags\"; there are: name, tag");
    }
}
