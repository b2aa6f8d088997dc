//! Puts an image together: layers, configuration, manifests, index, bills of materials.

mod layers;
mod words;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::document::{
    BlobDigest, CONFIG, Descriptor, EMPTY, EMPTY_CONTENT, History, ImageConfig, Index, MANIFEST, Manifest, Process,
    REF_NAME, RootFs, SBOM,
};
use super::layout::{self, Draft, to_json};
use super::name::{self, Name};
use super::platform::{self, Platform};
use super::sbom::{self, Crate};
use super::{document, input, tarball};

use layers::Layer;

/// What an image is made of.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// The image's name with its tag, such as `hub.example/vision/digits:3`.
    pub name: String,
    /// The agent's binary for each platform.
    pub binaries: Vec<(Platform, PathBuf)>,
    /// The folder that becomes `/bundle`.
    pub bundle: PathBuf,
    /// What becomes `/etc/muster/serve.toml`.
    pub config: Vec<u8>,
    /// The model's name.
    pub model: String,
    /// The model's version.
    pub version: u32,
    /// The digest of the model's manifest, in hex.
    pub digest: String,
    /// What the model is, in words; may be empty.
    pub description: String,
    /// The model's licence, where one is known.
    pub licence: Option<String>,
    /// When the bundle was made, in seconds since 1970. No other clock is read.
    pub created: u64,
    /// Further labels; they win over those that are made here.
    pub labels: BTreeMap<String, String>,
    /// Certificates of authorities to trust, as PEM, for an agent that fetches over HTTPS.
    pub certificates: Option<Vec<u8>>,
    /// The version of the agent.
    pub agent_version: String,
    /// The crates in the agent: [`sbom::agent_crates`].
    pub crates: Vec<Crate>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The digest of the index over all platforms: the image's digest.
    pub digest: BlobDigest,
    /// The image of each platform.
    pub manifests: Vec<BuiltManifest>,
    /// The size of all blobs in bytes.
    pub bytes: u64,
}

/// The image of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltManifest {
    /// The platform.
    pub platform: Platform,
    /// The digest of its manifest.
    pub digest: BlobDigest,
    /// The size of its packed layers in bytes.
    pub bytes: u64,
}

