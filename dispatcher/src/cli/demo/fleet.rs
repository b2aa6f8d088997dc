//! The dispatcher and its devices.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures_util::stream;
use muster_agent::config::Config;
use muster_agent::run::{Agent, identity_dir};
use muster_agent::{enroll, run, vitals};
use muster_proto::enroll::Invitation;
use muster_proto::id::{Digest, GroupName, SlotName, Version};
use muster_proto::manifest::Load as Recipe;
use muster_proto::report::{Phase, SlotReport};
use serde::Serialize;
use tokio::task::JoinSet;

use super::bad::Stopped;
use super::cable::Cable;
use super::digits::{Digits, NAME};
use super::plans;
use super::{PATIENCE, Show};
use crate::app::plan::Plan;
use crate::app::{
    App, DevicePhase, EnrollTokenRequest, Principal, Registration, RegistrationFile, RolloutDetail, RolloutDocument,
    RolloutId,
};
use crate::host::{self, Hosted};

pub(super) const GROUP: &str = "demo";
/// How long the cut device stays away.
const AWAY: Duration = Duration::from_millis(1500);

/// What the last line says.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    devices: u32,
    converged: u32,
    versions: BTreeMap<String, u32>,
    predictions: Predictions,
    bytes_fetched: u64,
    bytes_saved: u64,
    resumed: u32,
    stopped_by_shadow: Stopped,
    stopped_at_canary: Stopped,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Predictions {
    total: u64,
    correct: u64,
}

/// How many images each device got right.
pub(super) struct Scores {
    pub per_device: Vec<u32>,
    images: usize,
}

impl Scores {
    pub fn text(&self) -> String {
        let (low, high) = (self.per_device.iter().min(), self.per_device.iter().max());
        let (low, high) = (low.copied().unwrap_or(0), high.copied().unwrap_or(0));
        let percent = |n: u32| 100.0 * f64::from(n) / self.images as f64;
        if low == high {
            format!("{low} of {} right on each ({:.1} %)", self.images, percent(low))
        } else {
            format!("{low} to {high} of {} right ({:.1} to {:.1} %)", self.images, percent(low), percent(high))
        }
    }
}

pub(super) struct Fleet {
    running: Hosted,
    by: Principal,
    agents: Vec<Arc<Agent>>,
    names: Vec<String>,
    cable: Cable,
    fetched: u64,
    saved: u64,
    resumed: u32,
}

impl Fleet {
    /// Starts the dispatcher, enrols the devices over HTTPS and starts them.
    pub async fn start(folder: &Path, devices: u32, show: &Show) -> Result<Self> {
        let running = host::start_local(&folder.join("dispatcher")).await?;
        let by = Principal::system();
        let request = EnrollTokenRequest {
            groups: [GROUP.parse::<GroupName>()?].into(),
            labels: BTreeMap::new(),
            ttl_seconds: None,
            uses: Some(devices),
        };
        let token = running.app.create_enroll_token(request, &by).await?.token;
        let cable = Cable::lay(running.broker.context("the embedded broker listens")?).await?;
        let mut fleet =
            Self { running, by, agents: Vec::new(), names: Vec::new(), cable, fetched: 0, saved: 0, resumed: 0 };
        let bar = show.bar(u64::from(devices));
        bar.set_message("enrolled");
        for index in 1..=devices {
            let data = folder.join(format!("device-{index}"));
            let name = format!("device-{index}");
            enrol(token.clone(), name.clone(), data.clone()).await?;
            if index == devices {
                behind_cable(&data, &fleet.cable)?;
            }
            let config = Config {
                data,
                http: Some(([127, 0, 0, 1], 0).into()),
                telemetry_window: plans::WINDOW,
                inference_threads: 1,
                ..Config::default()
            };
            fleet.agents.push(Arc::new(run::start(config).await?));
            fleet.names.push(name);
            bar.inc(1);
        }
        bar.finish_and_clear();
        show.say(&format!("{devices} devices enrolled: each made its own key and got a certificate for it"));
        Ok(fleet)
    }

