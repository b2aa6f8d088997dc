//! `muster serve` and the operator's commands as a person runs them: real processes, TLS, a real model.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const MUSTER: &str = env!("CARGO_BIN_EXE_muster");

/// A person's shell: a home of its own, and none of the variables of whoever runs the tests.
struct Shell {
    home: tempfile::TempDir,
}

struct Answer {
    code: i32,
    out: String,
    err: String,
}

impl Shell {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(MUSTER);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER_")) {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(self.home.path()).env("XDG_CONFIG_HOME", self.path("config"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        self.run_with(arguments, &[])
    }

    fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Answer {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Answer { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
    }

    /// Runs a command that has to succeed, and gives what it printed.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.code, 0, "{arguments:?}\n{}{}", answer.out, answer.err);
        answer.out
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Runs a command that has to fail with `code`, and gives what it said.
    #[track_caller]
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let answer = self.run(arguments);
        assert_eq!(answer.code, code, "{arguments:?}\n{}{}", answer.out, answer.err);
        assert_eq!(answer.out, "", "{arguments:?} failed and printed a result");
        answer.err
    }

    /// Starts `muster serve` and waits until it says that it serves.
    fn serve(&self, port: u16, more: &[&str]) -> Server {
        let listen = format!("127.0.0.1:{port}");
        let arguments =
            [&["serve", "--data", "data", "--listen", &listen, "--mqtt-listen", "127.0.0.1:0"], more].concat();
        let log = fs::File::create(self.path("serve.log")).unwrap();
        let mut child = self.command(&arguments).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = String::new();
        while !said.contains("Next:") {
            let line =
                lines.next().unwrap_or_else(|| panic!("{said}{}", fs::read_to_string(self.path("serve.log")).unwrap()));
            said.push_str(&line.unwrap());
            said.push('\n');
        }
        // Nobody reads the rest: what it says when it stops must not harm it.
        Server { child, said }
    }
}

struct Server {
    child: Child,
    said: String,
}

