//! A real dispatcher and real agents in this process, on free loopback ports.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::stream;
use muster_agent::config::Config;
use muster_agent::run::{self, Agent, identity_dir};
use muster_agent::{enroll, vitals};
use muster_dispatcher::app::plan::Target;
use muster_dispatcher::app::{
    EnrollTokenRequest, Principal, Registration, RegistrationFile, RolloutDetail, RolloutDocument, RolloutId,
};
use muster_dispatcher::host::{self, Hosted};
use muster_proto::enroll::Invitation;
use muster_proto::id::Digest;
use muster_proto::manifest::Requires;
use muster_proto::report::Phase;
use tempfile::TempDir;
use tokio::sync::broadcast::error::RecvError;

use crate::plans::at_once;
use crate::processes::{PATIENCE, digits};

/// The dispatcher.
pub struct Hub {
    /// The façade and the addresses.
    pub running: Hosted,
    by: Principal,
    folder: TempDir,
}

impl Hub {
    /// Starts one on an empty folder.
    pub async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let running = host::start_local(&folder.path().join("dispatcher")).await?;
        Ok(Self { running, by: Principal::system(), folder })
    }

    /// Enrols and starts an agent in the group `bench`.
    pub async fn agent(&self, name: &str) -> Result<Agent> {
        self.enrol(name).await?;
        self.start_agent(name, |_| {}).await
    }

    /// Where an agent keeps its things.
    pub fn data_of(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts an agent that is enrolled.
    pub async fn start_agent(&self, name: &str, configure: impl FnOnce(&mut Config)) -> Result<Agent> {
        let http = Some(([127, 0, 0, 1], 0).into());
        let window = Duration::from_secs(60);
        let mut config = Config { data: self.data_of(name), http, telemetry_window: window, ..Config::default() };
        configure(&mut config);
        Ok(run::start(config).await?)
    }

    /// Lets a device in.
    pub async fn enrol(&self, name: &str) -> Result<()> {
        let request = EnrollTokenRequest {
            groups: ["bench".parse()?].into(),
            labels: BTreeMap::new(),
            ttl_seconds: None,
            uses: Some(1),
        };
        let token = self.running.app.create_enroll_token(request, &self.by).await?.token;
        let data: PathBuf = self.folder.path().join(name);
        let (invitation, device): (Invitation, _) = (token.parse()?, name.parse()?);
        let identity = identity_dir(&data);
        tokio::task::spawn_blocking(move || {
            enroll::enroll(&invitation, &device, vitals::agent_info(0), &identity, false)
        })
        .await??;
        Ok(())
    }

    /// Registers one of the digits models.
    pub async fn register_digits(&self, version: u32) -> Result<()> {
        self.register(version, None, 0).await
    }

    /// The same, for devices with so much free memory.
    pub async fn register_digits_needing(&self, version: u32, memory_bytes: u64) -> Result<()> {
        self.register(version, None, memory_bytes).await
    }

    /// The same, with a second file of `ballast`.
    pub async fn register_digits_with(&self, version: u32, ballast: &[u8]) -> Result<()> {
        self.register(version, Some(ballast), 0).await
    }

    async fn register(&self, version: u32, ballast: Option<&[u8]>, memory_bytes: u64) -> Result<()> {
        let model = std::fs::read(digits(&format!("digits-{version}.onnx")))?;
        let mut files = Vec::new();
        for (path, bytes) in [("digits.onnx", Some(model.as_slice())), ("ballast.bin", ballast)] {
            let Some(bytes) = bytes else { continue };
            let digest = Digest::of(bytes);
            let body = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::copy_from_slice(bytes))]);
            self.running.app.upload_blob(digest, body).await?;
            files.push(RegistrationFile { path: path.parse()?, digest });
        }
        let json = |name: &str| -> Result<String> { Ok(std::fs::read_to_string(digits(name))?) };
        let registration = Registration {
            name: "digits".parse()?,
            files,
            entry: None,
            description: String::new(),
            tags: BTreeMap::new(),
            properties: BTreeMap::new(),
            samples: Some(serde_json::from_str(&json(&format!("sample-{version}.json"))?)?),
            input_shapes: BTreeMap::new(),
            transforms: Some(serde_json::from_str(&json("transforms.json")?)?),
            tolerance: None,
            requires: Requires { memory_bytes, ..Requires::default() },
            script: None,
        };
        self.running.app.register_model(registration, &self.by).await?;
        Ok(())
    }

    /// Rolls the newest version out and waits until `agents` are healthy with it.
    pub async fn roll_out(&self, model: &str, agents: &[&Agent]) -> Result<()> {
        let target = Target { groups: ["bench".parse()?].into(), ..Target::default() };
        let plan = at_once(target, 0);
        let document = RolloutDocument { model: model.parse()?, version: None, slot: None, plan };
        self.running.app.start_rollout(document, &self.by).await?;
        for agent in agents {
            let mut status = agent.status.clone();
            let healthy = status.wait_for(|s| s.report.slots.iter().any(|s| s.phase == Phase::Healthy));
            tokio::time::timeout(PATIENCE, healthy).await.context("an agent takes too long")??;
        }
        Ok(())
    }

    /// Starts the rollout of a document in TOML.
    pub async fn begin(&self, document: &str) -> Result<RolloutId> {
        let document: RolloutDocument = toml::from_str(document)?;
        Ok(self.running.app.start_rollout(document, &self.by).await?.id)
    }

    /// Waits until a rollout is as wanted.
    pub async fn until(
        &self,
        id: RolloutId,
        what: &str,
        is_so: impl Fn(&RolloutDetail) -> bool,
    ) -> Result<RolloutDetail> {
        // Subscribed before the first look, so that nothing is missed in between.
        let mut events = self.running.app.events();
        let wait = async {
            loop {
                let detail = self.running.app.show_rollout(id).await?;
                if is_so(&detail) {
                    return Ok(detail);
                }
                if let Err(RecvError::Closed) = events.recv().await {
                    anyhow::bail!("the dispatcher has stopped");
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(detail) => detail,
            Err(_) => {
                let detail = self.running.app.show_rollout(id).await?;
                anyhow::bail!("{what} does not come about: {detail:#?}")
            }
        }
    }

    /// The operator in whose name everything is done.
    pub fn by(&self) -> &Principal {
        &self.by
    }

    /// Stops it.
    pub async fn stop(self) {
        self.running.shutdown().await;
    }
}
