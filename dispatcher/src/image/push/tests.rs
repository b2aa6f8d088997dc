use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::image::build::build;
use crate::image::document::Manifest;
use crate::image::testing::recipe;

mod registry;

use registry::{Door, Habits, Registry};

struct Bench {
    _folder: tempfile::TempDir,
    layout: Layout,
    digest: String,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("image");
    let built = build(&recipe(folder.path()), &place).expect("built");
    Bench { layout: Layout::open(&place).expect("a layout"), digest: built.digest.to_string(), _folder: folder }
}

fn user() -> Auth {
    Auth::Basic { username: "user".to_owned(), password: "secret".to_owned() }
}

async fn send(bench: &Bench, host: &str, auth: &Auth) -> Result<Pushed, Error> {
    let name = format!("{host}/vision/digits:4").parse().expect("a name");
    let connection = Connection { pause: Duration::ZERO, ..Connection::default() };
    push(&bench.layout, &name, auth, &connection, &mut |_| {}).await
}

#[tokio::test]
async fn a_second_push_sends_nothing() {
    let (bench, registry) = (bench(), Registry::start(Habits::default()).await);
    let first = send(&bench, &registry.host, &Auth::Anonymous).await.expect("pushed");
    let second = send(&bench, &registry.host, &Auth::Anonymous).await.expect("pushed");
    assert_eq!(first.digest.to_string(), bench.digest);
    assert_eq!(first.reference, format!("{}/vision/digits@{}", registry.host, bench.digest));
    assert_eq!((first.present, second.sent, second.sent_bytes), (0, 0, 0));
    assert_eq!(first.sent, second.present);
    let kept = registry.kept.lock().expect("whole");
    assert_eq!(kept.uploads, first.sent);
    assert_eq!(BlobDigest::of(&kept.manifests["4"].1).to_string(), bench.digest);
    assert_eq!(kept.order.last().map(String::as_str), Some("4"), "the tag moves last");
}

#[tokio::test]
async fn each_door_is_passed_with_the_right_login_and_no_other() {
    let bench = bench();
    let wrong = Auth::Basic { username: "user".to_owned(), password: "old".to_owned() };
    for (door, anonymous) in [(Door::Basic, "asks for a login"), (Door::Token, "asks for a login")] {
        let registry = Registry::start(Habits { door, ..Habits::default() }).await;
        for (auth, words) in [(&Auth::Anonymous, anonymous), (&wrong, "does not accept the login")] {
            let error = send(&bench, &registry.host, auth).await.expect_err("refused").to_string();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        }
        assert_eq!(registry.kept.lock().expect("whole").uploads, 0);
        send(&bench, &registry.host, &user()).await.expect("pushed");
        let scopes = registry.kept.lock().expect("whole").scopes.join(" ");
        assert_eq!(scopes.contains("push"), door == Door::Token, "{scopes}");
    }
    let registry = Registry::start(Habits { door: Door::Token, ..Habits::default() }).await;
    send(&bench, &registry.host, &Auth::Bearer("pass.port".to_owned())).await.expect("pushed");
}

#[tokio::test]
async fn a_registry_that_lists_no_referrers_gets_a_list_by_tag() {
    let bench = bench();
    for referrers in [true, false] {
        let registry = Registry::start(Habits { referrers, ..Habits::default() }).await;
        send(&bench, &registry.host, &Auth::Anonymous).await.expect("pushed");
        send(&bench, &registry.host, &Auth::Anonymous).await.expect("pushed again");
        let kept = registry.kept.lock().expect("whole");
        let lists: Vec<&String> = kept.manifests.keys().filter(|k| k.starts_with("sha256-")).collect();
        assert_eq!(lists.len(), if referrers { 0 } else { 2 }, "{lists:?}");
        for tag in lists {
            let list: Index = serde_json::from_slice(&kept.manifests[tag].1).expect("an index");
            let [entry] = list.manifests.as_slice() else { panic!("{list:?}") };
            assert_eq!(entry.artifact_type.as_deref(), Some("application/vnd.cyclonedx+json"));
            let bill: Manifest =
                serde_json::from_slice(&kept.manifests[&entry.digest.to_string()].1).expect("a manifest");
            assert_eq!(bill.subject.expect("a subject").digest.to_string().replace(':', "-"), *tag);
        }
    }
}

