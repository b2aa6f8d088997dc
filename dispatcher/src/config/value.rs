//! How values are written: as TOML in a file, as plain text in a variable or flag.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use muster_proto::id::Workspace;

/// How the value of a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// `true` or `false`.
    Switch,
    /// An array of strings; in a variable or flag separated by commas.
    List,
}

/// A type that a key can have.
pub trait Setting: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// A sentence on what is wrong.
    fn read(value: &toml::Value) -> Result<Self, String>;
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(format!("{other:?} is not a log format; there are text and json")),
        }
    }
}

/// The TOML value that `text` from a variable or flag stands for.
pub(super) fn from_text(kind: Kind, text: &str) -> Result<toml::Value, String> {
    match kind {
        Kind::Text => Ok(toml::Value::String(text.to_owned())),
        Kind::Switch => match text {
            "true" | "1" | "yes" | "on" => Ok(toml::Value::Boolean(true)),
            "false" | "0" | "no" | "off" => Ok(toml::Value::Boolean(false)),
            other => Err(format!("{other:?} is neither true nor false")),
        },
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Ok(toml::Value::Array(parts.map(|part| toml::Value::String(part.to_owned())).collect()))
        }
    }
}

fn text(value: &toml::Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| format!("takes a string in quotes, not {}", value.type_str()))
}

fn parsed<T: FromStr<Err: fmt::Display>>(value: &toml::Value) -> Result<T, String> {
    text(value)?.parse().map_err(|e: T::Err| e.to_string())
}

impl Setting for String {
    fn read(value: &toml::Value) -> Result<Self, String> {
        text(value).map(str::to_owned)
    }
}

impl Setting for PathBuf {
    fn read(value: &toml::Value) -> Result<Self, String> {
        match text(value)? {
            "" => Err("is empty".into()),
            path => Ok(PathBuf::from(path)),
        }
    }
}

impl Setting for SocketAddr {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let text = text(value)?;
        text.parse().map_err(|_| format!("{text:?} is not an address and port such as 0.0.0.0:8420 or [::]:8420"))
    }
}

impl Setting for Workspace {
    fn read(value: &toml::Value) -> Result<Self, String> {
        parsed(value)
    }
}

impl Setting for LogFormat {
    fn read(value: &toml::Value) -> Result<Self, String> {
        parsed(value)
    }
}

impl Setting for bool {
    fn read(value: &toml::Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| format!("takes true or false, not {}", value.type_str()))
    }
}

impl Setting for Vec<String> {
    fn read(value: &toml::Value) -> Result<Self, String> {
        let array = value.as_array().ok_or_else(|| format!("takes an array of strings, not {}", value.type_str()))?;
        array.iter().map(String::read).collect()
    }
}

/// The empty string stands for none.
impl<T: Setting> Setting for Option<T> {
    fn read(value: &toml::Value) -> Result<Self, String> {
        if value.as_str() == Some("") { Ok(None) } else { T::read(value).map(Some) }
    }
}
