//! Which dispatcher a command talks to: flags, variables, a context file, in that order.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::output::Output;
use super::{Failure, Global};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a context file the default one, e.g. the admin.toml that `muster serve` wrote.
    #[command(after_help = "Example:\n  muster context use muster-data/admin.toml")]
    Use {
        /// The file to copy into place.
        file: PathBuf,
    },
    /// Show where commands would go, without the token.
    Show,
}

/// A context file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The dispatcher's address.
    pub url: String,
    /// The API token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The certificate of the authority that signed the dispatcher's, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
}

impl Context {
    /// What flags, variables and the context file amount to.
    pub(super) fn resolve(global: &Global) -> anyhow::Result<Self> {
        let file = match (&global.context, default_path()) {
            (Some(path), _) => Some(Self::load(path)?),
            (None, Some(path)) if path.exists() => Some(Self::load(&path)?),
            _ => None,
        };
        let mut context = combine(file, global.url.as_deref()).ok_or_else(|| nothing_named(Path::new(".")))?;
        if let Some(token) = &global.token {
            context.token = Some(token.clone());
        }
        if let Some(path) = &global.ca {
            let pem = fs::read_to_string(path).map_err(|e| {
                Failure::config(
                    format!("cannot read the authority {}: {e}", path.display()),
                    "name its PEM file by --ca",
                )
            })?;
            context.ca_pem = Some(pem);
        }
        Ok(context)
    }

    fn load(path: &Path) -> anyhow::Result<Self> {
        let next = "write it anew with `muster context use FILE`, or name another by --context (MUSTER_CONTEXT)";
        let text = fs::read_to_string(path)
            .map_err(|e| Failure::config(format!("cannot read the context {}: {e}", path.display()), next))?;
        let context: Self = toml::from_str(&text)
            .map_err(|e| Failure::config(format!("{} is no context: {}", path.display(), e.message()), next))?;
        Ok(context)
    }

    /// Writes the context to `path`, readable by its owner only.
    pub(crate) fn store(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // tempfile makes it 0600; the rename keeps that, and leaves either the old or the new one.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }
}

/// A token goes only where it belongs: with another URL than the file's, the file counts for nothing.
fn combine(file: Option<Context>, url: Option<&str>) -> Option<Context> {
    let same = |a: &str, b: &str| a.trim_end_matches('/') == b.trim_end_matches('/');
    match (file, url) {
        (Some(context), Some(url)) if same(&context.url, url) => Some(context),
        (_, Some(url)) => Some(Context { url: url.to_owned(), ..Context::default() }),
        (file, None) => file,
    }
}

fn nothing_named(folder: &Path) -> Failure {
    let next = match folder.join("muster-data/admin.toml") {
        path if path.exists() => "run `muster context use muster-data/admin.toml`: `muster serve` wrote that file here",
        _ => {
            "run `muster context use FILE` with the admin.toml from the data folder of `muster serve`, or set --url, \
             --token and --ca (MUSTER_URL, MUSTER_TOKEN, MUSTER_CA)"
        }
    };
    Failure::config("no dispatcher is named", next)
}

/// `$XDG_CONFIG_HOME/muster/context.toml`, or under `~/.config`.
fn default_path() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
    Some(base.join("muster/context.toml"))
}

pub(super) fn run(command: &Command, global: &Global) -> anyhow::Result<()> {
    let out = global.out();
    match command {
        Command::Use { file } => {
            let context = Context::load(file)?;
            let path = global.context.clone().or_else(default_path);
            let path = path.ok_or_else(|| {
                Failure::config(
                    "there is no home folder to keep the context in",
                    "set XDG_CONFIG_HOME, or name a file by --context",
                )
            })?;
            context.store(&path).map_err(|e| {
                Failure::config(format!("cannot write {}: {e}", path.display()), "name another file by --context")
            })?;
            out.note(&format!("Commands go to {} now ({}).", context.url, path.display()));
            Ok(())
        }
        Command::Show => Ok(show(&Context::resolve(global)?, &out)?),
    }
}

fn show(context: &Context, out: &Output) -> io::Result<()> {
    let token = if context.token.is_some() { "set" } else { "none" };
    let ca = if context.ca_pem.is_some() { "its own" } else { "the system's" };
    out.value(&serde_json::json!({ "url": context.url, "token": token, "ca": ca }), || {
        format!("url    {}\ntoken  {token}\nca     {ca}", context.url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Context {
        Context { url: "https://hub:8420".into(), token: Some("t".into()), ca_pem: Some("pem".into()) }
    }

    #[test]
    fn a_token_goes_only_to_the_dispatcher_that_it_is_for() {
        assert_eq!(combine(Some(file()), None), Some(file()));
        assert_eq!(combine(Some(file()), Some("https://hub:8420/")), Some(file()));
        let other = combine(Some(file()), Some("https://other:8420")).expect("a context");
        assert_eq!((other.token, other.ca_pem), (None, None));
        assert_eq!(combine(None, None), None);
    }

    #[test]
    fn a_context_survives_its_file_which_only_the_owner_reads() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("deep/context.toml");
        file().store(&path).expect("stored");
        assert_eq!(Context::load(&path).expect("loads"), file());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        }
        fs::write(&path, "url = 'x'\ntokn = 'y'").expect("written");
        let error = Context::load(&path).expect_err("refused").to_string();
        assert!(error.contains("unknown field `tokn`"), "{error}");
    }

    #[test]
    fn without_a_context_the_next_step_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let failure = nothing_named(dir.path());
        assert_eq!(failure.exit(), super::super::EXIT_CONFIG);
        fs::create_dir(dir.path().join("muster-data")).expect("made");
        fs::write(dir.path().join("muster-data/admin.toml"), "").expect("written");
        assert!(format!("{:?}", nothing_named(dir.path())).contains("muster context use muster-data/admin.toml"));
    }
}
