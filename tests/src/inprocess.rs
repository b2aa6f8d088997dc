//! A real dispatcher and real agents in this process, on free loopback ports.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::stream;
use muster_agent::config::Config;
use muster_agent::run::{self, Agent, identity_dir};
use muster_agent::{enroll, vitals};
use muster_dispatcher::app::{Audience, EnrollTokenRequest, Principal, Registration, RegistrationFile, RolloutRequest};
use muster_dispatcher::host::{self, Hosted};
use muster_proto::enroll::Invitation;
use muster_proto::id::Digest;
use muster_proto::report::Phase;
use tempfile::TempDir;

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

    /// Enrols and starts an agent.
    pub async fn agent(&self, name: &str) -> Result<Agent> {
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
        let http = Some(([127, 0, 0, 1], 0).into());
        Ok(run::start(Config { data, http, telemetry_window: Duration::from_secs(60), ..Config::default() }).await?)
    }

    /// Registers one of the digits models.
    pub async fn register_digits(&self, version: u32) -> Result<()> {
        self.register(version, None).await
    }

    /// The same, with a second file of `ballast`.
    pub async fn register_digits_with(&self, version: u32, ballast: &[u8]) -> Result<()> {
        self.register(version, Some(ballast)).await
    }

    async fn register(&self, version: u32, ballast: Option<&[u8]>) -> Result<()> {
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
            requires: Default::default(),
        };
        self.running.app.register_model(registration, &self.by).await?;
        Ok(())
    }

    /// Rolls the newest version out and waits until `agents` are healthy with it.
    pub async fn roll_out(&self, model: &str, agents: &[&Agent]) -> Result<()> {
        let request = RolloutRequest {
            model: model.parse()?,
            version: None,
            slot: None,
            audience: Audience::Group { group: "bench".parse()? },
            canary: 0,
            max_in_flight: Some(10_000),
            max_failures: 0,
            trial_seconds: Some(0),
        };
        self.running.app.start_rollout(request, &self.by).await?;
        for agent in agents {
            let mut status = agent.status.clone();
            let healthy = status.wait_for(|s| s.report.slots.iter().any(|s| s.phase == Phase::Healthy));
            tokio::time::timeout(PATIENCE, healthy).await.context("an agent takes too long")??;
        }
        Ok(())
    }

    /// Stops it.
    pub async fn stop(self) {
        self.running.shutdown().await;
    }
}
