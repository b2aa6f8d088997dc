//! Other people's clients, where they are installed:
//!
//! ```text
//! python3 -m venv venv && venv/bin/pip install 'tritonclient[http]'
//! MUSTER_TRITON_PYTHON=$PWD/venv/bin/python cargo test --release --workspace --lib api::tests::clients
//! ```

use std::process::Command;

use super::support::*;
use crate::api::{Exposure, Limits, Server, router};

/// The Python interpreter that has `tritonclient[http]`.
const PYTHON: &str = "MUSTER_TRITON_PYTHON";

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_is_content() {
    let Some(python) = std::env::var_os(PYTHON) else {
        println!("skipped: set {PYTHON} to a Python that has tritonclient[http]");
        return;
    };
    // Room for all that the script asks at once: what a full queue does is another test.
    let models = [("digits", digits_model(2)), ("all", fixture_model("every_dtype"))];
    let device = Device::with(models, 64, Limits::default(), |api| api);
    let mut server = Server::default();
    let local = "127.0.0.1:0".parse().expect("an address");
    server.listen(local, router(&device.api, Exposure::Loopback)).await.expect("listens");
    let address = server.address().expect("an address").to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients/triton_http.py");
    let run = move || Command::new(python).arg(script).arg(address).arg(digits("sample-2.json")).output();
    let output = tokio::task::spawn_blocking(run).await.expect("joined").expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}");
    server.stop().await;
}
