//! The name of an image, such as `hub.example:5000/vision/digits:3`. Knows no network.

use std::fmt;
use std::str::FromStr;

/// A repository with or without a registry, and a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    registry: Option<String>,
    repository: String,
    tag: String,
}

/// Why a text names no image.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is nothing behind a colon.
    #[error("the image name {0:?} has no tag; write it as {0}:3")]
    NoTag(String),
    /// It names content instead of a place to put it.
    #[error("the image name {0:?} holds a digest; an image is written under a tag, such as NAME:3")]
    Digest(String),
    /// A part of it has letters that images may not have.
    #[error(
        "{0:?} is no image name: use lower-case letters, digits, and single '.', '_' or '-' between them, with '/' \
         between parts, then ':' and a tag of letters, digits, '.', '_' and '-'"
    )]
    Letters(String),
    /// It says no registry.
    #[error("the image name {0:?} names no registry; write it as registry.example/{0}, or docker.io/… for Docker Hub")]
    NoRegistry(String),
}

/// The longest repository that registries take.
const MAX_REPOSITORY: usize = 255;
/// The longest tag of the specification.
const MAX_TAG: usize = 128;

impl Name {
    /// The registry's host and port, where the name has one.
    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    /// The registry, or an error that says how to name one.
    pub fn require_registry(&self) -> Result<&str, Error> {
        self.registry().ok_or_else(|| Error::NoRegistry(self.to_string()))
    }

    /// The repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The name as container runtimes complete it: without a registry it is Docker Hub's.
    pub fn full(&self) -> String {
        match &self.registry {
            None if !self.repository.contains('/') => format!("docker.io/library/{self}"),
            None => format!("docker.io/{self}"),
            Some(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.contains('@') {
            return Err(Error::Digest(text.to_owned()));
        }
        // A first part with a dot or a port, and localhost, is a host: the rule of Docker's reference grammar.
        let (registry, rest) = match text.split_once('/') {
            Some((host, rest)) if host == "localhost" || host.contains(['.', ':']) => (Some(host), rest),
            _ => (None, text),
        };
        let (repository, tag) = rest.rsplit_once(':').ok_or_else(|| Error::NoTag(text.to_owned()))?;
        let fine = registry.is_none_or(is_host)
            && repository.len() <= MAX_REPOSITORY
            && repository.split('/').all(is_component)
            && is_tag(tag);
        if !fine {
            return Err(Error::Letters(text.to_owned()));
        }
        Ok(Self { registry: registry.map(str::to_owned), repository: repository.to_owned(), tag: tag.to_owned() })
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    !name.is_empty()
        && name.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn is_component(part: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let separated = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    edge(part.bytes().next())
        && edge(part.bytes().last())
        && separated.into_iter().all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(tag: &str) -> bool {
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_runtimes_do() {
        for (text, full) in [
            ("digits:3", "docker.io/library/digits:3"),
            ("vision/digits:3", "docker.io/vision/digits:3"),
            ("localhost/digits:3", "localhost/digits:3"),
            ("localhost:5000/a/b:v1.0_x-y", "localhost:5000/a/b:v1.0_x-y"),
            ("hub.example/di__g-i--t.s:3", "hub.example/di__g-i--t.s:3"),
        ] {
            let name: Name = text.parse().expect(text);
            assert_eq!(name.full(), full);
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_no_registry_takes_is_refused_before_anything_is_built() {
        for (text, words) in [
            ("", "no tag"),
            ("digits", "no tag"),
            ("localhost:5000/digits", "no tag"),
            ("digits@sha256:00", "a digest"),
            ("Digits:3", "lower-case"),
            ("a..b:3", "lower-case"),
            ("a//b:3", "lower-case"),
            ("-a:3", "lower-case"),
            ("a:.3", "lower-case"),
            ("a:", "lower-case"),
            ("hub.example:x/a:3", "lower-case"),
            ("hub.example:70000/a:3", "lower-case"),
            ("hub..example/a:3", "lower-case"),
        ] {
            let error = text.parse::<Name>().expect_err(text).to_string();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        }
        let lost = "digits:3".parse::<Name>().expect("a name");
        assert!(lost.require_registry().expect_err("none").to_string().contains("names no registry"));
    }
}
