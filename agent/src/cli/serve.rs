//! `muster-agent serve`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use muster_proto::code::Code;
use muster_proto::id::SlotName;

use super::{EXIT_CONFIG, EXIT_USAGE, start_log, stop_signal};
use crate::serve::bundle::MANIFEST;
use crate::serve::config::{DEFAULT_PATH, Model, Service};
use crate::serve::{self, Document};

/// How often the admin socket's folder is looked for.
const LOOK: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folders with bundles, as `muster model download` writes them; each answers under its model's name, or as
    /// NAME=FOLDER says.
    #[arg(value_name = "[NAME=]FOLDER")]
    bundles: Vec<String>,
    /// The document with services, keys and limits, instead of folders.
    #[arg(long, value_name = "FILE", conflicts_with = "bundles", env = "MUSTER_SERVE_FILE")]
    file: Option<PathBuf>,
    /// Where REST and gRPC listen; goes before the document's `listen`.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Where health, metrics and changes are asked for; goes before the document's `admin`.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// The trust root, from `muster trust root`. Without it the folders' own is taken.
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// Log as JSON lines.
    #[arg(long)]
    log_json: bool,
}

pub const EXAMPLES: &str = "\
Examples:
  muster model download digits:1 --to digits-1
  muster-agent serve digits-1
  curl -s localhost:8080/score/digits
  muster-agent serve --file /etc/muster/serve.toml

The server reads its document again on SIGHUP. See agent/README.md for the document's keys.";

pub fn run(args: &Args) -> ExitCode {
    start_log(args.log_json);
    let document = match document(args) {
        Ok(document) => document,
        Err((exit, error)) => {
            eprintln!("error: {error}");
            return exit.into();
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(serve_until_told(args, document))
}

async fn serve_until_told(args: &Args, mut document: Document) -> ExitCode {
    let scoring = match serve::start(&document).await {
        Ok(scoring) => scoring,
        Err(error) => {
            let code = error.code();
            eprintln!("error: {error} [{code}]");
            eprintln!("next:  {}", code.next_step());
            let config = matches!(code, Code::ConfigInvalid);
            return if config { EXIT_CONFIG.into() } else { ExitCode::FAILURE };
        }
    };
    if let Some(address) = scoring.address {
        tracing::info!(%address, services = document.services.len(), "listening");
    }
    if document.trust_root.is_none() {
        tracing::warn!("no trust root was named: each bundle is checked against its own, which whoever made it wrote");
    }
    if let Some(open) = document.services.iter().find(|service| service.keys.are_none() && service.keys_file.is_none())
        && !document.listen.ip().is_loopback()
    {
        tracing::warn!(service = %open.name, "everyone who reaches this address may use the service: it has no keys");
    }
    let mut hangups = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok();
    let hung_up = async |hangups: &mut Option<tokio::signal::unix::Signal>| match hangups {
        Some(hangups) => drop(hangups.recv().await),
        None => std::future::pending().await,
    };
    let desk = std::sync::Arc::clone(&scoring.desk);
    let folder = document.admin_socket.as_deref().and_then(Path::parent).map(Path::to_owned);
    let asked = async {
        tokio::select! {
            () = stop_signal() => {}
            () = desk.stop.notified() => {}
            () = deserted(folder) => {}
        }
    };
    let mut stopped = std::pin::pin!(asked);
    // Whoever says stop while models load is heard.
    let mut next = Some(document.clone());
    loop {
        if let Some(document) = next.take() {
            tokio::select! {
                applied = scoring.desk.apply(&document) => if let Err(error) = applied {
                    tracing::error!(%error, "the document is not served");
                },
                () = &mut stopped => break,
            }
        }
        let now = next_keys(&document);
        tokio::select! {
            () = keys_changed(&document, &now) => next = Some(document.clone()),
            () = hung_up(&mut hangups) => match self::document(args) {
                Ok(read) => {
                    document = read;
                    next = Some(document.clone());
                }
                Err((_, error)) => tracing::error!(error, "the document is not read again"),
            },
            () = &mut stopped => break,
        }
    }
    tracing::info!("draining");
    scoring.stop().await;
    ExitCode::SUCCESS
}

/// Ends where the folder of the admin socket has gone: then nobody can end the process otherwise, or find it.
async fn deserted(folder: Option<PathBuf>) {
    let Some(folder) = folder else { return std::future::pending().await };
    loop {
        tokio::time::sleep(LOOK).await;
        if !folder.exists() {
            tracing::warn!(folder = %folder.display(), "the folder of the admin socket has gone");
            return;
        }
    }
}

/// What the files with keys hold now.
fn next_keys(document: &Document) -> Vec<Option<Vec<u8>>> {
    let files = document.services.iter().filter_map(|service| service.keys_file.as_ref());
    files.map(|file| std::fs::read(file).ok()).collect()
}

/// Ends once a file with keys is another one than `before`. Kubernetes changes a mounted secret without a word.
async fn keys_changed(document: &Document, before: &[Option<Vec<u8>>]) {
    if before.is_empty() {
        return std::future::pending().await;
    }
    while next_keys(document) == before {
        tokio::time::sleep(LOOK).await;
    }
}

fn document(args: &Args) -> Result<Document, (u8, String)> {
    let config = |error: serve::config::Error| (EXIT_CONFIG, format!("{error} [{}]", Code::ConfigInvalid));
    let default = PathBuf::from(DEFAULT_PATH);
    let file = args.file.clone().or_else(|| (args.bundles.is_empty() && default.exists()).then_some(default));
    let mut document = match file {
        Some(path) => Document::load(&path).map_err(config)?,
        None if args.bundles.is_empty() => {
            let text = "name a folder with a bundle, or a document by --file; `muster-agent serve --help` has examples";
            return Err((EXIT_USAGE, text.into()));
        }
        None => Document::default(),
    };
    for text in &args.bundles {
        document.services.push(service(text).map_err(|error| (EXIT_USAGE, error))?);
    }
    if let Some(listen) = args.listen {
        document.listen = listen;
    }
    document.admin = args.admin.or(document.admin);
    document.trust_root = args.root.clone().or(document.trust_root);
    document.check().map_err(config)?;
    Ok(document)
}

/// `[NAME=]FOLDER`; the name is else that of the model.
fn service(text: &str) -> Result<Service, String> {
    let (name, folder) = match text.split_once('=') {
        Some((name, folder)) => (Some(name), folder),
        None => (None, text),
    };
    let folder = PathBuf::from(folder);
    let name: SlotName = match name {
        Some(name) => name.parse().map_err(|error| format!("{error}"))?,
        None => {
            let path = folder.join(MANIFEST);
            let bytes = std::fs::read(&path)
                .map_err(|error| format!("{} is no bundle's folder: {}: {error}", folder.display(), path.display()))?;
            // Only its name is taken from it here; it is verified before it is served.
            let manifest = muster_proto::manifest::BundleManifest::parse(&bytes).map_err(|error| error.to_string())?;
            manifest.model.default_slot()
        }
    };
    let model = Model { bundle: Some(folder), ..Model::default() };
    Ok(Service { name, models: vec![model], keys: Default::default(), keys_file: None, settings: Default::default() })
}
