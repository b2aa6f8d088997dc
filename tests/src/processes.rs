//! The real binaries as a user starts them: `muster serve`, the CLI, agents; on free loopback ports, in
//! a temporary folder, gone when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Nothing here takes this long on a machine that works.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The folder with the workspace's binaries, which are built first where they are not fresh.
pub fn binaries() -> &'static Path {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    BINARIES.get_or_init(|| {
        let test = std::env::current_exe().expect("a test has a path");
        let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST").to_owned();
        let release = profile.file_name().is_some_and(|n| n == "release");
        let mut build = Command::new(env!("CARGO"));
        // The whole workspace, so that features are those of the tests and nothing is compiled twice.
        build.args(["build", "--quiet", "--workspace", "--bins"]);
        build.args(release.then_some("--release")).current_dir(env!("CARGO_MANIFEST_DIR"));
        // Cargo tells a test which package it is of, and build scripts that look at these would run again.
        let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
            build.env_remove(name);
        }
        if let Some(target) = profile.parent() {
            build.env("CARGO_TARGET_DIR", target);
        }
        assert!(build.status().expect("cargo runs").success(), "the binaries do not build");
        profile
    })
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it has an address").port()
}

/// Waits until `ready` gives something.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if let Some(value) = ready() {
            return Ok(value);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("{what} takes longer than {PATIENCE:?}")
}

/// A process that ends with its owner.
pub struct Process(Child);

