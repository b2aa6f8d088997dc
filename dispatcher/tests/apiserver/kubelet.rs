//! A node whose pods are real processes: the scoring server of the pod's image, on an address of its own.
//!
//! An image is a folder with a bundle; images that are not there cannot be pulled. A pod's volumes are folders, and the
//! paths at which it mounts them are replaced by theirs in its arguments and files, as a container's root would do.
//! Left out: liveness probes, several containers, limits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::controllers::{number, set_condition, warn, write_status};
use super::scheduler::NODES;
use super::store::{PODS, is_leaving, name_of, namespace_of, now, time};
use super::{Shared, proxy};

const MANAGER: &str = "kubelet";
/// The first pause after a container that ended; twice as long each time.
const BACK_OFF: Duration = Duration::from_secs(10);

/// A node.
pub struct Kubelet {
    /// Its server.
    pub server: Shared,
    /// `muster-agent`.
    pub program: PathBuf,
    /// The bundle's folder of each image.
    pub images: BTreeMap<String, PathBuf>,
    /// Where pods have their files.
    pub folder: PathBuf,
}

/// What a container does.
struct Container<'a> {
    kubelet: &'a Kubelet,
    pod: &'a Value,
    spec: &'a Value,
    address: String,
    folder: PathBuf,
    restarts: u32,
    last: Value,
}

impl Kubelet {
    /// Registers the node and runs its pods, for ever.
    pub async fn run(self) {
        let room = json!({ "cpu": "4", "memory": "4Gi", "pods": "110" });
        let ready = json!({ "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status" });
        let mut status = json!({ "capacity": room, "allocatable": room });
        set_condition(&mut status, ready, now());
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-0" }, "spec": {}, "status": status });
        self.server.change(|store| store.update(NODES, node, MANAGER, "")).expect("a new node");
        let kubelet = Arc::new(self);
        let (mut pods, mut known) = (JoinSet::new(), BTreeSet::new());
        let mut signal = kubelet.server.signal.subscribe();
        loop {
            for pod in kubelet.server.look(|store| store.all(PODS)) {
                if pod["spec"]["nodeName"] == "node-0" && known.insert(pod["metadata"]["uid"].to_string()) {
                    let kubelet = Arc::clone(&kubelet);
                    pods.spawn(async move { kubelet.live(&pod).await });
                }
            }
            tokio::select! {
                changed = signal.changed() => if changed.is_err() { return },
                Some(ended) = pods.join_next() => ended.expect("a pod's task does not panic"),
            }
        }
    }

    /// The life of one pod.
    async fn live(&self, pod: &Value) {
        let spec = &pod["spec"]["containers"][0];
        let folder = self.folder.join(pod["metadata"]["uid"].as_str().expect("a uid"));
        let address = free_address();
        let mut container = Container { kubelet: self, pod, spec, address, folder, restarts: 0, last: json!({}) };
        let mut process = None;
        tokio::select! {
            () = container.run(&mut process) => {}
            () = self.deleted(pod) => {}
        }
        container.end(process).await;
        self.server.change(|store| store.finish(PODS, pod));
    }

    /// Waits until the pod is to go.
    async fn deleted(&self, pod: &Value) {
        let mut signal = self.server.signal.subscribe();
        while self.now(pod).is_some_and(|pod| !is_leaving(&pod)) && signal.changed().await.is_ok() {}
    }

    fn now(&self, pod: &Value) -> Option<Value> {
        let found = self.server.look(|store| store.get(PODS, namespace_of(pod), name_of(pod)).cloned());
        found.filter(|found| found["metadata"]["uid"] == pod["metadata"]["uid"])
    }
}

