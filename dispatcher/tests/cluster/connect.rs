//! Kubeconfigs, contexts, exec plugins, and clusters that are away.

use muster_dispatcher::cluster::{Cluster, Error};
use muster_dispatcher::domain::service::Kubernetes;

use crate::apiserver::ApiServer;
use crate::support::{client, kubeconfig};

async fn version(text: &str, context: Option<&str>) -> Result<String, Error> {
    let file = kubeconfig(text);
    let target = Kubernetes {
        kubeconfig: Some(file.path().display().to_string()),
        context: context.map(str::to_owned),
        ..Kubernetes::default()
    };
    Cluster::connect(&target).await?.version().await
}

/// A kubeconfig whose user is what a plugin says.
fn with_plugin(server: &ApiServer, script: &str) -> String {
    let exec = format!(
        "    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      interactiveMode: Never\n      command: sh\n      \
         args: [\"-c\", {script:?}]\n"
    );
    server.kubeconfig().replace("    token: t0ken\n", &exec)
}

#[tokio::test]
async fn a_kubeconfig_a_context_and_a_plugin_lead_to_the_cluster() {
    let server = ApiServer::start().await;
    assert_eq!(version(&server.kubeconfig(), None).await.unwrap(), "v1.36.0-test");
    assert_eq!(version(&server.kubeconfig(), Some("test")).await.unwrap(), "v1.36.0-test");
    let credential =
        r#"echo '{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":"abc"}}'"#;
    assert_eq!(version(&with_plugin(&server, credential), None).await.unwrap(), "v1.36.0-test");
}

#[tokio::test]
async fn credentials_that_cannot_be_used_say_why() {
    let server = ApiServer::start().await;
    for (text, context, words) in [
        ("not: [yaml".to_owned(), None, "parse"),
        (server.kubeconfig(), Some("production"), "production"),
        (with_plugin(&server, "echo no login >&2; exit 3"), None, "no login"),
        (with_plugin(&server, "echo nonsense"), None, "exec"),
    ] {
        let error = version(&text, context).await.unwrap_err();
        assert_eq!(error.code(), "cluster_credentials_invalid", "{error}");
        assert!(error.to_string().contains(words), "{error} has no {words:?}");
    }
    let target = Kubernetes { kubeconfig: Some("/nowhere/config".into()), ..Kubernetes::default() };
    let error = Cluster::connect(&target).await.err().unwrap();
    assert!(error.to_string().contains("/nowhere/config"), "{error}");
}

#[tokio::test]
async fn a_cluster_that_is_away_says_so() {
    let server = ApiServer::start().await;
    let away = client(&server).await;
    let url = server.url.clone();
    drop(server);
    // The port is free again only when the listener is gone.
    while tokio::net::TcpStream::connect(url.trim_start_matches("http://")).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let error = away.version().await.unwrap_err();
    assert_eq!((error.code(), error.is_transient()), ("cluster_away", true), "{error}");
}
