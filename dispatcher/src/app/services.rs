//! Services: what they are to be, their keys, and how they are.

use std::time::Duration;

use muster_proto::id::{Digest, ModelName, Version};

use super::view::{
    CreatedService, KeyRequest, MadeServiceKey, Principal, RenderedFile, RevisionView, Role, ServiceDocument,
    ServiceForm, ServiceKeyView, ServiceUpdate, ServiceView, WhichKey,
};
use super::{App, Error, Result, random_text};
use crate::cluster::{self, render};
use crate::domain::service::{Change, Fetch, Hidden, Refused, Revision, Service, State, Target, update};
use crate::services::{self, Answer, News, Request, scoring_url};
use crate::storage::{ServiceKey, ServiceRecord};

/// The most services (invariant 10).
const MAX_SERVICES: usize = 500;
/// Begins every service's key, so that scanners for leaked secrets can find one.
const PREFIX: &str = "musters_";
/// How much of a key is kept to tell it from others.
const SHOWN: usize = 12;
/// How long one waits for a deletion before one is told that it goes on, unless one says otherwise.
pub const DELETION: Duration = Duration::from_secs(20);

/// How a service is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delete {
    /// Do not wait for its cluster, where something of it may stay.
    pub forget: bool,
    /// How long to wait until nothing is left.
    pub limit: Duration,
}

/// How far a deletion has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// Nothing is left of the service.
    Done,
    /// Its cluster does not answer; it goes on by itself.
    UnderWay,
}

impl App {
    /// Makes a service, and its keys.
    pub async fn create_service(&self, document: ServiceDocument, by: &Principal) -> Result<CreatedService> {
        self.create_service_for(document, None, by).await
    }

    /// Makes a service that `owner` declares: nobody else changes it from then on.
    pub async fn create_service_for(
        &self,
        document: ServiceDocument,
        owner: Option<String>,
        by: &Principal,
    ) -> Result<CreatedService> {
        let (app, by) = (self.clone(), by.clone());
        self.to_the_end(async move {
            // No version goes between the question and the record.
            let _catalog = app.0.registry.hold().await;
            let _turn = app.0.services.hold().await;
            let revision = app.revision(&document.model).await?;
            let ServiceDocument { name, target, image, mut settings, .. } = document;
            let revision = with_image(revision, image, &target)?;
            let fetch = app.fetch(&target, &revision).await?;
            let (keys, records) = if settings.auth { made_keys()? } else { Default::default() };
            settings.key_hashes = keys.iter().map(|key| hash(&key.key)).collect();
            let workspace = app.0.workspace.to_string();
            let revisions = vec![Revision { traffic: 100, ..revision }];
            let mut service = Service { name, workspace, generation: 1, revisions, settings, fetch, target };
            service.check()?;
            services::Services::check(&service)?;
            let others = app.0.storage.services().await?;
            if others.len() >= MAX_SERVICES {
                return Err(Error::conflict(format!("there are {MAX_SERVICES} services: delete some first")));
            }
            let name = service.name.clone();
            let taken = || {
                let change = format!("`muster service update {name}` changes it");
                Error::conflict(format!("there is a service {name} already: {change}"))
            };
            if others.iter().any(|record| record.service.name == name) {
                return Err(taken());
            }
            app.let_fetch(&mut service, &by).await?;
            let now = crate::now();
            let record = ServiceRecord {
                service,
                before: None,
                keys: records,
                owner,
                leaving: false,
                created_at: now,
                updated_at: now,
            };
            if !app.0.storage.insert_service(&record).await? {
                return Err(taken());
            }
            app.0.services.keep(record.service.clone());
            app.record(&by, "service.create", &record.service.name, &document.model).await;
            Ok(CreatedService { service: app.service_view(&record), keys })
        })
        .await
    }

    /// Every service, by name.
    pub async fn list_services(&self) -> Result<Vec<ServiceView>> {
        Ok(self.0.storage.services().await?.iter().map(|record| self.service_view(record)).collect())
    }

    /// One service.
    pub async fn show_service(&self, name: &str) -> Result<ServiceView> {
        Ok(self.service_view(&self.service_record(name).await?))
    }

