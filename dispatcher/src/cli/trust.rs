//! `muster trust`: the signed repository as any TUF client finds it.

use clap::Subcommand;
use serde_json::{Value, json};

use super::Session;
use super::client::Client;
use super::output::{print, table};

/// The most versions of a root that are walked; a client that is further behind enrols again.
const MAX_ROOTS: u64 = 1024;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show versions, expiry, keys and thresholds of the signed metadata, and of the director's root.
    Show,
    /// Print the newest root of the model repository, for `muster-agent serve --root`.
    #[command(after_help = "Example:\n  muster trust root > root.json")]
    Root,
}

pub(super) fn run(command: &Command, session: &Session) -> anyhow::Result<()> {
    let Session { client, out } = session;
    if let Command::Root = command {
        let mut version = 1u64;
        while client.exists(&format!("/tuf/metadata/{}.root.json", version + 1))? {
            version += 1;
        }
        return Ok(print(&client.text(&format!("/tuf/metadata/{version}.root.json"))?)?);
    }
    let root = newest_root(client, "/tuf/metadata")?;
    let director = newest_root(client, "/tuf/director")?;
    let timestamp = fetch(client, "/tuf/metadata/timestamp.json")?;
    let version = &timestamp["signed"]["meta"]["snapshot.json"]["version"];
    let snapshot = fetch(client, &format!("/tuf/metadata/{version}.snapshot.json"))?;
    let version = &snapshot["signed"]["meta"]["targets.json"]["version"];
    let targets = fetch(client, &format!("/tuf/metadata/{version}.targets.json"))?;
    let metadata = [
        ("root", &root, &root),
        ("targets", &targets, &root),
        ("snapshot", &snapshot, &root),
        ("timestamp", &timestamp, &root),
        ("director root", &director, &director),
    ];
    let all = json!({
        "root": root["signed"], "targets": targets["signed"], "snapshot": snapshot["signed"],
        "timestamp": timestamp["signed"], "director_root": director["signed"],
    });
    let rows = metadata.map(|(name, file, root)| row(name, file, root));
    out.value(&all, || table(["METADATA", "VERSION", "EXPIRES", "NEEDS", "KEYS", "HOLDS"], rows))?;
    Ok(())
}

/// The version, expiry and signers of one metadata file, as `root` says.
fn row(name: &str, file: &Value, root: &Value) -> [String; 6] {
    let signed = &file["signed"];
    let role = &root["signed"]["roles"][signed["_type"].as_str().unwrap_or_default()];
    let ids: Vec<&str> = role["keyids"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let keys = ids.iter().map(|id| id.get(..8).unwrap_or(id)).collect::<Vec<_>>().join(" ");
    let count = |value: &Value| value.as_object().map_or(0, serde_json::Map::len);
    let holds = match signed["_type"].as_str() {
        Some("root") => format!("{} keys", count(&signed["keys"])),
        Some("targets") => format!("{} targets", count(&signed["targets"])),
        _ => String::new(),
    };
    let expires = signed["expires"].as_str().unwrap_or_default();
    [
        name.to_owned(),
        signed["version"].to_string(),
        expires.get(..10).unwrap_or(expires).to_owned(),
        format!("{} of {}", role["threshold"], ids.len()),
        keys,
        holds,
    ]
}

/// Walks the chain of roots as clients do.
fn newest_root(client: &Client, base: &str) -> anyhow::Result<Value> {
    let mut newest = fetch(client, &format!("{base}/1.root.json"))?;
    for version in 2..MAX_ROOTS {
        let path = format!("{base}/{version}.root.json");
        if !client.exists(&path)? {
            break;
        }
        newest = fetch(client, &path)?;
    }
    Ok(newest)
}

fn fetch(client: &Client, path: &str) -> anyhow::Result<Value> {
    Ok(client.get(path)?.parse()?)
}