impl Process {
    /// Starts `command`; what it logs goes to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self(child))
    }

    /// SIGKILL, as a power cut for a process.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// SIGTERM, and waits for the end; true if it ended with success.
    pub fn terminate(&mut self) -> bool {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        self.0.wait().is_ok_and(|s| s.success())
    }

    /// Waits for the end; true if it ended with success.
    pub fn succeeds(&mut self) -> bool {
        self.0.wait().is_ok_and(|s| s.success())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running `muster serve`, and the CLI that talks to it.
pub struct Dispatcher {
    /// Its folder.
    pub data: PathBuf,
    /// The arguments that it was started with.
    arguments: Vec<String>,
    /// The process.
    pub process: Process,
}

impl Dispatcher {
    /// Starts one in `folder` with additional `arguments`, and waits until it is ready.
    pub fn start(folder: &Path, arguments: &[&str]) -> Result<Self> {
        let data = folder.join("muster-data");
        let mut all = vec!["serve".to_owned(), "--data".into(), data.display().to_string()];
        all.extend(["--listen".into(), format!("127.0.0.1:{}", free_port())]);
        if !arguments.contains(&"--broker") {
            all.extend(["--mqtt-listen".into(), format!("127.0.0.1:{}", free_port())]);
        }
        all.extend(arguments.iter().map(|a| (*a).to_owned()));
        let process = Self::spawn(&data, &all)?;
        let mut dispatcher = Self { data, arguments: all, process };
        dispatcher.wait_ready()?;
        Ok(dispatcher)
    }

    fn spawn(data: &Path, arguments: &[String]) -> Result<Process> {
        let log = data.with_extension("log");
        Process::start(Command::new(binaries().join("muster")).args(arguments), &log)
    }

    fn wait_ready(&mut self) -> Result<()> {
        wait_for("the dispatcher's start", || {
            if !self.process.is_running() {
                return Some(Err(anyhow::anyhow!("the dispatcher ended:\n{}", self.log())));
            }
            self.cli(&["info"]).ok().map(|_| Ok(()))
        })?
    }

    /// Starts it again on the same folder and ports.
    pub fn restart(&mut self) -> Result<()> {
        self.process = Self::spawn(&self.data, &self.arguments)?;
        self.wait_ready()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    /// A CLI command as an operator types it.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(binaries().join("muster"));
        command.args(arguments).env("MUSTER_CONTEXT", self.data.join("admin.toml"));
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// A CLI command that has to succeed; its JSON.
    pub fn cli(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.command(&[arguments, &["--output", "json"]].concat())?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "muster {}: {text}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        // Commands that follow something print a line for each change; the last one counts.
        let last = text.trim_end().lines().last().unwrap_or_default();
        let parsed = serde_json::from_str(&text).or_else(|_| serde_json::from_str(last));
        parsed.with_context(|| format!("muster {} printed {text:?}", arguments.join(" ")))
    }

    /// Starts a CLI command and does not wait for it.
    pub fn begin(&self, arguments: &[&str]) -> Result<Process> {
        let mut command = Command::new(binaries().join("muster"));
        command.args(arguments).env("MUSTER_CONTEXT", self.data.join("admin.toml"));
        Process::start(&mut command, &self.data.with_extension("cli.log"))
    }

    /// Registers one of the digits models.
    pub fn register_digits(&self, version: u32) -> Result<Value> {
        let file = |name: String| digits(&name).display().to_string();
        self.cli(&[
            "model",
            "register",
            "-n",
            "digits",
            "-p",
            &file(format!("digits-{version}.onnx")),
            "--sample",
            &file(format!("sample-{version}.json")),
            "--transforms",
            &file("transforms.json".into()),
        ])
    }

    /// An enrolment token for group `lab`.
    pub fn enroll_token(&self) -> Result<String> {
        let made = self.cli(&["device", "enroll-token", "--group", "lab"])?;
        Ok(made["token"].as_str().context("no token in the answer")?.to_owned())
    }

    /// Rolls `model` out to group `lab`; `wait` waits for its end.
    pub fn roll_out(&self, model: &str, trial_seconds: u32, wait: bool) -> Result<Value> {
        let soak = format!("{trial_seconds}s");
        let mut arguments = vec!["rollout", "start", "--model", model, "--group", "lab", "--soak", &soak];
        arguments.extend(wait.then_some("--wait"));
        self.cli(&arguments)
    }
}

/// A real Mosquitto in the embedded broker's place.
pub struct Mosquitto {
    /// What `muster serve --broker` takes.
    pub url: String,
    conf: PathBuf,
    log: PathBuf,
    port: u16,
    /// The process.
    pub process: Process,
}

impl Mosquitto {
    /// Whether it is installed; says so where it is not.
    pub fn is_installed() -> bool {
        let is_there = Command::new("mosquitto").arg("-h").stdout(Stdio::null()).status().is_ok();
        if !is_there {
            eprintln!("mosquitto is not installed: nothing was tested with it");
        }
        is_there
    }

    /// Starts one with what `muster broker mosquitto` writes for the dispatcher of `folder`.
    pub fn start(folder: &Path) -> Result<Self> {
        let (out, port) = (folder.join("mosquitto"), free_port());
        let (data, listen) = (folder.join("muster-data"), format!("127.0.0.1:{port}"));
        let mut prepare = Command::new(binaries().join("muster"));
        prepare.args(["broker", "mosquitto", "--mqtt-listen", &listen, "--out"]).arg(&out).arg("--data").arg(data);
        let prepared = prepare.output()?;
        ensure!(prepared.status.success(), "muster broker: {}", String::from_utf8_lossy(&prepared.stderr));
        let conf = out.join("mosquitto.conf");
        // Who runs the tests may be root, whom Mosquitto would leave behind.
        std::fs::write(&conf, std::fs::read_to_string(&conf)? + "user root\n")?;
        let log = folder.join("mosquitto.log");
        let process = Self::spawn(&conf, &log)?;
        let broker = Self { url: format!("mqtts://127.0.0.1:{port}"), conf, log, port, process };
        broker.wait_ready()?;
        Ok(broker)
    }

    fn spawn(conf: &Path, log: &Path) -> Result<Process> {
        Process::start(Command::new("mosquitto").arg("-c").arg(conf), log)
    }

    fn wait_ready(&self) -> Result<()> {
        wait_for("Mosquitto's start", || std::net::TcpStream::connect(("127.0.0.1", self.port)).ok().map(drop))
    }

    /// Kills it, with all that it kept, and starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = Self::spawn(&self.conf, &self.log)?;
        self.wait_ready()
    }
}

/// A file of the digits models.
pub fn digits(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits").join(name)
}

/// An agent process and its folder.
pub struct Agent {
    /// Its folder.
    pub data: PathBuf,
    /// The port of its local API.
    pub port: u16,
    /// The process; none while it does not run.
    pub process: Option<Process>,
}

impl Agent {
    /// Enrols a device called `name` with a fresh token.
    pub fn enroll(folder: &Path, name: &str, dispatcher: &Dispatcher) -> Result<Self> {
        let data = folder.join(name);
        let token = dispatcher.enroll_token()?;
        let output = Self::binary(&data).args(["enroll", &token, "--name", name]).output()?;
        ensure!(output.status.success(), "enroll: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { data, port: free_port(), process: None })
    }

    fn binary(data: &Path) -> Command {
        let mut command = Command::new(binaries().join("muster-agent"));
        command.arg("--data").arg(data);
        command
    }

    /// Starts the agent; does not wait.
    pub fn start(&mut self) -> Result<()> {
        let mut command = Self::binary(&self.data);
        command.arg("run").args(["--http", &format!("127.0.0.1:{}", self.port)]);
        self.process = Some(Process::start(&mut command, &self.data.with_extension("log"))?);
        Ok(())
    }

    /// A command of `muster-agent` for this device.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Self::binary(&self.data);
        command.args(arguments).env("MUSTER_AGENT_LOCAL_HTTP", format!("127.0.0.1:{}", self.port));
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    /// GET of the local API as JSON; none where nothing or an error answers.
    pub fn get(&self, path: &str) -> Option<Value> {
        let mut answer = ureq::get(format!("http://127.0.0.1:{}{path}", self.port)).call().ok()?;
        answer.body_mut().read_json().ok()
    }

    /// The answer to an image; none where nothing or an error answers.
    pub fn score(&self, image: &[u8]) -> Option<Value> {
        let request = ureq::post(format!("http://127.0.0.1:{}/score/digits", self.port));
        let mut answer = request.header("content-type", "image/png").send(image).ok()?;
        answer.body_mut().read_json().ok()
    }

    /// The model version that answers, by an answer.
    pub fn answering_version(&self, image: &[u8]) -> Option<u64> {
        let answer = self.score(image)?;
        answer["version"].as_u64().or_else(|| answer["version"].as_str()?.parse().ok())
    }
}
