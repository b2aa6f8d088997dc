//! The bill of materials of an image, as CycloneDX 1.5: the agent, its crates, and the files of the model. Does no I/O.
//!
//! Source: the CycloneDX 1.5 JSON schema (ECMA-424 is its successor). The serial number and the time come from the
//! content, so that equal images have equal bills.

mod crates;

use serde::Serialize;

use super::document::BlobDigest;
use super::platform::Platform;

pub use crates::{Crate, LockError, agent_crates};

/// What goes into a bill of materials.
#[derive(Debug, Clone)]
pub struct Contents<'a> {
    /// The platform of the image.
    pub platform: Platform,
    /// The version of the agent.
    pub agent_version: &'a str,
    /// The digest of the agent's binary.
    pub agent_digest: &'a BlobDigest,
    /// The crates that the agent was built of.
    pub crates: &'a [Crate],
    /// The model's name.
    pub model: &'a str,
    /// The model's version.
    pub version: u32,
    /// The digest of the model's manifest.
    pub digest: &'a str,
    /// The model's licence, where its manifest names one.
    pub licence: Option<&'a str>,
    /// The files of the bundle: path, size in bytes, digest.
    pub files: &'a [(String, u64, BlobDigest)],
    /// When the bundle was made, as RFC 3339.
    pub created: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bill<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u8,
    metadata: Metadata<'a>,
    components: Vec<Component>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    timestamp: &'a str,
    tools: Tools,
    component: Component,
}

#[derive(Serialize)]
struct Tools {
    components: Vec<Component>,
}

#[derive(Default, Serialize)]
struct Component {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(rename = "bom-ref", skip_serializing_if = "String::is_empty")]
    reference: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<Licence>,
    #[serde(skip_serializing_if = "String::is_empty")]
    purl: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    components: Vec<Component>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
struct Licence {
    license: LicenceName,
}

#[derive(Serialize)]
struct LicenceName {
    name: String,
}

#[derive(Serialize)]
struct Property {
    name: &'static str,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    #[serde(rename = "ref")]
    reference: String,
    depends_on: Vec<String>,
}

/// The bill as JSON.
pub fn render(contents: &Contents<'_>) -> Vec<u8> {
    let mut bill = bill(contents);
    // The number is that of everything else in the bill, in the form of a UUID made by its maker's rules (RFC 9562, 5.8).
    let digest = BlobDigest::of(&super::layout::to_json(&bill));
    let hex = digest.hex();
    bill.serial_number =
        format!("urn:uuid:{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[12..15], &hex[15..18], &hex[18..30]);
    super::layout::to_json(&bill)
}

fn bill<'a>(contents: &Contents<'a>) -> Bill<'a> {
    let agent = agent(contents);
    let model = model(contents);
    let crates: Vec<Component> = contents.crates.iter().map(library).collect();
    let image = Component {
        kind: "container",
        reference: "image".to_owned(),
        name: contents.model.to_owned(),
        version: contents.version.to_string(),
        properties: vec![
            property("muster:platform", contents.platform.to_string()),
            property("muster:manifest", contents.digest.to_owned()),
        ],
        ..Component::default()
    };
    let depends = |reference: &str, on: Vec<String>| Dependency { reference: reference.to_owned(), depends_on: on };
    let dependencies = vec![
        depends("image", vec![agent.reference.clone(), model.reference.clone()]),
        depends(&agent.reference, crates.iter().map(|c| c.reference.clone()).collect()),
    ];
    let tool = Component {
        kind: "application",
        name: "muster".to_owned(),
        version: contents.agent_version.to_owned(),
        ..Component::default()
    };
    Bill {
        schema: "http://cyclonedx.org/schema/bom-1.5.schema.json",
        bom_format: "CycloneDX",
        spec_version: "1.5",
        serial_number: String::new(),
        version: 1,
        metadata: Metadata { timestamp: contents.created, tools: Tools { components: vec![tool] }, component: image },
        components: [agent, model].into_iter().chain(crates).collect(),
        dependencies,
    }
}

fn agent(contents: &Contents<'_>) -> Component {
    Component {
        kind: "application",
        reference: "muster-agent".to_owned(),
        name: "muster-agent".to_owned(),
        version: contents.agent_version.to_owned(),
        hashes: vec![sha256(contents.agent_digest.hex())],
        licenses: vec![licence("MIT OR Apache-2.0")],
        properties: vec![
            property("muster:path", "/usr/bin/muster-agent".to_owned()),
            // Cargo.lock does not tell what a target or a test alone needs.
            property("muster:crates", "all that Cargo.lock reaches from the agent; some are not built".to_owned()),
        ],
        ..Component::default()
    }
}

fn model(contents: &Contents<'_>) -> Component {
    let files = contents.files.iter().map(|(path, size, digest)| Component {
        kind: "file",
        name: path.clone(),
        hashes: vec![sha256(digest.hex())],
        properties: vec![property("muster:size", size.to_string())],
        ..Component::default()
    });
    Component {
        kind: "machine-learning-model",
        reference: "model".to_owned(),
        name: contents.model.to_owned(),
        version: contents.version.to_string(),
        licenses: contents.licence.map(licence).into_iter().collect(),
        components: files.collect(),
        properties: vec![property("muster:path", "/bundle".to_owned())],
        ..Component::default()
    }
}

fn library(package: &Crate) -> Component {
    let purl = format!("pkg:cargo/{}@{}", package.name, package.version.replace('+', "%2B"));
    Component {
        kind: "library",
        reference: purl.clone(),
        name: package.name.clone(),
        version: package.version.clone(),
        hashes: package.checksum.as_deref().map(sha256).into_iter().collect(),
        purl,
        ..Component::default()
    }
}

fn sha256(hex: &str) -> Hash {
    Hash { alg: "SHA-256", content: hex.to_owned() }
}

/// Models come with licences that SPDX does not list, so a licence is a name and not an expression.
fn licence(name: &str) -> Licence {
    Licence { license: LicenceName { name: name.to_owned() } }
}

fn property(name: &'static str, value: String) -> Property {
    Property { name, value }
}
