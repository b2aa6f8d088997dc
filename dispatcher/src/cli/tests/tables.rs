//! What people see, from answers as the API gave them (`tests/fixtures`).

use serde::de::DeserializeOwned;

use crate::cli::{audit, device, group, info, key, model, rollout};

fn fixture<T: DeserializeOwned>(name: &str) -> T {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let text = std::fs::read_to_string(&path).expect("is checked in");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn the_tables_are_what_is_checked_in() {
    let shown = [
        ("muster model list", model::versions(&fixture("models.json"))),
        ("muster model show digits:2", model::show(&fixture("model.json"))),
        ("muster device list", device::devices(&fixture("devices.json"))),
        ("muster device show gateway-1", device::show(&fixture("device.json"))),
        ("muster group list", group::groups(&fixture("groups.json"))),
        ("muster rollout list", rollout::rollouts(&fixture("rollouts.json"))),
        ("muster rollout status r3", rollout::status(&fixture("rollout.json"))),
        ("muster key list", key::keys(&fixture("keys.json"))),
        ("muster audit list", audit::entries(&fixture("audit.json"))),
        ("muster info", info::show(&fixture("info.json"))),
    ];
    let text: String = shown.iter().map(|(command, table)| format!("$ {command}\n{table}\n\n")).collect();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "longer than a terminal: {line}");
    }
    crate::golden::compare("tables.txt", &text);
}
