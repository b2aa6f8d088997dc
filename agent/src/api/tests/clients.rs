//! Other people's clients, where they are installed:
//!
//! ```text
//! python3 -m venv venv && venv/bin/pip install 'tritonclient[grpc,http]' mlflow-skinny pandas scipy kserve \
//!     schemathesis openapi-spec-validator
//! export MUSTER_TRITON_PYTHON=$PWD/venv/bin/python MUSTER_CLIENTS_PYTHON=$PWD/venv/bin/python
//! cargo test --release --workspace --lib api::tests::clients
//! ```

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::support::*;
use crate::api::{Api, Exposure, Keys, Limits, Revision, Server, Service, Services, Settings, router};
use crate::engine::Loaded;

/// The Python interpreter that has `tritonclient[grpc,http]`.
const TRITON: &str = "MUSTER_TRITON_PYTHON";
/// The Python interpreter that has `mlflow-skinny`, `pandas`, `scipy`, `kserve`, `schemathesis` and
/// `openapi-spec-validator`.
const OTHERS: &str = "MUSTER_CLIENTS_PYTHON";

/// Runs a script of tests/clients against `models` with the Python that the variable names.
async fn run(variable: &str, script: &str, models: Vec<(&'static str, Arc<Loaded>)>) {
    run_on(variable, script, models, |api| api).await;
}

/// The same, after a `change` of the API.
async fn run_on(variable: &str, script: &str, models: Vec<(&'static str, Arc<Loaded>)>, change: impl Fn(Api) -> Api) {
    let Some(python) = std::env::var_os(variable) else {
        println!("skipped: set {variable} to a Python that has what {script} needs");
        return;
    };
    // Room for all that the script asks at once: what a full queue does is another test.
    let device = Device::with(models, 64, Limits::default(), change);
    let mut server = Server::default();
    let local = "127.0.0.1:0".parse().expect("an address");
    server.listen(local, router(&device.api, Exposure::Loopback)).await.expect("listens");
    let address = server.address().expect("an address").to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients").join(script);
    let run = move || Command::new(python).arg(script).arg(address).arg(digits("sample-2.json")).output();
    let output = tokio::task::spawn_blocking(run).await.expect("joined").expect("Python runs");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    println!("{said}");
    assert!(output.status.success(), "{said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_is_content() {
    let models = vec![("digits", digits_model(2)), ("all", fixture_model("every_dtype"))];
    run(TRITON, "triton_http.py", models).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tritonclient_is_content_over_grpc() {
    let models = vec![("digits", digits_model(2)), ("all", fixture_model("every_dtype"))];
    run(TRITON, "triton_grpc.py", models).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mlflow_is_content() {
    run(OTHERS, "mlflow_scoring.py", vec![("digits", digits_model(2))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kserve_is_content() {
    run(OTHERS, "kserve_rest.py", vec![("digits", digits_model(2))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kserve_is_content_over_grpc() {
    run(OTHERS, "kserve_grpc.py", vec![("digits", digits_model(2))]).await;
}

/// digits as `muster-agent serve` has it, with an example.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_in_a_service() {
    let revision = Revision { loaded: with_example(digits_model(2)), traffic: 100 };
    let settings = Settings { queue: 64, ..Settings::default() };
    let services = Arc::new(Services::default());
    let service = Service::new(slot("digits"), settings, Keys::default(), vec![revision], 2, None);
    services.put(Arc::new(service));
    services.settle();
    run_on(OTHERS, "openapi.py", Vec::new(), |api| api.with_services(Arc::clone(&services))).await;
}

/// Sizes that are open in several places, several inputs and outputs, and inputs without transforms.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing_on_a_device() {
    run(OTHERS, "openapi.py", vec![("two", fixture_model("two_in_two_out"))]).await;
}