#[tokio::test]
async fn a_registry_that_does_not_say_where_a_manifest_is_works_too() {
    let (bench, habits) = (bench(), Habits { location: false, ..Habits::default() });
    let registry = Registry::start(habits).await;
    send(&bench, &registry.host, &Auth::Anonymous).await.expect("pushed");
}

#[tokio::test]
async fn what_passes_is_tried_again_and_what_does_not_is_said() {
    let bench = bench();
    let table: &[(&[u16], Result<(), &str>)] = &[
        (&[503, 500], Ok(())),
        (&[429], Ok(())),
        (&[503, 503, 503], Err("is not well: it answered 503")),
        (&[403], Err("does not allow this login to push to vision/digits")),
        (&[404], Err("has no place vision/digits")),
        (&[413], Err("takes no blob of this size")),
        (&[418], Err("answered 418")),
    ];
    for (faults, wanted) in table {
        let registry = Registry::start(Habits { faults: faults.to_vec(), ..Habits::default() }).await;
        match (send(&bench, &registry.host, &Auth::Anonymous).await, wanted) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(words)) if error.to_string().contains(words) => {}
            (got, _) => panic!("{faults:?} gave {got:?} instead of {wanted:?}"),
        }
    }
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_said_in_words() {
    let bench = bench();
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let gone = free.local_addr().expect("an address").to_string();
    drop(free);
    let error = send(&bench, &gone, &Auth::Anonymous).await.expect_err("away").to_string();
    assert!(error.contains("no registry answers"), "{error}");
    let name: Name = "vision/digits:3".parse().expect("a name");
    let error = push(&bench.layout, &name, &Auth::Anonymous, &Connection::default(), &mut |_| {}).await;
    assert!(error.expect_err("no registry").to_string().contains("names no registry"));
}

#[tokio::test]
async fn http_needs_to_be_asked_for() {
    let (bench, registry) = (bench(), Registry::start(Habits::default()).await);
    let name = format!("{}/vision/digits:4", registry.host).parse().expect("a name");
    // Certificates are given, so TLS is meant even on loopback.
    let pem = any_authority();
    let connection = Connection { certificates: Some(pem), pause: Duration::ZERO, ..Connection::default() };
    let error = push(&bench.layout, &name, &Auth::Anonymous, &connection, &mut |_| {}).await.expect_err("no TLS");
    assert!(error.to_string().contains("say --insecure-http"), "{error}");
    let connection = Connection { insecure_http: true, ..connection };
    push(&bench.layout, &name, &Auth::Anonymous, &connection, &mut |_| {}).await.expect("pushed");
    assert!(is_loopback("localhost:5000") && is_loopback("127.8.0.1") && !is_loopback("10.0.0.1:5000"));
    assert!(!is_loopback("localhost.example"));
}

#[test]
fn the_proxy_is_the_environments() {
    let set = |key: &str| match key {
        "https_proxy" => Some("http://proxy.example:3128".to_owned()),
        "NO_PROXY" => Some("hub.example".to_owned()),
        _ => None,
    };
    let connection = Connection::from_environment(set);
    assert_eq!(connection.https_proxy.as_deref(), Some("http://proxy.example:3128"));
    assert_eq!(connection.no_proxy.as_deref(), Some("hub.example"));
}

/// Any authority of this machine.
fn any_authority() -> Vec<u8> {
    let found = rustls_native_certs::load_native_certs().certs;
    let der = found.first().expect("an authority");
    let text = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n").into_bytes()
}

#[tokio::test]
async fn a_token_that_fits_no_header_is_refused_and_does_not_panic() {
    let bench = bench();
    let registry = Registry::start(Habits { door: Door::Token, token: "a\nb".to_owned(), ..Habits::default() }).await;
    for auth in [user(), Auth::Bearer("a\nb".to_owned())] {
        let error = send(&bench, &registry.host, &auth).await.expect_err("refused").to_string();
        assert!(error.contains("no token has"), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_layout_is_not_pushed() {
    let (bench, registry) = (bench(), Registry::start(Habits::default()).await);
    let index = bench.layout.image().expect("read").expect("named");
    let path: &Path = &bench.layout.blob(&index.digest);
    std::fs::write(path, b"{}").expect("written");
    let error = send(&bench, &registry.host, &Auth::Anonymous).await.expect_err("damaged").to_string();
    assert!(error.contains("is damaged"), "{error}");
    assert_eq!(registry.kept.lock().expect("whole").uploads, 0);
}
