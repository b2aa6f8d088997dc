//! `ModelService` resources of a cluster: each becomes a service of this dispatcher, and hears how that is.
//!
//! Whoever has a repository of manifests and a tool that applies them needs no other command. What a resource says is
//! a service's document; what follows goes through the façade as an operator's word would, so that plans, keys, audit
//! and states are the same. Resources are watched; a finalizer keeps one until its service is gone.

mod resource;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::code::Code;
use serde_json::Value;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::app::{self, App, DELETION, Delete, Deletion, Principal, Role, ServiceView};
use crate::cluster::watch::{Change, Patience};
use crate::cluster::{self, Cluster, Resource};
use crate::domain::service::Kubernetes;
use resource::{Spec, Step};

/// Where resources are looked for, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The namespaces; their services run there.
    pub namespaces: Vec<String>,
    /// The kubeconfig; none for `KUBECONFIG`, the home folder's, or the pod that this runs in.
    pub kubeconfig: Option<String>,
    /// Its context; none for the current one.
    pub context: Option<String>,
}

/// How long nothing has to happen before a resource is looked at all the same.
const LOOK: Duration = Duration::from_secs(60);

/// A resource goes when its service is gone.
const DELETE: Delete = Delete { forget: false, limit: DELETION };

/// Why a resource is not what it says.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The cluster.
    #[error("{source}; {}", .source.next_step())]
    Cluster {
        /// What it says.
        #[from]
        source: cluster::Error,
    },
    /// The dispatcher refuses.
    #[error(transparent)]
    App(#[from] app::Error),
    /// The service is not gone yet. A retry helps.
    #[error("its service is still being deleted")]
    Leaving,
    /// The resource says what cannot be. A retry cannot help.
    #[error("{0}")]
    Spec(String),
}

/// Whether a resource is still there.
enum Kept {
    /// Its service is kept.
    Here,
    /// It is being deleted, and nothing holds it any more.
    Gone,
}

/// Keeps the resources of all namespaces until it is dropped.
pub async fn run(app: App, config: Config) {
    let mut namespaces = JoinSet::new();
    for namespace in config.namespaces.clone() {
        namespaces.spawn(one_namespace(app.clone(), config.clone(), namespace));
    }
    while namespaces.join_next().await.is_some() {}
}