/// Why an image was not built. Nothing is left behind, and an earlier image stays.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The image's name is none.
    #[error(transparent)]
    Name(#[from] name::Error),
    /// No binary was given.
    #[error("an image needs an agent: give a binary for linux/amd64, linux/arm64 or both")]
    NoBinary,
    /// Two binaries for the same platform.
    #[error("there are two binaries for {0}; give one")]
    TwoBinaries(Platform),
    /// A binary that would not start in the image.
    #[error(
        "{} cannot be the program of an image for {platform}: {fault}; give a static one, built for {}",
        .path.display(), .platform.target()
    )]
    Binary {
        /// The file.
        path: PathBuf,
        /// What it should be for.
        platform: Platform,
        /// What is wrong with it.
        fault: platform::Fault,
    },
    /// The time of making is beyond the calendar.
    #[error("the bundle's time of making, {0} seconds since 1970, is no date")]
    Created(u64),
    /// The bundle is none.
    #[error(transparent)]
    Bundle(#[from] input::Error),
    /// A file could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file did not get into a layer.
    #[error("cannot add {} to the image", .path.display())]
    Add {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: tarball::Error,
    },
    /// A layer could not be written; the disk may be full.
    #[error("cannot write a layer of the image")]
    Layer(#[source] io::Error),
    /// The layout could not be written.
    #[error(transparent)]
    Layout(#[from] layout::Error),
}

/// The user and group of the process.
const USER: &str = "65532:65532";

/// Writes the image of `recipe` as an OCI image layout to the folder `out`, which is replaced if it is one already.
pub fn build(recipe: &Recipe, out: &Path) -> Result<Built, Error> {
    let name: Name = recipe.name.parse()?;
    let binaries = check_binaries(recipe)?;
    let created = words::date(recipe.created).ok_or(Error::Created(recipe.created))?;
    let entries = input::entries(&recipe.bundle)?;
    let labels = words::labels(recipe, &created);

    let draft = Draft::begin(out)?;
    let base = layers::base(&draft, recipe)?;
    let (bundle, files) = layers::bundle(&draft, recipe, &entries)?;
    let empty = draft.add(EMPTY, EMPTY_CONTENT)?;
    let mut manifests = Vec::new();
    let mut bills = Vec::new();
    let mut built = Vec::new();
    for (platform, path) in binaries {
        let (agent, agent_digest) = layers::agent(&draft, &path)?;
        let bill = sbom::render(&sbom::Contents {
            platform,
            agent_version: &recipe.agent_version,
            agent_digest: &agent_digest,
            crates: &recipe.crates,
            model: &recipe.model,
            version: recipe.version,
            digest: &recipe.digest,
            licence: recipe.licence.as_deref(),
            files: &files,
            created: &created,
        });
        let rest = layers::rest(&draft, recipe, &bill)?;
        let layers = [base.clone(), agent, bundle.clone(), rest];
        let manifest = image(&draft, platform, &layers, &created, &labels, recipe)?;
        built.push(BuiltManifest {
            platform,
            digest: manifest.digest.clone(),
            bytes: layers.iter().map(|l| l.descriptor.size).sum(),
        });
        bills.push(attach(&draft, &empty, &bill, &manifest, &created)?);
        manifests.push(Descriptor { platform: Some(platform.into()), ..manifest });
    }
    let index = to_json(&Index::new(manifests, labels));
    let mut named = draft.add(document::INDEX, &index)?;
    let digest = named.digest.clone();
    named.annotations = BTreeMap::from([
        (REF_NAME.to_owned(), name.tag().to_owned()),
        (document::CONTAINERD_NAME.to_owned(), name.full()),
    ]);
    let listed = std::iter::once(named).chain(bills).collect();
    let layout = draft.finish(&Index::new(listed, BTreeMap::new()))?;
    let documents = layout.documents()?;
    let blobs = layout::blobs(&documents);
    let bytes = documents.iter().map(|d| &d.descriptor).chain(&blobs).map(|d| d.size).sum();
    Ok(Built { digest, manifests: built, bytes })
}

fn check_binaries(recipe: &Recipe) -> Result<BTreeMap<Platform, PathBuf>, Error> {
    let mut sorted = BTreeMap::new();
    for (platform, path) in &recipe.binaries {
        let read = |source| Error::Read { path: path.clone(), source };
        let mut file = File::open(path).map_err(read)?;
        platform::check(*platform, &mut file).map_err(read)?.map_err(|fault| Error::Binary {
            path: path.clone(),
            platform: *platform,
            fault,
        })?;
        if sorted.insert(*platform, path.clone()).is_some() {
            return Err(Error::TwoBinaries(*platform));
        }
    }
    if sorted.is_empty() { Err(Error::NoBinary) } else { Ok(sorted) }
}

fn image(
    draft: &Draft,
    platform: Platform,
    layers: &[Layer],
    created: &str,
    labels: &BTreeMap<String, String>,
    recipe: &Recipe,
) -> Result<Descriptor, Error> {
    let history = |layer: &Layer| History {
        created: created.to_owned(),
        created_by: format!("muster {}", recipe.agent_version),
        comment: layer.comment.to_owned(),
    };
    let config = ImageConfig {
        created: created.to_owned(),
        platform: platform.into(),
        config: Process {
            user: USER.to_owned(),
            exposed_ports: BTreeMap::from([("8080/tcp".to_owned(), BTreeMap::new())]),
            env: vec!["PATH=/usr/bin".to_owned()],
            entrypoint: vec!["/usr/bin/muster-agent".to_owned()],
            cmd: ["serve", "--file", "/etc/muster/serve.toml"].map(str::to_owned).to_vec(),
            working_dir: "/".to_owned(),
            labels: labels.clone(),
            stop_signal: "SIGTERM".to_owned(),
        },
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: layers.iter().map(|l| l.unpacked.clone()).collect() },
        history: layers.iter().map(history).collect(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        artifact_type: None,
        config: draft.add(CONFIG, &to_json(&config))?,
        layers: layers.iter().map(|l| l.descriptor.clone()).collect(),
        subject: None,
        annotations: labels.clone(),
    };
    Ok(draft.add(MANIFEST, &to_json(&manifest))?)
}

/// Adds the bill of materials as an artifact that refers to `image`.
fn attach(
    draft: &Draft,
    empty: &Descriptor,
    bill: &[u8],
    image: &Descriptor,
    created: &str,
) -> Result<Descriptor, Error> {
    let annotations = BTreeMap::from([(document::CREATED.to_owned(), created.to_owned())]);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        artifact_type: Some(SBOM.to_owned()),
        config: empty.clone(),
        layers: vec![draft.add(SBOM, bill)?],
        subject: Some(image.clone()),
        annotations: annotations.clone(),
    };
    let descriptor = draft.add(MANIFEST, &to_json(&manifest))?;
    Ok(Descriptor { artifact_type: Some(SBOM.to_owned()), annotations, ..descriptor })
}
