//! What MLflow's callers name in Content-Type.

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;

use super::super::error::{Error, clip};

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON.
    Json,
    /// Comma-separated values with a header row.
    Csv,
}

impl Kind {
    /// Reads the header. Nothing stands for JSON.
    pub fn of(headers: &HeaderMap) -> Result<Self, Error> {
        let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Kind::Json) };
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let kind = match parts.next().unwrap_or_default() {
            "" | "application/json" => Kind::Json,
            "text/csv" => Kind::Csv,
            "application/vnd.apache.parquet" => {
                let text = "Parquet is not read here: send the frame as application/json (dataframe_split) or text/csv";
                return Err(Error::MediaType(text.into()));
            }
            other => {
                let text = format!(
                    "This predictor only supports the following content types: application/json, text/csv. Got '{}'",
                    clip(other)
                );
                return Err(Error::MediaType(text));
            }
        };
        let strange = parts.find(|parameter| {
            let parameter = parameter.replace([' ', '"'], "");
            !matches!(parameter.as_str(), "" | "charset=utf-8" | "charset=utf8")
        });
        match strange {
            Some(parameter) => {
                let text = format!("Unrecognized content type parameters: {}. Only charset=utf-8 is", clip(parameter));
                Err(Error::MediaType(text))
            }
            None => Ok(kind),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn types_and_parameters_are_told_apart() {
        let table = [
            ("application/json", Some(Kind::Json)),
            ("Application/JSON; charset=UTF-8", Some(Kind::Json)),
            ("application/json;charset=\"utf-8\"", Some(Kind::Json)),
            ("", Some(Kind::Json)),
            ("text/csv;", Some(Kind::Csv)),
            ("text/csv; charset=latin-1", None),
            ("application/json; format=pandas-split", None),
            ("application/vnd.apache.parquet", None),
            ("application/x-www-form-urlencoded", None),
        ];
        for (text, want) in table {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]);
            assert_eq!(Kind::of(&headers).ok(), want, "{text}");
        }
    }
}
