//! Golden files for each runtime.

use super::*;
use crate::cluster::plan::tests::{canary, cases, service};

fn all(files: &[File]) -> String {
    let one = |file: &File| format!("==> {}{}\n{}", file.path, if file.secret { " (secret)" } else { "" }, file.text);
    files.iter().map(one).collect()
}

fn aci_options() -> Aci {
    Aci { location: "westeurope".into(), dns_label: Some("digits".into()), subnet: None }
}

#[test]
fn every_runtime_gets_the_same_service() {
    for (name, service) in cases().into_iter().filter(|(name, _)| ["default", "fetched", "sized"].contains(name)) {
        crate::golden::compare(&format!("render/{name}.aci.yaml"), &aci(&service, &aci_options()).unwrap());
        crate::golden::compare(&format!("render/{name}.compose.txt"), &all(&compose(&service).unwrap()));
        crate::golden::compare(&format!("render/{name}.iotedge.txt"), &all(&iotedge(&service).unwrap()));
        crate::golden::compare(&format!("render/{name}.systemd.txt"), &all(&systemd(&service).unwrap()));
    }
}

#[test]
fn what_cannot_split_requests_says_so() {
    let two = canary(service("digits"), 10);
    for error in [
        aci(&two, &aci_options()).unwrap_err(),
        compose(&two).unwrap_err(),
        iotedge(&two).unwrap_err(),
        systemd(&two).unwrap_err(),
    ] {
        assert!(error.to_string().contains("render one version"), "{error}");
    }
}

#[test]
fn no_secret_is_in_a_file_that_others_may_read() {
    for (name, service) in cases().into_iter().filter(|(_, service)| service.revisions.len() == 1) {
        let files = [compose(&service).unwrap(), iotedge(&service).unwrap(), systemd(&service).unwrap()].concat();
        for file in files.iter().filter(|file| !file.secret) {
            assert!(!file.text.contains("s3cret") && !file.text.contains(&"1".repeat(64)), "{name} {}", file.path);
        }
    }
}

#[test]
fn rights_are_as_checked_in() {
    crate::golden::compare("../../../cross/kubernetes/rbac.yaml", &rbac("models", "muster"));
}