impl Server {
    /// Asks it to stop, as a service manager does.
    fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("muster serve did not stop");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn digits(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/digits").join(name).to_str().unwrap().to_owned()
}

#[test]
fn an_operator_finds_everything_from_the_first_start_to_the_next() {
    let shell = Shell::new();
    let port = free_port();
    let said = shell.fails(78, &["model", "list"]);
    assert!(
        said.starts_with("error: no dispatcher is named [config_invalid]\nnext:  run `muster context use FILE`"),
        "{said}"
    );

    let server = shell.serve(port, &[]);
    assert!(server.said.starts_with("Made keys"), "{}", server.said);
    assert!(server.said.contains(&format!("https://127.0.0.1:{port}")), "{}", server.said);
    shell.ok(&["context", "use", "data/admin.toml"]);
    let info = shell.json(&["info"]);
    assert_eq!(info["workspace"], "default");
    assert!(server.said.contains(info["ca_fingerprint"].as_str().unwrap()));

    registers_and_finds(&shell);
    hands_out_and_takes_away(&shell);
    refuses_a_second_one(&shell, port);

    server.stop();
    let gone = shell.fails(69, &["info"]);
    assert!(gone.contains("does not answer") && gone.contains("`muster serve`"), "{gone}");

    let again = shell.serve(port, &["--new-admin-token"]);
    assert!(!again.said.contains("Made keys"), "{}", again.said);
    assert!(again.said.contains("Made another administrator's token"), "{}", again.said);
    assert_eq!(shell.json(&["info"])["ca_fingerprint"], info["ca_fingerprint"], "restarts change nothing");
    assert_eq!(shell.json(&["model", "list"])["items"].as_array().unwrap().len(), 2);
    shell.ok(&["--context", "data/admin.toml", "key", "list"]);
    again.stop();
}

fn registers_and_finds(shell: &Shell) {
    let (first, sample) = (digits("digits-1.onnx"), digits("sample-1.json"));
    let register =
        ["model", "register", "-n", "vision/digits", "-p", &first, "--sample", &sample, "-t", "stage=candidate"];
    let said = shell.ok(&register);
    assert!(said.contains("vision/digits:1") && said.contains("registered and signed"), "{said}");
    assert!(shell.ok(&register).contains("was registered before"));

    // Without samples it works, and says loudly what that means.
    let second = digits("digits-2.onnx");
    let loud = shell.run(&["model", "register", "-n", "vision/digits", "-p", &second, "--description", "better"]);
    assert_eq!(loud.code, 0, "{}", loud.err);
    assert!(loud.err.contains("warning: "), "{}", loud.err);

    fs::write(shell.path("no.onnx"), "this is no model").unwrap();
    let refused = shell.fails(1, &["model", "register", "-n", "no", "-p", "no.onnx"]);
    assert!(refused.contains("[model_invalid]") && refused.contains("\nnext:  "), "{refused}");
    assert!(shell.fails(64, &["model", "register", "-n", "no", "-p", "missing"]).contains("cannot read missing"));

    let listed = shell.ok(&["model", "list", "vision/*"]);
    assert!(listed.starts_with("MODEL") && listed.lines().count() == 3, "{listed}");
    assert_eq!(shell.json(&["model", "list", "--tag", "stage=candidate"])["items"].as_array().unwrap().len(), 1);
    assert_eq!(shell.ok(&["model", "list", "other"]), "none\n");
    assert!(shell.ok(&["model", "show", "vision/digits"]).contains("better"));
    assert!(shell.ok(&["model", "tag", "vision/digits:1", "stage=production"]).contains("production"));

    let said = shell.ok(&["model", "download", "vision/digits:1", "--to", "copy"]);
    assert!(said.contains("all verified"), "{said}");
    assert_eq!(fs::read(shell.path("copy/digits-1.onnx")).unwrap(), fs::read(&first).unwrap());
    assert!(shell.fails(64, &["model", "download", "vision/digits:1", "--to", "copy"]).contains("exists already"));
    assert!(shell.fails(1, &["model", "show", "none"]).contains("[not_found]"));
}

fn hands_out_and_takes_away(shell: &Shell) {
    let token = shell.run(&["device", "enroll-token", "--group", "line-a", "--uses", "3", "--ttl", "1h"]);
    assert!(token.out.starts_with("muster1.") && token.out.lines().count() == 1, "{}", token.out);
    assert!(token.err.contains("3 devices") && token.err.contains("muster-agent enroll"), "{}", token.err);
    assert_eq!(shell.ok(&["device", "list"]), "none\n");
    assert!(shell.ok(&["group", "set", "ulm", "--selector", "site=ulm"]).contains("site=ulm"));
    assert!(shell.ok(&["group", "list"]).contains("ulm"));

    let rollout = shell.json(&["rollout", "start", "--model", "vision/digits:1", "--group", "ulm"]);
    let id = rollout["id"].as_str().unwrap();
    assert!(shell.ok(&["rollout", "list"]).contains(id));
    assert!(shell.ok(&["rollout", "status", id]).contains("vision/digits:1"));
    assert!(shell.ok(&["trust", "show"]).contains("director root"));

    let viewer = shell.ok(&["key", "create", "--name", "dashboard", "--role", "viewer", "--quiet"]);
    let as_viewer = [("MUSTER_TOKEN", viewer.trim())];
    assert_eq!(shell.run_with(&["model", "list"], &as_viewer).code, 0);
    let forbidden = shell.run_with(&["model", "delete", "vision/digits:2"], &as_viewer);
    assert_eq!(forbidden.code, 1);
    assert!(
        forbidden.err.contains("this needs the role operator, the key \"dashboard\" has viewer [forbidden]"),
        "{}",
        forbidden.err
    );
    let wrong = shell.run_with(&["model", "list"], &[("MUSTER_TOKEN", "muster_wrong")]);
    assert!(wrong.code == 1 && wrong.err.contains("[unauthorized]"), "{}", wrong.err);
    let elsewhere =
        shell.run_with(&["info"], &[("MUSTER_URL", "https://127.0.0.1:1"), ("MUSTER_CA", "data/admin.toml")]);
    assert_eq!(elsewhere.code, 78, "a context's token does not travel to another URL: {}", elsewhere.err);

    let audit = shell.ok(&["audit", "list", "--limit", "20"]);
    assert!(audit.contains("key.create") && audit.contains("model.register"), "{audit}");
    let id = shell.json(&["key", "list"])["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|k| k["name"] == "dashboard")
        .unwrap()["id"]
        .clone();
    shell.ok(&["key", "delete", id.as_str().unwrap()]);
    assert_eq!(shell.run_with(&["model", "list"], &as_viewer).code, 1);
}

fn refuses_a_second_one(shell: &Shell, port: u16) {
    let listen = format!("127.0.0.1:{port}");
    let same_folder =
        shell.fails(1, &["serve", "--data", "data", "--listen", "127.0.0.1:1", "--mqtt-listen", "127.0.0.1:0"]);
    assert!(same_folder.contains("another muster serve is using data"), "{same_folder}");
    let same_port = shell.run(&["serve", "--data", "other", "--listen", &listen, "--mqtt-listen", "127.0.0.1:0"]);
    assert_eq!(same_port.code, 1);
    assert!(same_port.err.contains(&format!("cannot listen on {listen}")), "{}", same_port.err);
    assert!(
        same_port.err.contains("[port_in_use]\nnext:  stop the other program or choose another port"),
        "{}",
        same_port.err
    );
}

#[test]
fn a_wrong_configuration_ends_with_its_own_exit_code() {
    let shell = Shell::new();
    fs::write(shell.path("muster.toml"), "[http]\nlisen = \"127.0.0.1:1\"\n").unwrap();
    let said = shell.fails(78, &["serve", "--config", "muster.toml"]);
    assert!(said.contains("there is no key `http.lisen` (in muster.toml); did you mean `http.listen`?"), "{said}");
    assert!(shell.fails(78, &["serve", "--listen", "here"]).contains("`http.listen` (from the flag --listen)"));
    assert!(shell.fails(78, &["serve", "--broker", "amqp://b"]).contains("mqtt.broker"));
    assert!(!shell.path("muster-data").exists(), "a wrong configuration makes nothing");
    assert!(shell.fails(64, &["serve", "--lisen", "x"]).contains("--listen"));
    let printed = shell.ok(&["config", "--listen", "0.0.0.0:8420"]);
    assert!(
        printed.contains(
            "# Variable: MUSTER_HTTP_LISTEN. This value is from the flag --listen.\nlisten = \"0.0.0.0:8420\""
        )
    );
}
