//! `muster image`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use muster_agent::serve::Document;
use muster_agent::serve::config::{Model, Service};
use serde::Serialize;

use super::model::download::{Downloaded, fetch};
use super::output::{facts, size};
use super::parse::ModelSpec;
use super::{Failure, Global, Session};
use crate::cluster::plan::BUNDLE;
use crate::image::auth::Sources;
use crate::image::push::{Connection, Progress, push};
use crate::image::{Layout, Name, Platform, Recipe, archive, build, layout, sbom};

/// Where a server in a container listens.
const PORT: u16 = 8080;
const ADMIN_PORT: u16 = 8081;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write an OCI image of a version: the static agent, the signed bundle and an SBOM. No Docker is needed, and the
    /// same version gives the same bytes.
    #[command(after_help = "\
Examples:
  muster image build digits:1 --agent amd64=dist/amd64/muster-agent --agent arm64=dist/arm64/muster-agent
  muster image push digits-1.oci registry.example/models/digits:1
  podman run --rm -p 8080:8080 registry.example/models/digits:1

`cross/build` makes static agents. The image serves without keys: put it behind what asks for some, or mount a
document of your own over /etc/muster/serve.toml.")]
    Build(BuildArgs),
    /// Send an image to a registry; what it has already is not sent again.
    Push {
        /// The image's folder.
        layout: PathBuf,
        /// Where to: REGISTRY/REPOSITORY:TAG; the image's own name without it.
        name: Option<Name>,
        /// The user; its password is in MUSTER_REGISTRY_PASSWORD. Docker's and podman's logins are found without.
        #[arg(long, value_name = "NAME")]
        username: Option<String>,
        /// PEM file of the authority that signed the registry's certificate.
        #[arg(long = "registry-ca", value_name = "FILE")]
        registry_ca: Option<PathBuf>,
        /// Speak plain HTTP with a registry that is not on this machine.
        #[arg(long)]
        insecure_http: bool,
    },
    /// Pack an image into one file, for `podman load`, `docker load` and `ctr images import`.
    Archive {
        /// The image's folder.
        layout: PathBuf,
        /// The file to write.
        file: PathBuf,
        /// A docker archive of one platform; an OCI archive of all without it.
        #[arg(long, value_name = "PLATFORM")]
        docker: Option<Platform>,
    },
    /// Compare every byte of an image with its digests.
    Verify {
        /// The image's folder.
        layout: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct BuildArgs {
    /// The version; the model's newest without a number.
    #[arg(value_name = "MODEL[:VERSION]")]
    model: ModelSpec,
    /// A static agent for a platform: amd64, arm64, armv7. Repeat it for an image of several.
    #[arg(long, required = true, value_name = "PLATFORM=FILE", value_parser = agent)]
    agent: Vec<(Platform, PathBuf)>,
    /// The folder to write; NAME-VERSION.oci without it.
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    /// The image's name, e.g. registry.example/models/digits:1; NAME:VERSION without it.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What the model's licence is, as an SPDX expression.
    #[arg(long, value_name = "SPDX")]
    licence: Option<String>,
    /// A label of the image. Repeat it for several.
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::parse::pair)]
    label: Vec<(String, String)>,
}

fn agent(text: &str) -> Result<(Platform, PathBuf), String> {
    let (platform, path) = text.split_once('=').ok_or("write PLATFORM=FILE, e.g. amd64=muster-agent")?;
    Ok((platform.parse().map_err(|error| format!("{error}"))?, path.into()))
}

