//! How a client of a cluster comes to be: a kubeconfig, one of its contexts, its exec plugin, or the pod's own account.

use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::error::Error;
use crate::domain::service::Kubernetes;

/// A cluster that does not take a connection within this is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client for `target`'s cluster. Nothing is sent yet, except that an exec plugin (kubelogin) may run.
///
/// A kubeconfig that is named is read; else `KUBECONFIG` or the home folder's; without any, and where no context is
/// asked for, the account of the pod that this runs in is used.
pub(super) async fn client(target: &Kubernetes) -> Result<Client, Error> {
    let mut config = config(target).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // Whoever asks decides whether and when to ask again; the client would hide a busy server for minutes.
    config.default_retry = false;
    Client::try_from(config).map_err(wrong)
}

async fn config(target: &Kubernetes) -> Result<Config, Error> {
    let options = KubeConfigOptions { context: target.context.clone(), ..KubeConfigOptions::default() };
    let kubeconfig = match (&target.kubeconfig, &target.context) {
        (Some(path), _) => Kubeconfig::read_from(path).map_err(wrong)?,
        (None, Some(_)) => Kubeconfig::read().map_err(wrong)?,
        (None, None) => return Config::infer().await.map_err(wrong),
    };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)
}

fn wrong(error: impl std::error::Error) -> Error {
    Error::Credentials { reason: super::api::chain(&error) }
}