async fn one_namespace(app: App, config: Config, namespace: String) {
    let patience = Patience::default();
    let place =
        Kubernetes { kubeconfig: config.kubeconfig, context: config.context, namespace, ..Kubernetes::default() };
    let mut failures = 0;
    let cluster = loop {
        match Cluster::connect(&place).await {
            Ok(cluster) => break cluster,
            Err(error) => {
                failures += 1;
                tracing::error!(namespace = place.namespace, %error, next = error.next_step(), "no cluster for ModelServices");
                tokio::time::sleep(patience.pause(failures)).await;
            }
        }
    };
    let mut watching = cluster.watch_resources(&place.namespace, patience);
    let desk = Arc::new(Desk { app, cluster, place, patience, turn: Mutex::default() });
    let mut held: BTreeMap<String, watch::Sender<Arc<Value>>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    while let Some(change) = watching.next().await {
        let (all, gone) = match change {
            Change::Listed(_, all, _) => {
                let names: Vec<&str> = all.iter().map(resource::name).collect();
                let gone = held.keys().filter(|held| !names.contains(&held.as_str())).cloned().collect();
                (all, gone)
            }
            Change::Set(_, object) => (vec![*object], vec![]),
            Change::Gone(_, object) => (vec![], vec![resource::name(&object).to_owned()]),
            Change::Resumed(_) => continue,
            Change::Failed(_, error) => {
                tracing::warn!(namespace = desk.place.namespace, %error, next = error.next_step(), "ModelServices are not seen");
                continue;
            }
        };
        gone.iter().for_each(|name: &String| drop(held.remove(name)));
        for object in all {
            let (name, object) = (resource::name(&object).to_owned(), Arc::new(object));
            match held.get(&name).filter(|held| !held.is_closed()) {
                Some(held) => drop(held.send_replace(object)),
                None => {
                    let (sender, receiver) = watch::channel(object);
                    tasks.spawn(Arc::clone(&desk).keep(receiver));
                    held.insert(name, sender);
                }
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// What all resources of a namespace share.
struct Desk {
    app: App,
    cluster: Cluster,
    place: Kubernetes,
    patience: Patience,
    /// Services are made one at a time: whether a name is taken is asked before.
    turn: Mutex<()>,
}

impl Desk {
    /// Keeps one resource until its channel ends or it is gone.
    async fn keep(self: Arc<Self>, mut object: watch::Receiver<Arc<Value>>) {
        let mut failures = 0;
        loop {
            let now = Arc::clone(&object.borrow_and_update());
            let outcome = match self.look(&now).await {
                Ok(Kept::Gone) => return,
                Ok(Kept::Here) => Ok(()),
                Err(error) => Err(error),
            };
            // Before it is looked how it is: what changes while that is written is heard of afterwards.
            let news = self.app.follow_service(resource::name(&now));
            if let Err(error) = self.tell(&now, outcome.as_ref().copied()).await {
                tracing::warn!(resource = resource::name(&now), %error, "how it is cannot be written");
            }
            let changed = match outcome {
                Ok(()) => {
                    failures = 0;
                    let news = async {
                        match news {
                            Some(news) => news.wait(LOOK).await,
                            None => tokio::time::sleep(LOOK).await,
                        }
                    };
                    tokio::select! {
                        changed = object.changed() => changed,
                        () = news => Ok(()),
                    }
                }
                Err(error) => {
                    failures += 1;
                    let pause = self.patience.pause(failures);
                    tracing::warn!(resource = resource::name(&now), %error, "a ModelService is not as it says");
                    tokio::select! {
                        changed = object.changed() => { failures = 0; changed }
                        () = tokio::time::sleep(pause) => Ok(()),
                    }
                }
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Brings the service to what the resource says.
    async fn look(&self, object: &Value) -> Result<Kept, Error> {
        let name = resource::name(object).to_owned();
        let by = Principal { name: resource::owner(object), role: Role::Operator };
        if resource::is_leaving(object) {
            if resource::has_finalizer(object) {
                match self.own(&name, &by).await {
                    Ok(Some(_)) => match self.app.delete_service(&name, DELETE, &by).await? {
                        Deletion::Done => {}
                        Deletion::UnderWay => return Err(Error::Leaving),
                    },
                    // There is none, or it is somebody else's.
                    Ok(None) | Err(Error::Spec(_)) => {}
                    Err(error) => return Err(error),
                }
                self.cluster.write_resource(Resource::Itself, object, &resource::without_finalizer(object)).await?;
            }
            return Ok(Kept::Gone);
        }
        let spec = Spec::read(object).map_err(Error::Spec)?;
        if !resource::has_finalizer(object) {
            self.cluster.write_resource(Resource::Itself, object, &resource::with_finalizer(object)).await?;
        }
        let _turn = self.turn.lock().await;
        let mut view = match self.own(&name, &by).await? {
            Some(view) => view,
            None => {
                let document = spec.document(&name, &self.place);
                let created = self.app.create_service_for(document, Some(by.name.clone()), &by).await?;
                let keys = created.keys.into_iter().map(|made| made.key).collect();
                self.hand_over(object, keys).await?;
                created.service
            }
        };
        // As many steps as there can be: the stable version, the canary, the settings.
        for _ in 0..4 {
            view = match spec.step(&view, &self.place).map_err(Error::Spec)? {
                None => break,
                Some(Step::Update(change)) => self.app.update_service(&name, *change, &by).await?,
                Some(Step::Promote) => self.app.promote_service(&name, &by).await?,
                Some(Step::RollBack) => self.app.roll_back_service(&name, &by).await?,
            };
        }
        // Keys are told once; where they were lost on the way, or somebody deleted them, they are made anew.
        if view.settings.auth && !self.cluster.has_secret(&self.place.namespace, &resource::secret_name(&name)).await? {
            let mut keys = Vec::new();
            for which in [app::WhichKey::Primary, app::WhichKey::Secondary] {
                keys.push(self.app.regenerate_key(&name, which, &by).await?.key);
            }
            self.hand_over(object, keys).await?;
        }
        Ok(Kept::Here)
    }

    /// The service of that name, if there is one; an error where it is somebody else's.
    async fn own(&self, name: &str, by: &Principal) -> Result<Option<ServiceView>, Error> {
        match self.app.show_service(name).await {
            Ok(view) if view.owner.as_deref() == Some(by.name.as_str()) => Ok(Some(view)),
            Ok(view) => {
                let whose = view.owner.unwrap_or_else(|| "an operator's".into());
                Err(Error::Spec(format!(
                    "there is a service {name} already, {whose}: names are for the whole workspace"
                )))
            }
            Err(app::Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the keys where the resource's people find them.
    async fn hand_over(&self, object: &Value, keys: Vec<String>) -> Result<(), Error> {
        if let [primary, secondary] = keys.as_slice() {
            self.cluster.apply_secret(&resource::secret(object, primary, secondary)).await?;
        }
        Ok(())
    }

    /// Writes how it is, if that is news.
    async fn tell(&self, object: &Value, outcome: Result<(), &Error>) -> Result<(), Error> {
        let view = match outcome {
            Ok(()) => Ok(self.app.show_service(resource::name(object)).await?),
            Err(Error::App(error)) if error.code() == Code::Internal => Err("the dispatcher failed".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        let status = resource::status(object, view.as_ref().map_err(String::as_str), crate::now());
        if object.get("status") != Some(&status) {
            let patch = serde_json::json!({ "status": status });
            self.cluster.write_resource(Resource::Status, object, &patch).await?;
        }
        Ok(())
    }
}