    /// Changes what answers, or how. Name, address and keys stay.
    pub async fn update_service(&self, name: &str, change: ServiceUpdate, by: &Principal) -> Result<ServiceView> {
        let (app, name, by) = (self.clone(), name.to_owned(), by.clone());
        self.to_the_end(async move {
            let _catalog = app.0.registry.hold().await;
            let _turn = app.0.services.hold().await;
            let ServiceUpdate { model, image, canary, settings } = change;
            if model.is_none() && canary.is_some() {
                return Err(Error::BadRequest("a canary needs `model`, the version that it tries".into()));
            }
            let mut record = app.service_record(&name).await?;
            let mut detail = Vec::new();
            if let Some(mut settings) = settings {
                if settings.auth != record.service.settings.auth {
                    let message = "whether keys are asked for is for ever: make another service";
                    return Err(Error::BadRequest(message.into()));
                }
                settings.key_hashes.clone_from(&record.service.settings.key_hashes);
                (record.service, record.before) =
                    update(&record.service, record.before.as_ref(), Change::Set(Box::new(settings)))?;
                detail.push("settings".to_owned());
            }
            if let Some(model) = model {
                let revision = with_image(app.revision(&model).await?, image, &record.service.target)?;
                if record.service.fetch.is_none() {
                    record.service.fetch = app.fetch(&record.service.target, &revision).await?;
                }
                detail.push(format!("{}:{}", revision.model, revision.version));
                let change = match canary {
                    Some(percent) => Change::Canary(revision, percent),
                    None => Change::Replace(revision),
                };
                (record.service, record.before) = update(&record.service, record.before.as_ref(), change)?;
            }
            app.change_service(record, "service.update", &detail.join(", "), &by).await
        })
        .await
    }

    /// The canary answers everything from now on.
    pub async fn promote_service(&self, name: &str, by: &Principal) -> Result<ServiceView> {
        self.turn_service(name, Change::Promote, "service.promote", by).await
    }

    /// The canary is given up, or the version before answers again.
    pub async fn roll_back_service(&self, name: &str, by: &Principal) -> Result<ServiceView> {
        self.turn_service(name, Change::RollBack, "service.rollback", by).await
    }

    async fn turn_service(
        &self,
        name: &str,
        change: Change,
        action: &'static str,
        by: &Principal,
    ) -> Result<ServiceView> {
        let (app, name, by) = (self.clone(), name.to_owned(), by.clone());
        self.to_the_end(async move {
            let _turn = app.0.services.hold().await;
            let mut record = app.service_record(&name).await?;
            (record.service, record.before) = update(&record.service, record.before.as_ref(), change)?;
            let detail = record.service.revisions.first().map(|r| format!("{}:{}", r.model, r.version));
            app.change_service(record, action, &detail.unwrap_or_default(), &by).await
        })
        .await
    }

    /// Ends a service for good; its address and keys are gone.
    ///
    /// What runs on a cluster that is away is deleted once that is back, also after a restart.
    pub async fn delete_service(&self, name: &str, how: Delete, by: &Principal) -> Result<Deletion> {
        let (app, name, by) = (self.clone(), name.to_owned(), by.clone());
        self.to_the_end(async move {
            let turn = app.0.services.hold().await;
            let mut record = app.service_record(&name).await?;
            if !record.leaving {
                record.leaving = true;
                record.updated_at = crate::now();
                app.0.storage.update_service(&record).await?;
                app.record(&by, "service.delete", &name, if how.forget { "forgotten" } else { "" }).await;
            }
            app.0.services.let_go(&name);
            if how.forget {
                app.forget_service(&name, &by).await?;
                return Ok(Deletion::Done);
            }
            drop(turn);
            let finish = tokio::spawn(app.clone().finish_deletion(name, by));
            match tokio::time::timeout(how.limit, finish).await {
                Ok(done) => done.unwrap_or_else(|error| Err(Error::internal("a deletion", error))),
                Err(_) => Ok(Deletion::UnderWay),
            }
        })
        .await
    }

