//! Small languages of arguments: `name:version`, `key=value`, `1x3x224x224`, `90d`.

use std::str::FromStr;

use muster_proto::id::{ModelName, Version};
use muster_proto::manifest::Tolerance;

/// A model, and a version of it if one is named: `vision/digits` or `vision/digits:2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelSpec {
    pub name: ModelName,
    pub version: Option<Version>,
}

impl FromStr for ModelSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.rsplit_once(':') {
            Some((name, version)) => (name, Some(version)),
            None => (text, None),
        };
        let name = name.parse().map_err(|e: muster_proto::id::Error| e.to_string())?;
        let version = version.map(str::parse).transpose().map_err(|e: muster_proto::id::Error| e.to_string())?;
        Ok(Self { name, version })
    }
}

/// One version of a model, which has to be named: `digits:2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VersionSpec {
    pub name: ModelName,
    pub version: Version,
}

impl FromStr for VersionSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let spec: ModelSpec = text.parse()?;
        let version = spec.version.ok_or_else(|| format!("name the version as well, e.g. {text}:1"))?;
        Ok(Self { name: spec.name, version })
    }
}

/// `key=value`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err(format!("{text:?} is not key=value")),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
    }
}

/// A change of a map: `key=value` sets, `key-` removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Set(String, String),
    Remove(String),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) {
            return Ok(Change::Set(key.to_owned(), value.to_owned()));
        }
        match text.strip_suffix('-').filter(|key| !key.is_empty() && !key.contains('=')) {
            Some(key) => Ok(Change::Remove(key.to_owned())),
            None => Err(format!("{text:?} is neither key=value, which sets, nor key-, which removes")),
        }
    }
}

/// `input=1x3x224x224`; `input=` is a scalar.
pub(super) fn shape(text: &str) -> Result<(String, Vec<u64>), String> {
    // The name may contain `=`; dimensions cannot.
    let (name, dims) = text
        .rsplit_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| format!("{text:?} is not an input's name and shape such as images=1x3x224x224"))?;
    if dims.is_empty() {
        return Ok((name.to_owned(), Vec::new()));
    }
    let dims: Result<Vec<u64>, _> = dims.split(['x', ',']).map(str::parse).collect();
    Ok((name.to_owned(), dims.map_err(|_| format!("{text:?}: dimensions are whole numbers, as in 1x3x224x224"))?))
}

/// `absolute` or `absolute,relative`.
pub(super) fn tolerance(text: &str) -> Result<Tolerance, String> {
    let number = |text: &str| {
        text.trim().parse::<f32>().ok().filter(|n| n.is_finite() && *n >= 0.0).ok_or_else(|| {
            format!("{text:?} is not a tolerance such as 0.001, or 0.001,0.01 for the absolute and the relative part")
        })
    };
    match text.split_once(',') {
        Some((absolute, relative)) => Ok(Tolerance { absolute: number(absolute)?, relative: number(relative)? }),
        None => Ok(Tolerance { absolute: number(text)?, relative: 0.0 }),
    }
}

/// A time span in seconds: `90s`, `15m`, `24h`, `30d`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a time span such as 90s, 15m, 24h or 30d");
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_and_versions() {
        let spec: ModelSpec = "vision/digits:2".parse().expect("valid");
        assert_eq!((spec.name.as_str(), spec.version), ("vision/digits", Some(Version(2))));
        assert_eq!("digits".parse::<ModelSpec>().expect("valid").version, None);
        for bad in ["digits:", "digits:0", "digits:latest", ":1", "a:b:1", "../x:1"] {
            assert!(bad.parse::<ModelSpec>().is_err(), "{bad:?} was accepted");
        }
        assert_eq!("digits".parse::<VersionSpec>(), Err("name the version as well, e.g. digits:1".into()));
    }

    #[test]
    fn pairs_and_changes() {
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
        assert!(pair("a").is_err() && pair("=b").is_err());
        assert_eq!("a=b-".parse(), Ok(Change::Set("a".into(), "b-".into())));
        assert_eq!("a-b-".parse(), Ok(Change::Remove("a-b".into())));
        for bad in ["a", "-", "=b", ""] {
            assert!(bad.parse::<Change>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn shapes() {
        assert_eq!(shape("x=1x3x224x224"), Ok(("x".into(), vec![1, 3, 224, 224])));
        assert_eq!(shape("x=1,80"), Ok(("x".into(), vec![1, 80])));
        assert_eq!(shape("a=b=7"), Ok(("a=b".into(), vec![7])));
        assert_eq!(shape("x="), Ok(("x".into(), vec![])));
        for bad in ["x", "=1", "x=1xNx3", "x=1xx3", "x=-1", "x=1.5"] {
            assert!(shape(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn tolerances_and_spans() {
        assert_eq!(tolerance("0.01,0.1"), Ok(Tolerance { absolute: 0.01, relative: 0.1 }));
        assert_eq!(tolerance("1e-4"), Ok(Tolerance { absolute: 1e-4, relative: 0.0 }));
        for bad in ["", "-1", "nan", "inf", "1,2,3", "x"] {
            assert!(tolerance(bad).is_err(), "{bad:?} was accepted");
        }
        let table = [("90s", 90), ("15m", 900), ("24h", 86_400), ("30d", 2_592_000)];
        for (text, want) in table {
            assert_eq!(seconds(text), Ok(want));
        }
        for bad in ["", "s", "90", "0s", "-1h", "1w", "1.5h", "99999999999999999999d", "18446744073709551615d", "ä"] {
            assert!(seconds(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
