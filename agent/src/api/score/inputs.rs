//! From a body of `/score` to the model's inputs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use muster_proto::manifest::Tensor;

use super::super::error::{Error, clip};
use super::npy;
use crate::engine::Loaded;
use crate::engine::json::dictionary::{Given, Wanted};

/// What the caller says that the body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON.
    Json,
    /// A PNG or JPEG file.
    Image,
    /// An .npy file.
    Npy,
    /// Nothing that would tell: the first bytes do.
    Unknown,
}

/// Reads Content-Type. curl's own, for forms, says nothing.
pub fn kind_of(headers: &HeaderMap) -> Result<Kind, Error> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Kind::Unknown) };
    let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
    match text.split(';').next().unwrap_or_default().trim() {
        "application/json" | "text/json" => Ok(Kind::Json),
        json if json.ends_with("+json") => Ok(Kind::Json),
        "image/png" | "image/jpeg" | "image/jpg" => Ok(Kind::Image),
        "application/x-npy" | "application/npy" => Ok(Kind::Npy),
        "" | "application/octet-stream" | "application/x-www-form-urlencoded" | "text/plain" => Ok(Kind::Unknown),
        other => {
            let text = format!(
                "Content-Type {:?} cannot be read, but application/json, image/png, image/jpeg and application/x-npy",
                clip(other)
            );
            Err(Error::MediaType(text))
        }
    }
}

/// Whether `bytes` are a PNG or JPEG file, by what the caller says or by themselves.
pub fn is_image(bytes: &[u8], kind: Kind) -> bool {
    let looks_so = bytes.starts_with(b"\x89PNG\r\n\x1a\n") || bytes.starts_with(&[0xff, 0xd8, 0xff]);
    kind == Kind::Image || kind == Kind::Unknown && looks_so
}

/// The model's inputs, after the input transforms.
pub fn read(bytes: &[u8], kind: Kind, loaded: &Loaded) -> Result<BTreeMap<String, Tensor>, Error> {
    let wanted = Wanted { specs: loaded.model.inputs(), transforms: &loaded.manifest.transforms };
    if is_image(bytes, kind) {
        return Ok(wanted.one(Given::Image(Cow::Borrowed(bytes)))?);
    }
    if kind == Kind::Npy || kind == Kind::Unknown && npy::is_npy(bytes) {
        return Ok(wanted.one(Given::Tensor(npy::read(bytes).map_err(Error::Input)?))?);
    }
    Ok(wanted.read(bytes)?)
}