    /// Goes on with deletions that an earlier run began.
    pub async fn resume_deletions(&self) -> Result<()> {
        for record in self.0.storage.services().await?.into_iter().filter(|record| record.leaving) {
            let work = self.clone().finish_deletion(record.service.name, Principal::system());
            tokio::spawn(async move {
                if let Err(error) = work.await {
                    tracing::error!(%error, "a service could not be deleted");
                }
            });
        }
        Ok(())
    }

    async fn finish_deletion(self, name: String, by: Principal) -> Result<Deletion> {
        if !self.0.services.ended(&name).await {
            return Ok(Deletion::UnderWay);
        }
        let _turn = self.0.services.hold().await;
        match self.service_record(&name).await {
            Ok(record) if record.leaving => self.forget_service(&name, &by).await?,
            // Somebody else was as quick, and there may be a new one of that name.
            _ => {}
        }
        Ok(Deletion::Done)
    }

    /// The record goes last: until then the deletion is taken up again.
    async fn forget_service(&self, name: &str, by: &Principal) -> Result<()> {
        self.0.services.forget(name).await?;
        for key in self.list_keys().await?.iter().filter(|key| key.name == key_name(name)) {
            self.delete_key(&key.id, by).await?;
        }
        self.0.storage.delete_service(name).await?;
        Ok(())
    }

    /// What is known of a service's keys.
    pub async fn service_keys(&self, name: &str) -> Result<Vec<ServiceKeyView>> {
        let record = self.service_record(name).await?;
        let named = ["primary", "secondary"].into_iter().zip(record.keys);
        let view = |(which, key): (&str, ServiceKey)| ServiceKeyView {
            which: which.into(),
            prefix: key.prefix,
            created_at: key.created_at,
        };
        Ok(named.map(view).collect())
    }

    /// Makes one of a service's keys anew; the other goes on.
    pub async fn regenerate_key(&self, name: &str, which: WhichKey, by: &Principal) -> Result<MadeServiceKey> {
        let (app, name, by) = (self.clone(), name.to_owned(), by.clone());
        self.to_the_end(async move {
            let _turn = app.0.services.hold().await;
            let mut record = app.service_record(&name).await?;
            let index = which as usize;
            let (made, known) = made_key(which)?;
            let settings = &mut record.service.settings;
            let (Some(hashed), Some(held)) = (settings.key_hashes.get_mut(index), record.keys.get_mut(index)) else {
                return Err(Error::conflict(format!("service {name} asks for no keys")));
            };
            *hashed = hash(&made.key);
            *held = known;
            record.service.generation += 1;
            let detail = if which == WhichKey::Primary { "primary" } else { "secondary" };
            app.change_service(record, "service.key", detail, &by).await?;
            Ok(made)
        })
        .await
    }

    /// A service written for another runtime, with `image` in place of its own. It holds the hashes of its keys.
    pub async fn render_service(
        &self,
        name: &str,
        form: ServiceForm,
        image: Option<String>,
    ) -> Result<Vec<RenderedFile>> {
        let mut service = self.service_record(name).await?.service;
        for revision in &mut service.revisions {
            revision.image = image.clone().or(revision.image.take());
        }
        let planned = |error: cluster::Error| Error::BadRequest(format!("{error}; {}", error.next_step()));
        let one = |path: &str, text: String| vec![render::File { path: path.into(), text, secret: true }];
        let files = match form {
            ServiceForm::Kubernetes => render::kubernetes(&service).map(|text| one(&format!("{name}.yaml"), text)),
            ServiceForm::Aci => {
                let options = render::Aci { location: "westeurope".into(), dns_label: None, subnet: None };
                render::aci(&service, &options).map(|text| one(&format!("{name}.aci.yaml"), text))
            }
            ServiceForm::IotEdge => render::iotedge(&service),
            ServiceForm::Compose => render::compose(&service),
            ServiceForm::Systemd => render::systemd(&service),
        };
        let file = |file: render::File| RenderedFile { path: file.path, text: file.text, secret: file.secret };
        Ok(files.map_err(planned)?.into_iter().map(file).collect())
    }

    /// The last lines of a service's log.
    pub async fn service_log(&self, name: &str, lines: usize) -> Result<String> {
        self.service_record(name).await?;
        Ok(self.0.services.log(name, lines).await?)
    }

