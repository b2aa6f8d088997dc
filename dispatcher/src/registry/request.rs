//! What a registration may ask for, and what makes two of them the same. Pure.

use std::collections::BTreeSet;

use muster_proto::id::{Digest, FilePath};
use muster_proto::manifest::MAX_FILES;
use serde::Serialize;

use super::{Error, SAMPLES_FILE};
use crate::app::view::Registration;
use crate::domain::registry::check_labels;

/// The most samples of one version: each is run on every device at every start.
const MAX_SAMPLES: usize = 64;
const MAX_DESCRIPTION_BYTES: usize = 4096;

/// Checks what can be checked without the files; answers with the digest of the content, which is the same for two
/// registrations that differ only in description and tags.
pub fn check(registration: &Registration) -> Result<Digest, Error> {
    let refuse = |message: String| Err(Error::Request(message));
    // One place is for the samples.
    if registration.files.is_empty() || registration.files.len() >= MAX_FILES {
        return refuse(format!("{} files: 1 to {} are allowed", registration.files.len(), MAX_FILES - 1));
    }
    let mut paths = BTreeSet::new();
    for file in &registration.files {
        if !paths.insert(file.path.as_str()) {
            return refuse(format!("the file {} stands twice", file.path));
        }
        let first = file.path.as_str().split('/').next().unwrap_or_default();
        if Some(first) == SAMPLES_FILE.split('/').next() {
            return refuse(format!("{}: the folder {first} is kept for the registry", file.path));
        }
    }
    // A file cannot lie below another file.
    for path in &paths {
        let below = |other: &&str| other.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        if let Some(other) = paths.iter().copied().find(|other| below(other)) {
            return refuse(format!("{path} is a file, and {other} needs it to be a folder"));
        }
    }
    if registration.description.len() > MAX_DESCRIPTION_BYTES {
        return refuse(format!("the description is over {MAX_DESCRIPTION_BYTES} bytes"));
    }
    if let Some(script) = registration.script.as_ref().filter(|script| !paths.contains(script.file.as_str())) {
        return refuse(format!("the script {} is not among the files", script.file));
    }
    check_labels("tag", &registration.tags).map_err(Error::Request)?;
    check_labels("property", &registration.properties).map_err(Error::Request)?;
    if let Some(samples) = &registration.samples
        && samples.samples.len() > MAX_SAMPLES
    {
        return refuse(format!("{} samples: at most {MAX_SAMPLES} are allowed", samples.samples.len()));
    }
    if let Some(tolerance) = registration.tolerance {
        let ok = |part: f32| part.is_finite() && part >= 0.0;
        if !ok(tolerance.absolute) || !ok(tolerance.relative) {
            return refuse("the tolerance has to be finite and not negative".into());
        }
    }
    Ok(content(registration))
}

/// The file that the engine loads: the one that is named, or the only one that ends in `.onnx`.
pub fn entry(registration: &Registration) -> Result<FilePath, Error> {
    if let Some(entry) = &registration.entry {
        if registration.files.iter().any(|f| f.path == *entry) {
            return Ok(entry.clone());
        }
        return Err(Error::Request(format!("the entry {entry} is not among the files")));
    }
    let onnx: Vec<&FilePath> = registration
        .files
        .iter()
        .map(|f| &f.path)
        .filter(|path| path.as_str().to_ascii_lowercase().ends_with(".onnx"))
        .collect();
    match (&onnx[..], &registration.files[..]) {
        ([only], _) => Ok((*only).clone()),
        ([], [only]) => Ok(only.path.clone()),
        ([], _) => Err(Error::Request("no file ends in .onnx: name the one to load as the entry".into())),
        _ => {
            let names: Vec<&str> = onnx.iter().map(|p| p.as_str()).collect();
            Err(Error::Request(format!(
                "several files end in .onnx ({}): name the one to load as the entry",
                names.join(", ")
            )))
        }
    }
}

fn content(registration: &Registration) -> Digest {
    #[derive(Serialize)]
    struct Content<'a> {
        files: Vec<(&'a str, Digest)>,
        entry: Option<&'a FilePath>,
        properties: &'a std::collections::BTreeMap<String, String>,
        samples: &'a Option<crate::app::view::SampleFile>,
        input_shapes: &'a std::collections::BTreeMap<String, Vec<u64>>,
        transforms: muster_proto::manifest::Transforms,
        tolerance: muster_proto::manifest::Tolerance,
        requires: &'a muster_proto::manifest::Requires,
        #[serde(skip_serializing_if = "Option::is_none")]
        script: Option<&'a crate::app::view::RegistrationScript>,
    }
    let mut files: Vec<(&str, Digest)> = registration.files.iter().map(|f| (f.path.as_str(), f.digest)).collect();
    files.sort();
    let content = Content {
        files,
        entry: registration.entry.as_ref(),
        properties: &registration.properties,
        samples: &registration.samples,
        input_shapes: &registration.input_shapes,
        transforms: registration.transforms.clone().unwrap_or_default(),
        tolerance: registration.tolerance.unwrap_or_default(),
        requires: &registration.requires,
        script: registration.script.as_ref(),
    };
    Digest::of(&serde_json::to_vec(&content).expect("a registration is plain data"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::app::view::RegistrationFile;

    fn of(paths: &[&str]) -> Registration {
        let file =
            |path: &&str| RegistrationFile { path: path.parse().expect("valid"), digest: Digest::of(path.as_bytes()) };
        Registration {
            name: "digits".parse().expect("valid"),
            files: paths.iter().map(file).collect(),
            entry: None,
            description: String::new(),
            tags: BTreeMap::new(),
            properties: BTreeMap::new(),
            samples: None,
            input_shapes: BTreeMap::new(),
            transforms: None,
            tolerance: None,
            requires: Default::default(),
            script: None,
        }
    }

    #[test]
    fn description_and_tags_and_the_order_of_files_are_not_content() {
        let mut other = of(&["b.bin", "a.onnx"]);
        other.description = "other".into();
        other.tags.insert("a".into(), "b".into());
        let same = check(&of(&["a.onnx", "b.bin"])).expect("fine");
        assert_eq!(check(&other).expect("fine"), same);
        other.properties.insert("a".into(), "b".into());
        assert_ne!(check(&other).expect("fine"), same);
        assert_ne!(check(&of(&["a.onnx"])).expect("fine"), same);
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        for bad in [&[][..], &["a", "a"], &[".muster/samples"], &["a", "a/b"]] {
            assert!(matches!(check(&of(bad)), Err(Error::Request(_))), "{bad:?} was accepted");
        }
    }

    #[test]
    fn the_entry_is_named_or_the_only_one() {
        let table: [(&[&str], Option<&str>, Option<&str>); 7] = [
            (&["m.onnx", "w.bin"], None, Some("m.onnx")),
            (&["M.ONNX", "w.bin"], None, Some("M.ONNX")),
            (&["model"], None, Some("model")),
            (&["a.onnx", "b.onnx"], None, None),
            (&["a.onnx", "b.onnx"], Some("b.onnx"), Some("b.onnx")),
            (&["a.bin", "b.bin"], None, None),
            (&["a.onnx"], Some("c.onnx"), None),
        ];
        for (paths, named, want) in table {
            let mut registration = of(paths);
            registration.entry = named.map(|n| n.parse().expect("valid"));
            assert_eq!(entry(&registration).ok().as_ref().map(FilePath::as_str), want, "{paths:?}");
        }
    }
}
