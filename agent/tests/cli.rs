//! The program as a service manager sees it: what it says of a wrong configuration, and its exit code.

use std::path::Path;
use std::process::{Command, Output};

/// What the systemd unit does not restart on (sysexits.h EX_CONFIG).
const CONFIG: i32 = 78;

/// Runs the agent with the configuration `file`, and none of the variables of whoever runs the tests.
fn agent(file: &Path, arguments: &[&str], variable: Option<(&str, &str)>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster-agent"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER_")) {
        command.env_remove(name);
    }
    command.arg("--config").arg(file).args(arguments).envs(variable);
    command.output().expect("the agent runs")
}

#[test]
fn a_key_that_cannot_be_read_ends_with_the_code_for_configuration() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("agent.toml");
    let table = [
        ("[storage]\nheadrom_bytes = 1\n", None, "storage.headroom_bytes"),
        ("[inference]\nqueue = \"many\"\n", None, "agent.toml"),
        ("[local]\nhttp = \"nowhere\"\n", None, "local.http"),
        ("data = \"x", None, "agent.toml"),
        ("", Some(("MUSTER_AGENT_INFERENCE_QUEUE", "many")), "MUSTER_AGENT_INFERENCE_QUEUE"),
    ];
    for (text, variable, named) in table {
        std::fs::write(&file, text).expect("written");
        for command in ["run", "status"] {
            let output = agent(&file, &[command], variable);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(CONFIG), "{command} with {text:?}: {said}");
            assert!(said.starts_with("error: ") && said.contains(named), "{command} with {text:?}: {said}");
            assert!(said.contains("[config_invalid]\nnext:  "), "{command} with {text:?}: {said}");
        }
        let checked = agent(&file, &["check"], variable);
        assert_eq!(checked.status.code(), Some(CONFIG), "check with {text:?}");
        assert!(String::from_utf8_lossy(&checked.stdout).starts_with("FAIL  config"), "check with {text:?}");
    }
}