    /// Waits until how a service is changes, at most `limit`; then how it is.
    pub async fn wait_for_service(&self, name: &str, limit: Duration) -> Result<ServiceView> {
        let news = self.follow_service(name);
        let record = self.service_record(name).await?;
        if let Some(news) = news {
            news.wait(limit).await;
        }
        Ok(self.service_view(&record))
    }

    /// What hears when how a service is changes; none where there is no such service.
    pub fn follow_service(&self, name: &str) -> Option<News> {
        self.0.services.follow(name)
    }

    /// Asks a local service with the operator's own key.
    pub async fn ask_service(&self, name: &str, request: Request) -> Result<Answer> {
        self.service_record(name).await?;
        Ok(self.0.services.ask(name, request).await?)
    }

    /// How containers get a version that is in no image: from here. [`App::let_fetch`] makes the key for that.
    async fn fetch(&self, target: &Target, revision: &Revision) -> Result<Option<Fetch>> {
        if revision.image.is_some() || matches!(target, Target::Local(_)) {
            return Ok(None);
        }
        let trust_root = self.0.signing.run(|signer| signer.root_bytes().to_vec()).await;
        let trust_root = String::from_utf8(trust_root).map_err(|e| Error::internal("the trust root", e))?;
        let (url, ca) = (self.0.addresses.api_url.clone(), self.0.ca.certificate_pem());
        Ok(Some(Fetch { url, ca, trust_root, token: Hidden(String::new()) }))
    }

    /// Makes the API key with which containers fetch, where there is none yet: once nothing else can be refused.
    async fn let_fetch(&self, service: &mut Service, by: &Principal) -> Result<()> {
        let Some(fetch) = service.fetch.as_mut().filter(|fetch| fetch.token.0.is_empty()) else { return Ok(()) };
        let request = KeyRequest { name: key_name(&service.name), role: Role::Viewer, ttl_seconds: None };
        fetch.token = Hidden(self.create_key(request, by).await?.token);
        Ok(())
    }

    /// The services that need the version with this digest.
    pub(super) async fn services_with(&self, digest: Digest) -> Result<Vec<String>> {
        let digest = digest.to_string();
        let needed = self.0.services.needed().await?;
        Ok(needed.into_iter().filter(|(held, _)| *held == digest).map(|(_, name)| format!("service {name}")).collect())
    }

    async fn change_service(
        &self,
        mut record: ServiceRecord,
        action: &'static str,
        detail: &str,
        by: &Principal,
    ) -> Result<ServiceView> {
        if let Some(owner) = record.owner.as_ref().filter(|owner| **owner != by.name) {
            return Err(Error::conflict(format!(
                "{owner} declares service {}: change that instead",
                record.service.name
            )));
        }
        if record.leaving {
            return Err(Error::conflict(format!("service {} is being deleted", record.service.name)));
        }
        services::Services::check(&record.service)?;
        self.let_fetch(&mut record.service, by).await?;
        record.updated_at = crate::now();
        self.0.storage.update_service(&record).await?;
        self.0.services.keep(record.service.clone());
        self.record(by, action, &record.service.name, detail).await;
        Ok(self.service_view(&record))
    }

    async fn service_record(&self, name: &str) -> Result<ServiceRecord> {
        let mut records = self.0.storage.services().await?;
        let found = records.iter().position(|record| record.service.name == name);
        found.map(|index| records.swap_remove(index)).ok_or_else(|| Error::NotFound(format!("service {name}")))
    }

    /// The version that `NAME[:VERSION]` names.
    async fn revision(&self, text: &str) -> Result<Revision> {
        let bad = |what: String| {
            Error::BadRequest(format!("model {text:?}: {what}; write NAME:VERSION, or NAME for the newest"))
        };
        let (name, version) = match text.rsplit_once(':') {
            Some((name, version)) => (name, Some(version.parse::<Version>().map_err(|e| bad(e.to_string()))?)),
            None => (text, None),
        };
        let name: ModelName = name.parse().map_err(|e: muster_proto::id::Error| bad(e.to_string()))?;
        let version = self.resolve(&name, version).await?;
        let view = self.show_model(&name, Some(version)).await?;
        let number = u32::try_from(version.0).map_err(|_| bad("its number is too large".into()))?;
        let memory = Some(view.manifest.measured.memory_bytes).filter(|bytes| *bytes > 0);
        let (model, digest) = (name.to_string(), view.summary.digest.to_string());
        Ok(Revision { model, version: number, digest, traffic: 100, image: None, memory })
    }

