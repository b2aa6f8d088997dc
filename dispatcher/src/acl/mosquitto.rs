//! The same rules for a Mosquitto in the embedded broker's place: a folder with everything that it needs.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use muster_proto::id::{DeviceId, Digest, Workspace};
use muster_proto::topic::{Direction, Leaf, Topic};

use super::service;
use crate::ca::{self, Ca};

/// One file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name in the folder.
    pub name: &'static str,
    /// What it holds.
    pub text: String,
    /// Whether it has to be kept from others.
    pub is_secret: bool,
}

/// The files of a Mosquitto that is reached under `names` and listens at `listen`, with a certificate of the workspace's
/// authority; `folder` is where they will be.
///
/// # Errors
/// Those of [`Ca::issue_server`].
pub fn files(
    ca: &Ca,
    workspace: &Workspace,
    names: &[String],
    listen: SocketAddr,
    folder: &Path,
) -> Result<Vec<File>, ca::Error> {
    let identity = ca.issue_server(names)?;
    let plain = |name, text| File { name, text, is_secret: false };
    Ok(vec![
        plain("ca.pem", ca.certificate_pem()),
        plain("broker.pem", identity.certificates_pem),
        File { name: "broker.key", text: identity.key_pem, is_secret: true },
        plain("acl", acl(workspace)),
        plain("mosquitto.conf", conf(listen, folder)),
    ])
}

/// Users are the common names of certificates, and so are client ids.
fn conf(listen: SocketAddr, folder: &Path) -> String {
    let (folder, port, address) = (folder.display(), listen.port(), listen.ip());
    format!(
        "# Devices and the dispatcher show certificates of the workspace's authority; their names are their users.\n\
         listener {port} {address}\n\
         cafile {folder}/ca.pem\n\
         certfile {folder}/broker.pem\n\
         keyfile {folder}/broker.key\n\
         require_certificate true\n\
         use_identity_as_username true\n\
         use_username_as_clientid true\n\
         allow_anonymous false\n\
         acl_file {folder}/acl\n\
         set_tcp_nodelay true\n\
         # The dispatcher bounds what it sends to each device.\n\
         max_queued_messages 0\n"
    )
}

fn acl(workspace: &Workspace) -> String {
    let all = Topic::device(workspace.clone(), placeholder(), Leaf::State).to_string();
    let prefix = all.split(placeholder().as_str()).next().unwrap_or_default();
    let mut text = format!("user {}\ntopic readwrite {prefix}#\n\n# %u is the device that asks.\n", service(workspace));
    for leaf in Leaf::ALL {
        let may = if leaf.direction() == Direction::Up { "write" } else { "read" };
        let topic = Topic::device(workspace.clone(), placeholder(), leaf).to_string();
        let _ = writeln!(text, "pattern {may} {}", topic.replace(placeholder().as_str(), "%u"));
    }
    let digest = Digest::of(b"");
    let bundle = Topic::Bundle { workspace: workspace.clone(), digest }.to_string();
    let _ = writeln!(text, "pattern read {}", bundle.replace(&digest.to_string(), "+"));
    text
}

/// Stands for the device; no workspace, prefix or leaf has such a name.
fn placeholder() -> DeviceId {
    "the-device-that-asks".parse().expect("a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invariant_14_devices_reach_their_own_topics_only() {
        assert_eq!(
            acl(&"factory".parse().expect("valid")),
            "user _dispatcher.factory\n\
             topic readwrite muster/v1/factory/#\n\n\
             # %u is the device that asks.\n\
             pattern read muster/v1/factory/%u/desired\n\
             pattern write muster/v1/factory/%u/report\n\
             pattern write muster/v1/factory/%u/telemetry\n\
             pattern write muster/v1/factory/%u/fetch\n\
             pattern read muster/v1/factory/%u/chunk\n\
             pattern read muster/v1/factory/%u/ack\n\
             pattern write muster/v1/factory/%u/state\n\
             pattern read muster/v1/factory/bundle/+\n"
        );
    }
}
