//! A TUF client over `proto::trust`, with the command line of the public conformance tests. It owns
//! files and HTTP; what is trusted is decided in `proto::trust` alone.
//!
//! Environment: `SSL_CERT_FILE` names the authorities for https, `MUSTER_TOKEN` is sent as bearer token.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use muster_dispatcher::signer::Signer;
use muster_proto::id::Digest;
use muster_proto::trust::{
    MAX_ROOT, MAX_SNAPSHOT, MAX_TARGETS, MAX_TIMESTAMP, MetaFile, Repository, Role, Stored, TargetFile,
};
use ureq::tls::{PemItem, RootCerts, TlsConfig};

/// How many roots one refresh walks; python-tuf has the same number.
const MAX_ROOT_ROTATIONS: usize = 256;

#[derive(Parser)]
struct Cli {
    /// Where trusted metadata are kept, as root.json, timestamp.json, snapshot.json and targets.json.
    #[arg(long)]
    metadata_dir: PathBuf,
    /// Where the repository's metadata are.
    #[arg(long)]
    metadata_url: Option<String>,
    /// The path of a target to download; may be repeated.
    #[arg(long)]
    target_name: Vec<String>,
    /// Where the repository's targets are.
    #[arg(long)]
    target_base_url: Option<String>,
    /// Where downloaded targets go, under their percent-encoded path.
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Trust a root from now on.
    Init {
        /// The root's file.
        root: PathBuf,
    },
    /// Bring the metadata up to date.
    Refresh,
    /// Refresh, then download the targets; the first failure ends it.
    Download,
    /// Publish files with the dispatcher's signer, so that other clients can be tried on its repository. The folder of
    /// --metadata-dir gets keys/, metadata/ and targets/.
    #[command(hide = true)]
    Publish {
        /// Target paths and files, as PATH=FILE.
        files: Vec<String>,
    },
}

fn main() -> ExitCode {
    // The conformance tests know exit codes 0 and 1 only.
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tuf-client: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let dir = &cli.metadata_dir;
    match &cli.command {
        Command::Init { root } => {
            let bytes = fs::read(root).with_context(|| format!("cannot read {}", root.display()))?;
            Repository::new(&bytes)?;
            store(&dir.join("root.json"), &bytes)
        }
        Command::Refresh => refresh(dir, &metadata(cli)?).map(drop),
        Command::Download => {
            let repository = refresh(dir, &metadata(cli)?)?;
            let base = cli.target_base_url.as_deref().context("download needs --target-base-url")?;
            let target_dir = cli.target_dir.as_deref().context("download needs --target-dir")?;
            let mirror = Mirror::new(base)?;
            cli.target_name.iter().try_for_each(|name| download(&repository, &mirror, target_dir, name))
        }
        Command::Publish { files } => publish(dir, files),
    }
}

fn metadata(cli: &Cli) -> Result<Mirror> {
    Mirror::new(cli.metadata_url.as_deref().context("refresh and download need --metadata-url")?)
}

/// The client workflow: every new root, the timestamp, and then what it leads to.
fn refresh(dir: &Path, mirror: &Mirror) -> Result<Repository> {
    let mut repository = load(dir)?;
    let now = Some(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());

    for _ in 0..MAX_ROOT_ROTATIONS {
        let name = format!("{}.root.json", repository.root_version() + 1);
        let Some(bytes) = mirror.fetch(&name, MAX_ROOT as u64)? else { break };
        repository.update_root(&bytes)?;
        save(dir, &repository)?;
    }
    // Before anything else is asked for: an expired root may no longer say who signs the timestamp.
    repository.check_expiry(Role::Root, now)?;

    repository.update_timestamp(&mirror.get("timestamp.json", MAX_TIMESTAMP as u64)?, now)?;
    save(dir, &repository)?;

    let consistent = repository.consistent_snapshot();
    let fetch = |role: Role, named: Option<MetaFile>, limit: usize| {
        let named = named.with_context(|| format!("nothing names the {role}"))?;
        let name = if consistent { format!("{}.{role}.json", named.version) } else { format!("{role}.json") };
        mirror.get(&name, named.length.unwrap_or(limit as u64).min(limit as u64))
    };
    if repository.targets_version().is_none() || repository.check_expiry(Role::Snapshot, now).is_err() {
        let bytes = fetch(Role::Snapshot, repository.snapshot_version().cloned(), MAX_SNAPSHOT)?;
        repository.update_snapshot(&bytes, now)?;
        save(dir, &repository)?;
    }
    if repository.missing().is_some() || repository.check_expiry(Role::Targets, now).is_err() {
        let bytes = fetch(Role::Targets, repository.targets_version().cloned(), MAX_TARGETS)?;
        repository.update_targets(&bytes, now)?;
        save(dir, &repository)?;
    }
    Ok(repository)
}