    /// Registers a version; returns how the engine has to load it.
    pub async fn register(&mut self, version: Version, show: &Show) -> Result<Recipe> {
        let bytes = Digits::bytes(version)?;
        let digest = Digest::of(bytes);
        let body = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(bytes))]);
        self.running.app.upload_blob(digest, body).await?;
        let registration = Registration {
            name: NAME.parse()?,
            files: vec![RegistrationFile { path: "digits.onnx".parse()?, digest }],
            entry: None,
            description: "handwritten digits, 8 × 8 pixels".into(),
            tags: BTreeMap::from([("stage".to_owned(), "demo".to_owned())]),
            properties: BTreeMap::new(),
            samples: Some(Digits::samples(version)?),
            input_shapes: BTreeMap::new(),
            transforms: Some(Digits::transforms()?),
            tolerance: None,
            requires: Default::default(),
            script: None,
        };
        let registered = self.running.app.register_model(registration, &self.by).await?;
        ensure!(registered.version == version, "registered as {} instead of {version}", registered.version);
        for warning in &registered.warnings {
            show.say(&format!("warning: {warning}"));
        }
        let manifest = &registered.manifest;
        show.say(&format!(
            "Registered {NAME}:{version}, manifest {}: {} parameters, {} golden samples passed on the devices' engine",
            registered.digest.short(),
            manifest.measured.parameters,
            manifest.samples.count
        ));
        Ok(registered.manifest.engine.load.clone())
    }

    /// The dispatcher, as everything else speaks to it.
    pub fn app(&self) -> &App {
        &self.running.app
    }

    pub async fn begin_rollout(&self, version: Version, plan: Plan) -> Result<RolloutId> {
        let document = RolloutDocument { model: NAME.parse()?, version: Some(version), slot: None, plan };
        Ok(self.running.app.start_rollout(document, &self.by).await?.id)
    }

    /// Rolls out and waits until every device is healthy.
    pub async fn roll_out(&mut self, version: Version, show: &Show) -> Result<()> {
        self.begin_rollout(version, plans::fast()?).await?;
        self.converge(version, show).await?;
        self.count_transfers();
        Ok(())
    }

    /// By the preset `standard`; and the last device's cable is cut once the first chunk of the update has arrived.
    pub async fn roll_out_and_cut(&mut self, version: Version, show: &Show) -> Result<()> {
        self.cable.slow_down();
        self.begin_rollout(version, plans::standard(plans::Shadow::On)?).await?;
        let last = self.agents.last().context("no devices")?.clone();
        let name = self.names.last().cloned().unwrap_or_default();
        wait(&last, |slot| slot.phase == Phase::Fetching && has_chunks(slot)).await?;
        self.cable.cut();
        let at = slot_of(&last).map(|s| s.transfer.fetched).unwrap_or(0);
        show.say(&format!("{name}: cable cut after {at} bytes of the update; it goes on answering with version 1"));
        tokio::time::sleep(AWAY).await;
        self.cable.mend();
        wait(&last, |slot| slot.phase == Phase::Healthy).await?;
        let slot = slot_of(&last).context("no slot")?;
        show.say(&format!(
            "{name}: cable mended; it went on where it stopped ({} resumed) and runs version {version}",
            slot.transfer.resumed
        ));
        self.converge(version, show).await?;
        self.count_transfers();
        Ok(())
    }

    async fn converge(&self, version: Version, show: &Show) -> Result<()> {
        let bar = show.bar(self.agents.len() as u64);
        bar.set_message(format!("healthy on {NAME}:{version}"));
        let target = muster_proto::manifest::target_path(&NAME.parse()?, version);
        let mut waiting = JoinSet::new();
        for agent in &self.agents {
            let (agent, target) = (agent.clone(), target.clone());
            waiting.spawn(async move {
                wait(&agent, |slot| {
                    slot.phase == Phase::Healthy && slot.active.as_ref().is_some_and(|a| a.target == target)
                })
                .await
            });
        }
        for _ in 0..self.agents.len() {
            waiting.join_next().await.context("no devices")???;
            bar.inc(1);
        }
        bar.finish_and_clear();
        show.say(&format!("All {} devices run {NAME}:{version} and have proven it", self.agents.len()));
        Ok(())
    }

    fn count_transfers(&mut self) {
        for slot in self.agents.iter().filter_map(|a| slot_of(a)) {
            self.fetched += slot.transfer.fetched;
            self.saved += slot.transfer.saved;
            self.resumed += slot.transfer.resumed;
        }
    }

    /// Scores every held-out image on every device.
    pub async fn score_all(&self, digits: &Digits) -> Result<Scores> {
        let slot: SlotName = NAME.parse()?;
        let mut per_device = Vec::new();
        for agent in &self.agents {
            let mut right = 0;
            for (index, inputs) in digits.inputs().iter().enumerate() {
                let (_, outputs) = agent.executor.infer(&slot, inputs.clone()).await?;
                right += u32::from(digits.is_right(index, &outputs));
            }
            per_device.push(right);
        }
        Ok(Scores { per_device, images: digits.len() })
    }

    /// Keeps every device busy until it is stopped.
    pub fn constant_load(&self, digits: &Digits) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for agent in &self.agents {
            let (agent, stop, answered) = (agent.clone(), stop.clone(), answered.clone());
            let images = digits.inputs().to_vec();
            tasks.spawn(async move {
                let slot: SlotName = NAME.parse()?;
                for inputs in images.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    agent.executor.infer(&slot, inputs.clone()).await?;
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            });
        }
        Load { stop, answered, tasks }
    }

    pub fn summary(&self, scores: &Scores, bad: (Stopped, Stopped), took: Duration) -> Summary {
        let mut versions: BTreeMap<String, u32> = BTreeMap::new();
        let mut converged = 0;
        for slot in self.agents.iter().filter_map(|a| slot_of(a)) {
            converged += u32::from(slot.phase == Phase::Healthy && slot.active == slot.desired);
            let active =
                slot.active.map_or_else(|| "none".into(), |a| a.target.trim_end_matches("/manifest").to_owned());
            *versions.entry(active).or_default() += 1;
        }
        Summary {
            devices: self.agents.len() as u32,
            converged,
            versions,
            predictions: Predictions {
                total: scores.images as u64 * scores.per_device.len() as u64,
                correct: scores.per_device.iter().map(|n| u64::from(*n)).sum(),
            },
            bytes_fetched: self.fetched,
            bytes_saved: self.saved,
            resumed: self.resumed,
            stopped_by_shadow: bad.0,
            stopped_at_canary: bad.1,
            seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
        }
    }

    /// What each device answers with, by its target's path.
    pub fn active(&self) -> Vec<Option<String>> {
        self.agents.iter().map(|agent| slot_of(agent)?.active.map(|active| active.target)).collect()
    }

    /// Bytes that the devices of a recalled rollout fetched for what they went back to.
    pub fn fetched_since_recall(&self, rollout: &RolloutDetail) -> u64 {
        let went_back = |name: &String| {
            rollout.devices.iter().any(|d| d.device.as_str() == name && d.phase == DevicePhase::Recalled)
        };
        let agents = self.names.iter().zip(&self.agents).filter(|(name, _)| went_back(name));
        agents.filter_map(|(_, agent)| slot_of(agent)).map(|slot| slot.transfer.fetched).sum()
    }

    /// Says where everything is and what to try.
    pub fn invite(&self, digits: &Digits, show: &Show) {
        show.step("Still running; Ctrl-C ends it. Try:");
        if let Some(address) = self.agents.first().and_then(|a| a.http) {
            let image = digits.seven();
            show.say(&format!(
                "  curl -s -H 'content-type: image/png' --data-binary @{} http://{address}/score",
                image.display()
            ));
            show.say(&format!("  curl -s http://{address}/metrics"));
        }
        show.say(&format!("  muster --context {} device list", self.running.context.display()));
        show.say(&format!("API and its documentation: {}/", self.running.api));
    }

    pub async fn stop(self) {
        for agent in self.agents {
            if let Ok(agent) = Arc::try_unwrap(agent) {
                agent.stop().await;
            }
        }
        self.running.shutdown().await;
    }
}

