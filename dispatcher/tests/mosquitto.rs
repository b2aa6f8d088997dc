//! With a real Mosquitto in the embedded broker's place. Says so and passes where none is installed.

// Each test file uses its part of it.
#[allow(dead_code)]
mod common;

use std::convert::Infallible;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use common::{Device, PATIENCE, enroll};
use futures_util::stream;
use muster_dispatcher::acl::mosquitto;
use muster_dispatcher::app::plan::{Plan, Preset, Target};
use muster_dispatcher::app::{App, Principal, Registered, Registration, RolloutDocument, RolloutStatus};
use muster_dispatcher::ca::Ca;
use muster_dispatcher::serve::{self, BrokerChoice, Config};
use muster_proto::id::Digest;
use muster_proto::report::Phase;

struct Mosquitto {
    child: Child,
}

impl Mosquitto {
    /// Starts it on `port` with the files in `dir`, and waits until it listens.
    async fn start(dir: &Path, port: u16) -> Mosquitto {
        let child = Command::new("mosquitto")
            .arg("-c")
            .arg(dir.join("mosquitto.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("is installed");
        let broker = Mosquitto { child };
        let listening = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, listening).await.expect("listens");
        broker
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `muster broker mosquitto` writes.
fn configure(dir: &Path, ca: &Ca, port: u16) {
    let listen = ([127, 0, 0, 1], port).into();
    let workspace = "default".parse().expect("valid");
    for file in mosquitto::files(ca, &workspace, &["127.0.0.1".into()], listen, dir).expect("issues") {
        // Who runs the tests may be root, whom Mosquitto would leave behind.
        let user = if file.name == "mosquitto.conf" { "user root\n" } else { "" };
        std::fs::write(dir.join(file.name), user.to_owned() + &file.text).expect("writes");
    }
}

async fn register(app: &App, version: u32) -> Registered {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/digits");
    let bytes = std::fs::read(folder.join(format!("digits-{version}.onnx"))).expect("is checked in");
    let digest = Digest::of(&bytes);
    let body = stream::iter([Ok::<_, Infallible>(Bytes::from(bytes))]);
    app.upload_blob(digest, body).await.expect("takes it");
    let registration: Registration = serde_json::from_value(serde_json::json!({
        "name": "digits", "files": [{"path": "digits.onnx", "digest": digest}],
    }))
    .expect("a registration");
    app.register_model(registration, &Principal::system()).await.expect("registers")
}

async fn roll_out(app: &App) -> muster_dispatcher::app::RolloutId {
    let target = Target { all: true, ..Target::default() };
    let plan = Plan { preset: Some(Preset::Emergency), target, ..Plan::default() };
    let document = RolloutDocument { model: "digits".parse().expect("valid"), version: None, slot: None, plan };
    app.start_rollout(document, &Principal::system()).await.expect("starts").id
}

async fn link_is(app: &App, up: bool) {
    let wait = async {
        while app.info().await.expect("answers").link_up != up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the link follows the broker");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_survives_the_loss_of_an_external_broker() {
    if Command::new("mosquitto").arg("-h").stdout(Stdio::null()).status().is_err() {
        eprintln!("mosquitto is not installed: nothing was tested");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let ca = Ca::load_or_create(&data.join("ca")).expect("makes one");
    configure(dir.path(), &ca, port);
    let mut broker = Mosquitto::start(dir.path(), port).await;
    let running = serve::start(Config {
        data,
        workspace: "default".parse().expect("valid"),
        hostnames: vec!["127.0.0.1".into()],
        api: "127.0.0.1:8420".parse().expect("valid"),
        api_url: None,
        broker_address: None,
        broker: BrokerChoice::External {
            endpoint: format!("mqtts://127.0.0.1:{port}").parse().expect("valid"),
            ca_file: None,
            identity_files: None,
        },
        control: None,
    })
    .await
    .expect("starts");
    let app = running.app.clone();
    link_is(&app, true).await;
    let identity = enroll(&app, "pi", "line").await;
    register(&app, 1).await;
    {
        let mut device = Device::connect(&identity).await;
        device.hello(0).await;
        let rollout = roll_out(&app).await;
        let desired = device.desired(1).await;
        device.bundle(&desired).await;
        let done = device.report(&desired, Phase::Healthy, None).await;
        device.acknowledged(done).await;
        assert_eq!(app.show_rollout(rollout).await.expect("is there").rollout.status, RolloutStatus::Completed);
    }

    // Killed, with all that it retained; meanwhile the fleet's wishes change.
    broker.child.kill().expect("kills");
    link_is(&app, false).await;
    register(&app, 2).await;
    let rollout = roll_out(&app).await;
    drop(broker);
    let _broker = Mosquitto::start(dir.path(), port).await;
    link_is(&app, true).await;
    let mut device = Device::connect(&identity).await;
    device.hello(1).await;
    let desired = device.desired(2).await;
    assert_eq!(desired.slots[0].rollout, rollout.to_string());
    device.bundle(&desired).await;
    running.shutdown().await;
}
