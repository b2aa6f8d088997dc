//! What the packages ship agrees with the programs: `UPDATE_GOLDEN=1 cargo test -p muster-tests --test
//! packages` writes it anew.

use std::path::{Path, PathBuf};

use muster_agent::config;

const HEAD: &str = "\
# Configuration of muster-agent. Each key stands here with its default; take the # away to set it.
# Files in /etc/muster/agent.d/*.toml are read after this one, in order of name. `muster-agent check` tells
# what is wrong, `systemctl restart muster-agent` makes a change count.
";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cross").join(name)
}

#[test]
fn the_packaged_configuration_documents_every_key_with_its_default() {
    let mut text = HEAD.to_owned();
    for (section, keys) in config::by_section() {
        text.push('\n');
        if !section.is_empty() {
            text.push_str(&format!("[{section}]\n"));
        }
        for key in keys {
            text.push_str(&format!("# {}\n#{} = {}\n", key.help, key.name, key.default));
        }
    }
    let path = file("debian/agent.toml");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("written");
    }
    assert_eq!(std::fs::read_to_string(&path).expect("readable"), text);
    let loaded = config::Config::load(&path, true, []).expect("valid");
    assert_eq!(format!("{loaded:?}"), format!("{:?}", config::Config::default()));
}

#[test]
fn the_units_do_not_restart_on_wrong_usage_or_configuration() {
    let codes =
        format!("RestartPreventExitStatus={} {}", muster_agent::cli::EXIT_USAGE, muster_agent::cli::EXIT_CONFIG);
    for name in ["systemd/muster-agent.service", "systemd/muster.service"] {
        let unit = std::fs::read_to_string(file(name)).expect("readable");
        assert!(unit.lines().any(|line| line == codes), "{name} lacks {codes}");
    }
    let unit = std::fs::read_to_string(file("systemd/muster-agent.service")).expect("readable");
    assert!(unit.contains(&format!("ConditionPathExists={}/identity", config::DEFAULT_DATA)));
}

#[test]
fn the_dispatchers_unit_reads_its_file_and_outranks_none_of_its_keys() {
    let unit = std::fs::read_to_string(file("systemd/muster.service")).expect("readable");
    let start = unit.lines().find(|line| line.starts_with("ExecStart=")).expect("a command");
    assert!(start.ends_with(" /etc/muster/muster.toml"), "{start}");
    assert!(!start.contains("--data") && !unit.lines().any(|line| line.starts_with("Environment=")), "{start}");
}