/// Requests without a pause to speak of.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: JoinSet<Result<()>>,
}

impl Load {
    /// How many requests were answered. One that failed fails the demo.
    pub async fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended?.context("a request failed while its device changed over")?;
        }
        Ok(self.answered.load(Ordering::Relaxed))
    }
}

impl Summary {
    pub fn text(&self) -> String {
        let versions: Vec<String> = self.versions.iter().map(|(v, n)| format!("{n} on {v}")).collect();
        format!(
            "{} of {} devices converged ({}) in {} s.\nThey fetched {} bytes and did not have to fetch {} more, \
             thanks to deltas and files that they held; transfers that went on after a cut: {}.\n\
             {} of {} predictions were right.",
            self.converged,
            self.devices,
            versions.join(", "),
            self.seconds,
            self.bytes_fetched,
            self.bytes_saved,
            self.resumed,
            self.predictions.correct,
            self.predictions.total
        )
    }
}

async fn enrol(token: String, name: String, data: PathBuf) -> Result<()> {
    tokio::task::spawn_blocking(move || {
        let invitation: Invitation = token.parse()?;
        let device = name.parse()?;
        enroll::enroll(&invitation, &device, vitals::agent_info(0), &identity_dir(&data), false)?;
        Ok(())
    })
    .await?
}

/// Lets the device find the broker at the other end of the cable.
fn behind_cable(data: &Path, cable: &Cable) -> Result<()> {
    let path = identity_dir(data).join("identity.json");
    let mut names: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let port = names.pointer_mut("/broker/port").ok_or_else(|| anyhow!("no broker in {}", path.display()))?;
    *port = cable.address.port().into();
    Ok(std::fs::write(&path, serde_json::to_vec_pretty(&names)?)?)
}

fn slot_of(agent: &Agent) -> Option<SlotReport> {
    agent.status.borrow().report.slots.iter().find(|s| s.slot.as_str() == NAME).cloned()
}

/// Whether chunks of files have arrived, beyond the manifest.
fn has_chunks(slot: &SlotReport) -> bool {
    slot.transfer.chunks > 0
}

/// Waits until the device's slot is as wanted; a failed update ends the demo with its reason.
async fn wait(agent: &Agent, is_so: impl Fn(&SlotReport) -> bool) -> Result<()> {
    let mut status = agent.status.clone();
    let seen = status.wait_for(|status| {
        status.report.slots.iter().any(|s| s.slot.as_str() == NAME && (s.phase == Phase::Failed || is_so(s)))
    });
    let status = tokio::time::timeout(PATIENCE, seen).await.context("a device takes too long")??;
    let failed = status.report.slots.iter().find(|s| s.phase == Phase::Failed && !is_so(s));
    if let Some(slot) = failed {
        let reason = slot.failure.as_ref().map(|f| format!("{} [{}]", f.detail, f.code)).unwrap_or_default();
        bail!("{} failed: {reason}", status.report.device);
    }
    Ok(())
}