    fn service_view(&self, record: &ServiceRecord) -> ServiceView {
        let ServiceRecord { service, before, created_at, updated_at, .. } = record;
        let observed = self.0.services.observed(&service.name);
        let (state, reason, since, observed_generation, url, answered) = match observed {
            // What was seen of an earlier generation says nothing of this one.
            Some(seen) if seen.generation == service.generation => {
                (seen.state, seen.reason, seen.since, seen.generation, seen.url, seen.answered)
            }
            Some(seen) => (
                State::Transitioning,
                "the change is on its way".into(),
                *updated_at,
                seen.generation,
                seen.url,
                vec![],
            ),
            None => (State::Transitioning, String::new(), *updated_at, 0, None, vec![]),
        };
        let revisions = service.revisions.iter().enumerate().map(|(index, revision)| RevisionView {
            model: format!("{}:{}", revision.model, revision.version),
            digest: revision.digest.clone(),
            image: revision.image.clone(),
            traffic: revision.traffic,
            answered: answered.get(index).copied().unwrap_or(0),
        });
        let mut settings = service.settings.clone();
        settings.key_hashes.clear();
        ServiceView {
            name: service.name.clone(),
            state,
            reason,
            since,
            scoring_url: url.as_deref().map(scoring_url),
            url,
            revisions: revisions.collect(),
            before: before.as_ref().map(|revision| format!("{}:{}", revision.model, revision.version)),
            generation: service.generation,
            observed_generation,
            settings,
            target: service.target.clone(),
            owner: record.owner.clone(),
            created_at: *created_at,
            updated_at: *updated_at,
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Rule(message) => Error::BadRequest(message),
            Refused::Conflict(message) => Error::conflict(message),
        }
    }
}

impl From<services::Error> for Error {
    fn from(error: services::Error) -> Self {
        use services::Error as E;
        match error {
            E::Unknown(what) => Error::NotFound(what),
            E::Planned(message) => Error::BadRequest(message),
            E::Elsewhere(_) => Error::conflict(error.to_string()),
            E::Refused { code, message } => Error::Refused { code, message },
            E::Unreachable(_) => Error::Refused { code: error.code(), message: error.to_string() },
            E::Blobs(cause) => cause.into(),
            E::Storage(cause) => cause.into(),
            other => Error::failed("the service", other.code(), other),
        }
    }
}

/// The name of the API key with which the containers of service `name` fetch versions.
fn key_name(name: &str) -> String {
    format!("service {name}")
}

/// What runs images needs one that holds the version, or one that fetches it.
fn with_image(revision: Revision, image: Option<String>, target: &Target) -> Result<Revision> {
    match (&image, target) {
        (None, Target::Kubernetes(target)) if target.image.is_empty() => Err(Error::BadRequest(format!(
            "a service on Kubernetes needs `image`, one that holds {}:{}: `muster image build` and `push` make it; or \
             an image of the agent in its target, which fetches the version from here",
            revision.model, revision.version
        ))),
        (None, Target::Kubernetes(_)) => Ok(revision),
        (Some(_), Target::Local(_)) => Err(Error::BadRequest("a local service runs no image".into())),
        _ => Ok(Revision { image, ..revision }),
    }
}

fn made_keys() -> Result<(Vec<MadeServiceKey>, Vec<ServiceKey>)> {
    let made = [made_key(WhichKey::Primary)?, made_key(WhichKey::Secondary)?];
    Ok(made.into_iter().unzip())
}

fn made_key(which: WhichKey) -> Result<(MadeServiceKey, ServiceKey)> {
    let key = format!("{PREFIX}{}", random_text::<32>()?);
    let known = ServiceKey { prefix: key.chars().take(SHOWN).collect(), created_at: crate::now() };
    Ok((MadeServiceKey { which, key }, known))
}

fn hash(key: &str) -> String {
    Digest::of(key.as_bytes()).to_string()
}
