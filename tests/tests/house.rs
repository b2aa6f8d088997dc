//! The map of the house: who may import whom. A change that wants to break an arrow wants another design.

use std::path::{Path, PathBuf};

/// Rust files below `folder` that are not tests, with the text before their test module.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())).flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "tests" {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") && name != "tests.rs" && name != "testing.rs" {
                let text = std::fs::read_to_string(&path).expect("readable");
                let text = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                let path = path.strip_prefix(&root).expect("below the root").to_owned();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "nothing in {folder}");
    found
}

/// Lines of code (not comments) in `folder` that hold one of `words`.
fn users(folder: &str, words: &[&str]) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for (path, text) in sources(folder) {
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with("//")) {
            if words.iter().any(|w| line.contains(w)) {
                found.push((path.clone(), line.to_owned()));
            }
        }
    }
    found
}

#[test]
fn each_client_library_has_one_module_that_imports_it() {
    let table: &[(&str, &[&str], &[&str])] = &[
        ("agent/src", &["rumqttc::"], &["agent/src/link"]),
        ("agent/src", &["sled::"], &["agent/src/store/index.rs", "agent/src/store.rs"]),
        ("agent/src", &["tract_onnx::"], &["agent/src/engine"]),
        ("agent/src", &["opentelemetry"], &["agent/src/otlp"]),
        ("agent/src", &["wasmi"], &["agent/src/engine/script/sandbox.rs"]),
        ("dispatcher/src", &["rumqttc::"], &["dispatcher/src/link"]),
        ("dispatcher/src", &["sqlx::"], &["dispatcher/src/storage"]),
        ("dispatcher/src", &["object_store::"], &["dispatcher/src/blobs"]),
        ("dispatcher/src", &["mqtt5::"], &["dispatcher/src/broker"]),
        ("dispatcher/src", &["kube::", "k8s_openapi::"], &["dispatcher/src/cluster"]),
        ("dispatcher/src", &["oci_client::"], &["dispatcher/src/image/push"]),
        ("agent/src", &["tonic::", "prost::"], &["agent/src/api/grpc"]),
        ("agent/src", &["parquet::file", "parquet::record", "parquet::schema"], &["agent/src/batch/read/parquet.rs"]),
        ("dispatcher/src", &["tract_onnx::", "sled::"], &[]),
        ("proto/src", &["rumqttc", "sled::", "tract", "sqlx", "axum", "tokio"], &[]),
    ];
    for (folder, words, allowed) in table {
        for (path, line) in users(folder, words) {
            let path = path.display().to_string();
            assert!(allowed.iter().any(|a| path.starts_with(a)), "{path} may not use {words:?}: {line}");
        }
    }
}

#[test]
fn what_is_pure_does_no_io_and_reads_no_clock() {
    let impure = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "SystemTime",
        "Instant::now",
        "tokio::",
        "tracing::",
        "getrandom",
        "async fn",
        "std::env",
    ];
    for folder in ["proto/src", "agent/src/core", "dispatcher/domain/src"] {
        let found = users(folder, &impure);
        assert!(found.is_empty(), "{folder} is pure: {found:?}");
    }
}

#[test]
fn rooms_do_not_know_what_they_must_not() {
    let table: &[(&str, &[&str])] = &[
        ("agent/src/core", &["crate::link", "crate::store", "crate::engine", "crate::driver", "crate::api"]),
        ("agent/src/store", &["crate::link", "crate::engine", "crate::driver", "crate::api"]),
        ("agent/src/engine", &["crate::link", "crate::store", "crate::driver", "crate::api", "crate::core"]),
        ("agent/src/api", &["crate::link", "crate::store", "crate::core::", "crate::otlp"]),
        ("agent/src/check", &["crate::driver", "crate::link"]),
        ("agent/src/batch", &["crate::driver", "crate::link", "crate::core::", "crate::config"]),
        ("dispatcher/domain/src", &["muster_agent", "muster_dispatcher"]),
        ("dispatcher/src/http", &["crate::link", "crate::storage", "crate::broker", "crate::signer"]),
        ("dispatcher/src/storage", &["crate::http", "crate::link", "crate::broker"]),
        ("dispatcher/src/broker", &["crate::domain", "crate::storage", "crate::http"]),
    ];
    for (folder, words) in table {
        let found = users(folder, words);
        assert!(found.is_empty(), "{folder}: {found:?}");
    }
}