impl Container<'_> {
    /// Runs the container, again and again.
    async fn run(&mut self, process: &mut Option<Child>) {
        let image = self.spec["image"].as_str().unwrap_or_default();
        let Some(bundle) = self.kubelet.images.get(image) else { return self.wait_for_image(image).await };
        self.say(json!({ "waiting": { "reason": "ContainerCreating" } }), false, false);
        loop {
            let exit = match self.start(bundle) {
                Ok(started) => self.serve(process.insert(started)).await,
                Err(error) => {
                    self.say(waiting("RunContainerError", &error.to_string()), false, false);
                    return std::future::pending().await;
                }
            };
            let code = exit.code().unwrap_or(137);
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let reason = if code == 0 { "Completed" } else { "Error" };
            self.last = json!({ "terminated": { "exitCode": code, "reason": reason, "message": log, "finishedAt": time(now()) } });
            self.restarts += 1;
            let pause = BACK_OFF * 2_u32.pow((self.restarts - 1).min(5));
            self.say(
                waiting("CrashLoopBackOff", &format!("back-off {pause:?} restarting failed container")),
                false,
                false,
            );
            sleep(pause).await;
        }
    }

    /// An image that is nowhere.
    async fn wait_for_image(&self, image: &str) {
        if self.spec["imagePullPolicy"] == "Never" {
            let words = format!("Container image \"{image}\" is not present with pull policy of Never");
            self.say(waiting("ErrImageNeverPull", &words), false, false);
            return std::future::pending().await;
        }
        let words = format!("failed to resolve reference \"{image}\": not found");
        self.say(waiting("ErrImagePull", &words), false, false);
        let told = format!("Failed to pull image \"{image}\": {words}");
        self.kubelet.server.change(|store| warn(store, self.pod, "kubelet", "Failed", &told, now()));
        sleep(BACK_OFF).await;
        self.say(waiting("ImagePullBackOff", &format!("Back-off pulling image \"{image}\": {words}")), false, false);
        std::future::pending().await
    }

    /// Lays the volumes out and starts the process.
    fn start(&self, bundle: &Path) -> std::io::Result<Child> {
        let mut roots =
            vec![("/bundle".to_owned(), bundle.display().to_string()), ("0.0.0.0".into(), self.address.clone())];
        let volume = |name: &Value| self.folder.join(name.as_str().unwrap_or_default());
        for mount in self.spec["volumeMounts"].as_array().into_iter().flatten() {
            let path = mount["mountPath"].as_str().unwrap_or_default();
            roots.push((path.into(), volume(&mount["name"]).display().to_string()));
        }
        let inside = |text: &str| translated(text, &roots);
        for item in self.pod["spec"]["volumes"].as_array().into_iter().flatten() {
            std::fs::create_dir_all(volume(&item["name"]))?;
            for (name, content) in self.files(item)? {
                std::fs::write(volume(&item["name"]).join(name), inside(&content))?;
            }
        }
        std::fs::create_dir_all(&self.folder)?;
        let log = std::fs::File::create(self.folder.join("log"))?;
        let mut command = Command::new(&self.kubelet.program);
        command.env_clear().stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let texts = |field: &str| self.spec[field].as_array().into_iter().flatten();
        command.args(texts("args").map(|text| inside(text.as_str().unwrap_or_default())));
        let value = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        command.envs(texts("env").map(|env| (value(&env["name"]), value(&env["value"]))));
        command.spawn()
    }

    /// The files of a volume.
    fn files(&self, volume: &Value) -> std::io::Result<Vec<(String, String)>> {
        let (collection, name) = match (&volume["configMap"]["name"], &volume["secret"]["secretName"]) {
            (Value::String(name), _) => ("v1/configmaps", name),
            (_, Value::String(name)) => ("v1/secrets", name),
            _ => return Ok(Vec::new()),
        };
        let found = self.kubelet.server.look(|store| store.get(collection, namespace_of(self.pod), name).cloned());
        let found = found.ok_or_else(|| std::io::Error::other(format!("{collection} {name:?} not found")))?;
        let files = found["data"].as_object().into_iter().flatten();
        let text = |value: &Value| {
            let text = value.as_str().unwrap_or_default();
            let plain = if collection == "v1/secrets" { STANDARD.decode(text) } else { Ok(text.into()) };
            String::from_utf8(plain.unwrap_or_default()).map_err(std::io::Error::other)
        };
        files.map(|(name, value)| Ok((name.clone(), text(value)?))).collect()
    }

    /// Until the process ends, with the probes as they were asked for.
    async fn serve(&self, process: &mut Child) -> ExitStatus {
        let exit = tokio::select! {
            exit = process.wait() => Some(exit),
            () = self.probe() => None,
        };
        let exit = match exit {
            Some(exit) => exit,
            None => {
                drop(process.start_kill());
                process.wait().await
            }
        };
        exit.expect("a child of ours")
    }

    /// Tells when the container has started and whether it is ready; ends where it has not started in time.
    async fn probe(&self) {
        let running = json!({ "running": { "startedAt": time(now()) } });
        self.say(running.clone(), false, false);
        let startup = &self.spec["startupProbe"];
        let mut failures = 0;
        while !self.passes(startup).await {
            failures += 1;
            if failures >= number(startup, "/failureThreshold").max(1) {
                return;
            }
            sleep(period(startup)).await;
        }
        let readiness = &self.spec["readinessProbe"];
        let (mut ready, mut failures) = (false, 0);
        loop {
            failures = if self.passes(readiness).await { 0 } else { failures + 1 };
            ready = failures == 0 || (ready && failures < number(readiness, "/failureThreshold").max(1));
            self.say(running.clone(), true, ready);
            sleep(period(readiness)).await;
        }
    }

    async fn passes(&self, probe: &Value) -> bool {
        if probe.is_null() {
            return true;
        }
        let Some(port) = proxy::container_port(self.pod, &probe["httpGet"]["port"]) else { return false };
        let path = probe["httpGet"]["path"].as_str().unwrap_or_default();
        let url = format!("http://{}:{port}{path}", self.address);
        let patience = Duration::from_secs(number(probe, "/timeoutSeconds").max(1).unsigned_abs());
        let asked = tokio::task::spawn_blocking(move || {
            ureq::get(url).config().timeout_global(Some(patience)).build().call().is_ok()
        });
        asked.await.unwrap_or(false)
    }

    /// Writes how the container is.
    fn say(&self, state: Value, started: bool, ready: bool) {
        let Some(pod) = self.kubelet.now(self.pod) else { return };
        let mut status = pod["status"].clone();
        status["phase"] = json!(if state["running"].is_null() && self.restarts == 0 { "Pending" } else { "Running" });
        status["podIP"] = json!(self.address);
        status["podIPs"] = json!([{ "ip": self.address }]);
        let image = self.spec["image"].clone();
        status["containerStatuses"] = json!([{
            "name": self.spec["name"], "image": image, "imageID": "", "state": state, "lastState": self.last,
            "restartCount": self.restarts, "started": started, "ready": ready,
        }]);
        let now = now();
        for kind in ["PodReadyToStartContainers", "Initialized"] {
            set_condition(&mut status, json!({ "type": kind, "status": "True" }), now);
        }
        for kind in ["ContainersReady", "Ready"] {
            let unready = json!({
                "type": kind, "status": "False", "reason": "ContainersNotReady",
                "message": "containers with unready status: [server]",
            });
            set_condition(&mut status, if ready { json!({ "type": kind, "status": "True" }) } else { unready }, now);
        }
        self.kubelet.server.change(|store| write_status(store, PODS, &pod, status, MANAGER));
    }

    /// The pre-stop pause, SIGTERM, and SIGKILL when the time of grace is over.
    async fn end(self, process: Option<Child>) {
        let Some(mut process) = process else { return };
        let grace = Duration::from_secs(number(self.pod, "/spec/terminationGracePeriodSeconds").unsigned_abs());
        let gently = async {
            sleep(Duration::from_secs(number(self.spec, "/lifecycle/preStop/sleep/seconds").unsigned_abs())).await;
            let id = process.id().map(|id| id.to_string()).unwrap_or_default();
            drop(Command::new("kill").arg(id).status().await);
            process.wait().await
        };
        if timeout(grace, gently).await.is_err() {
            drop(process.kill().await);
        }
    }
}

/// `text` with each of `roots` replaced, and never what replaced another.
fn translated(mut text: &str, roots: &[(String, String)]) -> String {
    let mut out = String::new();
    while let Some(next) = text.chars().next() {
        let found = roots.iter().find(|(from, _)| text.starts_with(from));
        let (length, to) = found.map_or((next.len_utf8(), next.to_string()), |(from, to)| (from.len(), to.clone()));
        out.push_str(&to);
        text = &text[length..];
    }
    out
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "waiting": { "reason": reason, "message": message } })
}

fn period(probe: &Value) -> Duration {
    Duration::from_secs(number(probe, "/periodSeconds").max(1).unsigned_abs())
}

/// An address of loopback that no other pod has, on this machine: Linux has 16 million of them.
fn free_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    loop {
        let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let address = format!("127.{}.{high}.{low}", 64 + std::process::id() % 128);
        if std::net::TcpListener::bind((address.as_str(), 8080)).is_ok() {
            return address;
        }
    }
}
