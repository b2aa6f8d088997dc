//! What is wrong with a request, in gRPC's codes, and until when an answer is wanted.

use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::super::error::Error;

/// The trailer with the stable code of this project.
const CODE: &str = "muster-code";

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::BadRequest(_) | Error::Input(_) | Error::Refused(_) | Error::MediaType(_) => Code::InvalidArgument,
            Error::Forbidden(_) => Code::PermissionDenied,
            Error::NotFound(_) => Code::NotFound,
            Error::WrongVerb(_) | Error::NotOffered(_) => Code::Unimplemented,
            // Clients try UNAVAILABLE again by themselves, which an overload would be multiplied by.
            Error::TooLarge(_) | Error::Busy | Error::Overloaded(_) => Code::ResourceExhausted,
            Error::NotReady(_) | Error::NothingReady => Code::Unavailable,
            Error::Unauthorized(_) => Code::Unauthenticated,
            Error::Share(_) => Code::ResourceExhausted,
            Error::Late => Code::DeadlineExceeded,
            Error::InferenceFailed | Error::Script(_) | Error::Internal => Code::Internal,
        };
        let mut status = Status::new(code, error.sentence());
        if let Ok(value) = error.code().name().parse() {
            status.metadata_mut().insert(CODE, value);
        }
        status
    }
}

/// Until when an answer is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    at: Instant,
}

impl Deadline {
    /// In `limit` from now on.
    pub fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit }
    }

    /// The earlier one of this and `limit` from now on.
    pub fn within(self, limit: Duration) -> Self {
        let other = Self::after(limit);
        if other.at < self.at { other } else { self }
    }

    /// What `work` comes to; it is dropped, and not even begun, where it is too late.
    pub async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T, Error> {
        if Instant::now() >= self.at {
            return Err(Error::Late);
        }
        tokio::time::timeout_at(self.at, work).await.map_err(|_| Error::Late)
    }
}

/// How long the caller waits, by `grpc-timeout`: at most eight digits and a unit.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let read = value.to_str().ok().and_then(|text| {
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let fits = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        let count: u64 = digits.parse().ok().filter(|_| fits)?;
        Some(match unit {
            "H" => Duration::from_secs(count * 3600),
            "M" => Duration::from_secs(count * 60),
            "S" => Duration::from_secs(count),
            "m" => Duration::from_millis(count),
            "u" => Duration::from_micros(count),
            "n" => Duration::from_nanos(count),
            _ => return None,
        })
    });
    read.map(Some)
        .ok_or_else(|| Error::BadRequest("grpc-timeout has to be at most 8 digits and H, M, S, m, u or n".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_a_unit() {
        let table = [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("4m", Some(4_000_000)),
            ("5u", Some(5_000)),
            ("99999999n", Some(99_999_999)),
            ("0S", Some(0)),
            ("999999999n", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("+1S", None),
            ("5", None),
            ("5s", None),
            ("5é", None),
        ];
        for (text, nanos) in table {
            let value = axum::http::HeaderValue::from_bytes(text.as_bytes()).expect("a value");
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().expect("a name"), value)]);
            let got = timeout(&headers).ok().flatten().map(|limit| limit.as_nanos());
            assert_eq!(got, nanos, "{text}");
        }
        assert!(matches!(timeout(&HeaderMap::new()), Ok(None)));
    }

    #[test]
    fn errors_have_grpcs_codes() {
        let table = [
            (Error::BadRequest("x".into()), Code::InvalidArgument),
            (Error::Input("x".into()), Code::InvalidArgument),
            (Error::NotFound("x".into()), Code::NotFound),
            (Error::Forbidden("x".into()), Code::PermissionDenied),
            (Error::NotOffered("x"), Code::Unimplemented),
            (Error::NothingReady, Code::Unavailable),
            (Error::NotReady("x".into()), Code::Unavailable),
            (Error::Busy, Code::ResourceExhausted),
            (Error::Overloaded("x".into()), Code::ResourceExhausted),
            (Error::TooLarge(1), Code::ResourceExhausted),
            (Error::Late, Code::DeadlineExceeded),
            (Error::InferenceFailed, Code::Internal),
            (Error::Internal, Code::Internal),
        ];
        for (error, code) in table {
            let (said, stable) = (error.to_string(), error.code().name());
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (code, said.as_str()));
            assert_eq!(status.metadata().get(CODE).expect("a code"), stable);
        }
    }

    #[tokio::test]
    async fn late_work_is_not_begun() {
        let mut begun = false;
        let past = Deadline::after(Duration::ZERO);
        assert!(matches!(past.bound(async { begun = true }).await, Err(Error::Late)));
        assert!(!begun);
        let soon = Deadline::after(Duration::from_secs(60)).within(Duration::from_millis(5));
        assert!(matches!(soon.bound(std::future::pending::<()>()).await, Err(Error::Late)));
    }
}