pub(super) fn run(command: Command, global: &Global) -> anyhow::Result<()> {
    let out = global.out();
    match command {
        Command::Build(args) => build_image(args, &global.session()?),
        Command::Push { layout, name, username, registry_ca, insecure_http } => {
            let layout = Layout::open(&layout)?;
            let variable = |name: &str| std::env::var(name).ok();
            let name = match name {
                Some(name) => name,
                None => own_name(&layout)?,
            };
            let auth = Sources::new(username, variable).find(&name)?;
            let certificates = registry_ca
                .map(|file| std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display())));
            let certificates = certificates.transpose()?;
            let connection = Connection { insecure_http, certificates, ..Connection::from_environment(variable) };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut told = |progress: Progress<'_>| out.note(&format!("{progress:?}"));
            let pushed = runtime.block_on(push(&layout, &name, &auth, &connection, &mut told))?;
            let text = || {
                facts([
                    ("image", pushed.reference.to_string()),
                    ("digest", pushed.digest.to_string()),
                    (
                        "sent",
                        format!(
                            "{} of {} objects, {}",
                            pushed.sent,
                            pushed.sent + pushed.present,
                            size(pushed.sent_bytes)
                        ),
                    ),
                ])
            };
            out.value(&serde_json::json!({"image": pushed.reference.to_string(), "digest": pushed.digest.to_string(), "sent": pushed.sent, "sent_bytes": pushed.sent_bytes}), text)?;
            Ok(())
        }
        Command::Archive { layout, file, docker } => {
            let layout = Layout::open(&layout)?;
            match docker {
                Some(platform) => archive::write_docker_archive(&layout, platform, &file)?,
                None => archive::write_oci_archive(&layout, &file)?,
            }
            out.note(&format!("{} is written.", file.display()));
            Ok(())
        }
        Command::Verify { layout } => {
            let verified = layout::verify(&Layout::open(&layout)?)?;
            out.note(&format!("{} objects, {}: all as their digests say.", verified.blobs, size(verified.bytes)));
            Ok(())
        }
    }
}

fn own_name(layout: &Layout) -> anyhow::Result<Name> {
    let index = serde_json::to_value(layout.index()?)?;
    let name = index.pointer("/manifests/0/annotations/io.containerd.image.name").and_then(serde_json::Value::as_str);
    match name {
        Some(name) => Ok(name.parse()?),
        None => Err(Failure::usage("the image has no name of its own", "say where to: REGISTRY/REPOSITORY:TAG").into()),
    }
}

#[derive(Serialize)]
struct Shown {
    image: String,
    digest: String,
    folder: PathBuf,
    bytes: u64,
}

fn build_image(args: BuildArgs, session: &Session) -> anyhow::Result<()> {
    let work = tempfile::tempdir().context("no folder for the bundle can be made")?;
    let Downloaded { version, digest, manifest, folder } =
        fetch(&args.model, Some(work.path().join("bundle")), session)?;
    let (model, number) = (version.name.clone(), version.version);
    let slot = model.default_slot();
    let image = args.name.unwrap_or_else(|| format!("{}:{number}", slot.as_str().to_lowercase()));
    let to = args.to.unwrap_or_else(|| PathBuf::from(format!("{slot}-{number}.oci")));
    let bundle = Model {
        version: Some(format!("{model}:{number}")),
        digest: Some(digest),
        bundle: Some(BUNDLE.into()),
        traffic: None,
    };
    let service = Service {
        name: slot,
        models: vec![bundle],
        keys: Default::default(),
        keys_file: None,
        settings: Default::default(),
    };
    let document = Document {
        listen: (std::net::Ipv4Addr::UNSPECIFIED, PORT).into(),
        admin: Some((std::net::Ipv4Addr::UNSPECIFIED, ADMIN_PORT).into()),
        services: vec![service],
        ..Document::default()
    };
    let recipe = Recipe {
        name: image.clone(),
        binaries: args.agent,
        bundle: folder,
        config: toml::to_string(&document)?.into_bytes(),
        model: model.to_string(),
        version: u32::try_from(number.0).context("the version's number is too large for an image")?,
        digest: digest.to_string(),
        description: manifest.description.clone(),
        licence: args.licence,
        created: manifest.created_at,
        labels: args.label.into_iter().collect::<BTreeMap<_, _>>(),
        // A server that has its bundle asks nobody over TLS.
        certificates: None,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        crates: sbom::agent_crates()?,
    };
    let built = build(&recipe, &to)?;
    let shown = Shown { image, digest: built.digest.to_string(), folder: to, bytes: built.bytes };
    session.out.value(&shown, || {
        let mut rows = vec![("image", shown.image.clone()), ("digest", shown.digest.clone())];
        rows.push(("folder", shown.folder.display().to_string()));
        let platforms = built.manifests.iter().map(|one| format!("{} {}", one.platform, size(one.bytes)));
        rows.push(("platforms", platforms.collect::<Vec<_>>().join(", ")));
        facts(rows)
    })?;
    Ok(())
}
