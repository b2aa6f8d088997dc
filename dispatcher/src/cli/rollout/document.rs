//! Rollouts as files: read, written, signed, and described for editors.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use clap::ValueEnum;
use muster_proto::desired::ApprovalStatement;
use muster_proto::id::{Digest, Workspace};
use muster_proto::trust::KeyEntry;
use muster_proto::trust::sign::approval_signing_input;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::de::DeserializeOwned;
use utoipa::{PartialSchema as _, ToSchema as _};

use crate::app::{RolloutDocument, RolloutView};
use crate::cli::Failure;
use crate::cli::client::Answer;
use crate::cli::output::{Output, print};

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Format {
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
    /// JSON.
    Json,
}

impl Format {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()) {
            Some("toml") => Format::Toml,
            Some("json") => Format::Json,
            // JSON is YAML, so standard input may be either.
            _ => Format::Yaml,
        }
    }

    pub(super) fn parse<T: DeserializeOwned>(self, text: &str) -> Result<T, String> {
        match self {
            Format::Toml => toml::from_str(text).map_err(|e| e.to_string()),
            Format::Yaml => serde_saphyr::from_str(text).map_err(|e| e.to_string()),
            Format::Json => serde_json::from_str(text).map_err(|e| e.to_string()),
        }
    }

    pub(super) fn write(self, document: &RolloutDocument) -> anyhow::Result<String> {
        Ok(match self {
            Format::Toml => toml::to_string(document)?,
            Format::Yaml => serde_saphyr::to_string(document)?,
            Format::Json => serde_json::to_string_pretty(document)?,
        })
    }
}

/// Reads a document; `-` is standard input.
pub(super) fn read(path: &Path) -> anyhow::Result<RolloutDocument> {
    let next = "`muster rollout schema` prints what there is; `muster rollout export` shows an example";
    read_document(path, "rollout", next)
}

/// Reads a document of what is called `kind`; `next` is what to do where it is none.
pub(in crate::cli) fn read_document<T: DeserializeOwned>(path: &Path, kind: &str, next: &str) -> anyhow::Result<T> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
        text
    } else {
        std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?
    };
    Format::of(path).parse(&text).map_err(|what| {
        let what = format!("{} is no {kind}: {}", path.display(), what.trim_end());
        Failure::usage(what, next).into()
    })
}

/// Prints a rollout's document.
pub(super) fn export(answer: &Answer, format: Format, out: Output) -> anyhow::Result<()> {
    let document: RolloutDocument = answer.parse()?;
    let format = if out.is_json() { Format::Json } else { format };
    Ok(print(&format.write(&document)?)?)
}

/// Prints the JSON Schema (draft 2020-12) of a document.
pub(super) fn print_schema() -> anyhow::Result<()> {
    Ok(print(&serde_json::to_string_pretty(&schema()?)?)?)
}

pub(super) fn schema() -> anyhow::Result<serde_json::Value> {
    let mut parts = Vec::new();
    RolloutDocument::schemas(&mut parts);
    let mut schema = serde_json::to_value(RolloutDocument::schema())?;
    let definitions: serde_json::Map<String, serde_json::Value> = parts
        .into_iter()
        .map(|(name, part)| Ok((name, serde_json::to_value(part)?)))
        .collect::<Result<_, serde_json::Error>>()?;
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Muster rollout".into();
    schema["$defs"] = definitions.into();
    // In OpenAPI the parts stand elsewhere.
    let text = schema.to_string().replace("#/components/schemas/", "#/$defs/");
    Ok(serde_json::from_str(&text)?)
}

/// Signs a plan for devices that check approvals themselves; answers with the key's id and the signature.
pub(super) fn sign(
    file: &Path,
    workspace: Workspace,
    rollout: &RolloutView,
    plan: Digest,
) -> anyhow::Result<(Digest, String)> {
    let der = PrivatePkcs8KeyDer::from_pem_file(file)
        .map_err(|e| anyhow::anyhow!("{} is no private key in PEM: {e}", file.display()))?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
        .map_err(|e| anyhow::anyhow!("{} is no Ed25519 key: {e}", file.display()))?;
    let target = muster_proto::manifest::target_path(&rollout.model, rollout.version);
    let statement = ApprovalStatement { workspace, plan, target, digest: rollout.digest };
    let key = KeyEntry::ed25519(pair.public_key().as_ref());
    let signature = pair.sign(&approval_signing_input(&statement));
    Ok((key.id()?, hex::encode(signature.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = r#"
model = "vision/digits"
version = 2
preset = "standard"
priority = 5

[target]
groups = ["line-a"]
where = 'labels.site == "berlin"'

[rate]
in_flight = 20
per_minute = { base = 2, factor = 2, every = 10, on = "healthy", max = 60 }

[schedule]
windows = [{ cron = "0 2 * * SAT", for = "2h" }]

[[stages]]
name = "canary"
size = 1
soak = "10m"
gates = { failures = 0 }

[[stages]]
size = "100%"
soak = "1h"
gates = { failures = "5%", on_breach = "abort" }
"#;

    #[test]
    fn a_document_is_the_same_in_each_format() {
        let document = Format::Toml.parse(TOML).expect("reads");
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            let text = format.write(&document).expect("writes");
            assert_eq!(format.parse::<RolloutDocument>(&text).expect("reads again"), document, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, names) in [
            ("priority = 5", "prority = 5", "prority"),
            ("soak = \"10m\"", "soak = \"10 minutes\"", "10 minutes"),
            ("size = \"100%\"", "size = \"120%\"", "120%"),
            ("labels.site ==", "labels.site =", "column"),
            ("version = 2", "version = \"two\"", "version"),
            ("model = \"vision/digits\"", "", "model"),
        ] {
            let refused = Format::Toml.parse::<RolloutDocument>(&TOML.replace(from, to)).expect_err(to);
            assert!(refused.contains(names), "{to}: {refused}");
        }
    }
}