fn load(dir: &Path) -> Result<Repository> {
    let path = dir.join("root.json");
    let root = fs::read(&path).with_context(|| format!("cannot read {}: run init first", path.display()))?;
    let [timestamp, snapshot, targets] =
        [Role::Timestamp, Role::Snapshot, Role::Targets].map(|role| fs::read(dir.join(format!("{role}.json"))).ok());
    let stored = Stored { timestamp: timestamp.as_deref(), snapshot: snapshot.as_deref(), targets: targets.as_deref() };
    let (repository, refused) = Repository::restore(&root, stored)?;
    for (role, error) in refused {
        eprintln!("tuf-client: stored {role} is not used: {error}");
    }
    Ok(repository)
}

fn save(dir: &Path, repository: &Repository) -> Result<()> {
    for role in [Role::Root, Role::Timestamp, Role::Snapshot, Role::Targets] {
        let path = dir.join(format!("{role}.json"));
        match repository.bytes(role) {
            Some(bytes) if fs::read(&path).is_ok_and(|held| held == bytes) => {}
            Some(bytes) => store(&path, bytes)?,
            None if path.exists() => fs::remove_file(&path)?,
            None => {}
        }
    }
    Ok(())
}

fn download(repository: &Repository, mirror: &Mirror, dir: &Path, name: &str) -> Result<()> {
    let file: &TargetFile = repository.target_file(name).with_context(|| format!("target {name} is not found"))?;
    // The whole path as one file name, so that no target can leave the folder.
    let path = dir.join(percent_encode(name, b"-_.~"));
    if fs::read(&path).is_ok_and(|held| file.accepts(&held)) {
        return Ok(());
    }
    let known = ["sha256", "sha512"].iter().find_map(|name| file.hashes.0.get(*name));
    let remote = match (repository.consistent_snapshot(), known) {
        (false, _) => name.to_owned(),
        (true, None) => bail!("target {name} has no digest of a known kind"),
        (true, Some(digest)) => hash_prefixed(name, digest),
    };
    let bytes = mirror.get(&remote, file.length)?;
    ensure!(file.accepts(&bytes), "target {name} has another length or digest than the signed one");
    store(&path, &bytes)
}

fn publish(dir: &Path, files: &[String]) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut signer = Signer::load_or_create(dir, "acme".parse()?, now)?;
    for file in files {
        let (path, source) = file.split_once('=').context("use PATH=FILE")?;
        let bytes = fs::read(source).with_context(|| format!("cannot read {source}"))?;
        let digest = Digest::of(&bytes);
        signer.add_target(path, bytes.len() as u64, digest, None, now)?;
        let copy = dir.join("targets").join(hash_prefixed(path, &digest.to_string()));
        fs::create_dir_all(copy.parent().unwrap_or(dir))?;
        store(&copy, &bytes)?;
    }
    Ok(())
}

/// Where a target is under consistent snapshots: the digest before its last part.
fn hash_prefixed(path: &str, digest: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, last)) => format!("{folder}/{digest}.{last}"),
        None => format!("{digest}.{path}"),
    }
}

fn store(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    fs::write(&part, bytes).with_context(failed)?;
    fs::rename(&part, path).with_context(failed)
}

/// A folder on an HTTP server.
struct Mirror {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

impl Mirror {
    fn new(url: &str) -> Result<Self> {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .timeout_recv_body(Some(Duration::from_secs(300)));
        if url.starts_with("https:") {
            config = config.tls_config(tls()?);
        }
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self { agent: config.build().into(), base, token: env::var("MUSTER_TOKEN").ok() })
    }

    /// The file `name` of at most `limit` bytes; none where the server has none.
    fn fetch(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let url = format!("{}/{}", self.base, percent_encode(name, b"-_.~/!$&'()*+,;=:@"));
        let mut request = self.agent.get(&url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut response = request.call().with_context(|| format!("cannot fetch {url}"))?;
        match response.status().as_u16() {
            200 => {}
            403 | 404 => return Ok(None),
            other => bail!("{url} answered with status {other}"),
        }
        match response.body_mut().with_config().limit(limit.saturating_add(1)).read_to_vec() {
            Ok(body) if body.len() as u64 <= limit => Ok(Some(body)),
            Ok(_) | Err(ureq::Error::BodyExceedsLimit(_)) => bail!("{url} is longer than {limit} bytes"),
            Err(error) => Err(error).with_context(|| format!("cannot fetch {url}")),
        }
    }

    fn get(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.fetch(name, limit)?.with_context(|| format!("{}/{name} does not exist", self.base))
    }
}

fn tls() -> Result<TlsConfig> {
    let path = env::var_os("SSL_CERT_FILE").context("https needs SSL_CERT_FILE to name the authorities")?;
    let pem = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut authorities = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item? {
            authorities.push(certificate);
        }
    }
    // A second call finds the provider already there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&authorities)).build())
}

/// Percent-encodes every byte but letters, digits and those of `keep` (RFC 3986 section 2.1).
fn percent_encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || keep.contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
