use clap::{CommandFactory as _, Parser as _};

use super::*;

mod tables;

/// The help of a command and all that are under it, as a terminal of 100 columns shows it. The global options stand
/// only once.
fn help(command: &mut clap::Command, path: &str, text: &mut String) {
    let name = format!("{path}{}", command.get_name());
    let mut shown = command.render_help().to_string();
    if let Some((before, after)) = shown.split_once("\nGlobal options:\n").filter(|_| !path.is_empty()) {
        let rest = after.split_once("\n\n").map(|(_, rest)| format!("\n{rest}"));
        shown = format!("{before}{}", rest.unwrap_or_default());
    }
    text.push_str(&format!("$ {name} -h\n{}\n\n", shown.trim_end()));
    for inner in command.get_subcommands_mut().filter(|inner| inner.get_name() != "help") {
        help(inner, &format!("{name} "), text);
    }
}

#[test]
fn the_help_is_what_is_checked_in() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut text = String::new();
    help(&mut command, "", &mut text);
    crate::golden::compare("help.txt", &text);
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_is_documented() {
    fn check(command: &clap::Command) {
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{} {} has no help", command.get_name(), arg.get_id());
        }
        assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn command_lines_that_are_understood() {
    let table = [
        "muster serve --data d --listen 127.0.0.1:0 --hostname a --hostname b --broker mqtts://b:1",
        "muster model register -n vision/digits -p x.onnx -t a=b --property c=d --input-shape x=1x2 --tolerance 0.1,0.2",
        "muster model list vision/* --tag a --tag b=c --output json",
        "muster --url https://h:1 --token t model show digits:2",
        "muster model download digits --to x",
        "muster model tag digits:2 a=b c-",
        "muster device enroll-token --group g --label a=b --ttl 7d --uses 5 -q",
        "muster device list --offline",
        "muster device label d a=b",
        "muster device group d --remove g",
        "muster group set g --selector a=b",
        "muster rollout start --model digits --group g --canary 1 --wait",
        "muster rollout start --model digits:2 --device a --device b --max-failures 1",
        "muster rollout start --model digits --all",
        "muster rollout show r1",
        "muster rollout plan --model digits --all --preset careful",
        "muster rollout start -f rollout.toml --wait",
        "muster rollout explain r1 gateway-17",
        "muster rollout abort r1 --now --reason bad",
        "muster rollout approve r1 --plan 0000000000000000000000000000000000000000000000000000000000000000",
        "muster rollout retry r1 gateway-17",
        "muster rollout export r1 --format yaml",
        "muster rollout status r1 --watch",
        "muster batch run --model digits:2 --input a.csv b.csv --keep id,name --output scores.csv --max-errors 5%",
        "muster batch run --model digits --input https://h/a.csv --output https://h/{name}?s --shard 0/4",
        "muster batch render --model digits:2 --image i --volume rows:/data:ro --input /data --output https://h/{name}",
        "muster key create --name n --role admin",
        "muster audit list",
        "muster trust show",
        "muster context use f",
        "muster config",
        "muster info",
        "muster demo --devices 3 --once --json",
    ];
    for line in table {
        if let Err(error) = Cli::try_parse_from(line.split(' ')) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn command_lines_that_are_refused() {
    let table = [
        ("muster", "Usage"),
        ("muster model show", "<MODEL[:VERSION]>"),
        ("muster model delete digits", "name the version as well, e.g. digits:1"),
        ("muster model show ../x", "model name"),
        ("muster model register -n a -p b --input-shape x", "images=1x3x224x224"),
        ("muster rollout start --model digits --file r.toml", "cannot be used with"),
        ("muster rollout start --model digits --all --group g", "cannot be used with"),
        ("muster rollout status 12", "is not a rollout's id, such as r12"),
        ("muster device list --online --offline", "cannot be used with"),
        ("muster device group d", "--add"),
        ("muster key create --name n --role root", "there are viewer, operator and admin"),
        ("muster model tag digits:1 a", "neither key=value"),
        ("muster info --output yaml", "possible values: table, json"),
        ("muster batch run --model digits --input a", "--output"),
        ("muster batch render --model digits --image i --input a --output b", "name the version as well"),
        ("muster batch render --model digits:1 --image i --input a --output b --token-secret s", "--fetch-from"),
        ("muster batch run --model digits --input a --output b --max-errors x", "nor a share such as 5%"),
        ("muster rolout", "'rollout'"),
    ];
    for (line, want) in table {
        let error = Cli::try_parse_from(line.split(' ')).err().unwrap_or_else(|| panic!("{line} was accepted"));
        assert!(error.to_string().contains(want), "{line} gave {error}");
        assert!(error.use_stderr(), "{line}");
    }
}
