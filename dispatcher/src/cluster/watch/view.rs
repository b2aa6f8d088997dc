//! Everything that the watches of a namespace have seen: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::api::Collection;
use super::super::compare::difference;
use super::super::names::SERVICE;
use super::super::object::text;
use super::super::plan;
use super::super::state::Observed;
use super::super::{Error, Kind};
use super::{Change, EVENTS, PODS, REPLICA_SETS};
use crate::domain::service::Service;

/// Warnings that are kept; a cluster forgets them after an hour by itself.
const MAX_EVENTS: usize = 5000;

/// Everything that the watches of a namespace have seen.
#[derive(Debug, Default)]
pub struct View {
    seen: BTreeMap<Collection, BTreeMap<String, Value>>,
    listed: BTreeSet<Collection>,
    failed: BTreeMap<Collection, Error>,
}

impl View {
    /// Takes a change in; the services that it may concern.
    pub fn take(&mut self, change: Change) -> BTreeSet<String> {
        match change {
            Change::Listed(of, objects, list) => {
                self.failed.remove(&of);
                self.listed.insert(of);
                let mut new: BTreeMap<String, Value> =
                    objects.into_iter().map(|object| (name(&object), object)).collect();
                let list = list.parse().ok();
                let mut concerned = BTreeSet::new();
                for (name, old) in self.seen.remove(&of).unwrap_or_default() {
                    concerned.extend(self.service_of(of, &old));
                    // What was noted after the list was made is newer than the list.
                    let newer = new.get(&name).map_or(list, version) < version(&old);
                    if newer {
                        new.insert(name, old);
                    }
                }
                concerned.extend(new.values().filter_map(|object| self.service_of(of, object)));
                self.seen.insert(of, new);
                concerned
            }
            Change::Set(of, object) => {
                self.failed.remove(&of);
                let concerned = self.service_of(of, &object);
                let all = self.seen.entry(of).or_default();
                let known = all.get(&name(&object));
                if known.is_some_and(|known| version(known) > version(&object)) {
                    return BTreeSet::new();
                }
                all.insert(name(&object), *object);
                if of == EVENTS && all.len() > MAX_EVENTS {
                    all.pop_first();
                }
                concerned.into_iter().collect()
            }
            Change::Gone(of, object) => {
                self.failed.remove(&of);
                let concerned = self.service_of(of, &object);
                self.seen.entry(of).or_default().remove(&name(&object));
                concerned.into_iter().filter(|_| of != EVENTS).collect()
            }
            Change::Resumed(of) => {
                self.failed.remove(&of);
                BTreeSet::new()
            }
            Change::Failed(of, error) => {
                self.failed.insert(of, error);
                BTreeSet::new()
            }
        }
    }

    /// Takes in objects as an apply of ours left them. A watch tells of them later, and of what was before them.
    pub(super) fn note(&mut self, live: Vec<(Kind, Value)>) {
        for (kind, object) in live {
            self.seen.entry(kind.into()).or_default().insert(name(&object), object);
        }
    }

    /// Whether everything has been seen at least once.
    pub fn is_whole(&self) -> bool {
        let needed = [Kind::Deployment, Kind::Service, Kind::Secret, Kind::ConfigMap].map(Collection::from);
        needed.into_iter().chain([PODS, REPLICA_SETS, EVENTS]).all(|of| self.listed.contains(&of))
    }

    /// Why what is seen may be old: the first of the watches that fail.
    pub fn failure(&self) -> Option<&Error> {
        self.failed.values().next()
    }

    /// What is seen of `service`.
    pub fn observed(&self, service: &Service) -> Observed {
        let of = |collection: Collection| -> Vec<Value> {
            let objects = self.seen.get(&collection).into_iter().flat_map(BTreeMap::values);
            objects
                .filter(|object| self.service_of(collection, object).as_deref() == Some(&service.name))
                .cloned()
                .collect()
        };
        Observed {
            deployments: of(Kind::Deployment.into()),
            replica_sets: of(REPLICA_SETS),
            pods: of(PODS),
            events: of(EVENTS),
        }
    }

    /// The objects of `service` that are gone or not as they were applied, with the first field.
    ///
    /// Kinds that are not watched do not count.
    pub fn drift(&self, service: &Service) -> Result<BTreeMap<String, String>, Error> {
        let mut drift = BTreeMap::new();
        for object in plan(service)? {
            let of = Collection::from(object.kind);
            let Some(all) = self.seen.get(&of).filter(|_| self.listed.contains(&of)) else { continue };
            let found = match all.get(&object.name) {
                None => Some("it is gone".to_owned()),
                Some(live) if !text(live, "/metadata/deletionTimestamp").is_empty() => None,
                Some(live) => difference(&object.value, live),
            };
            if let Some(field) = found {
                drift.insert(object.subject(), field);
            }
        }
        Ok(drift)
    }

    /// Whether there is anything of `service` that it does not want.
    pub fn has_surplus(&self, service: &Service) -> Result<bool, Error> {
        let wanted: BTreeSet<(Kind, String)> =
            plan(service)?.into_iter().map(|object| (object.kind, object.name)).collect();
        Ok(Kind::ALL.into_iter().any(|kind| {
            let of = Collection::from(kind);
            let mut live = self.seen.get(&of).into_iter().flatten();
            live.any(|(name, object)| {
                self.service_of(of, object).as_deref() == Some(&service.name)
                    && text(object, "/metadata/deletionTimestamp").is_empty()
                    && !wanted.contains(&(kind, name.clone()))
            })
        }))
    }

    /// The service that an object belongs to; an event belongs to the pod or the set that it is about.
    fn service_of(&self, of: Collection, object: &Value) -> Option<String> {
        if of != EVENTS {
            let label = object.pointer("/metadata/labels")?.get(SERVICE)?;
            return label.as_str().map(str::to_owned);
        }
        let about = match text(object, "/involvedObject/kind") {
            "Pod" => PODS,
            "ReplicaSet" => REPLICA_SETS,
            "Deployment" => Kind::Deployment.into(),
            _ => return None,
        };
        let subject = self.seen.get(&about)?.get(text(object, "/involvedObject/name"))?;
        subject.pointer("/metadata/labels")?.get(SERVICE)?.as_str().map(str::to_owned)
    }
}

fn name(object: &Value) -> String {
    text(object, "/metadata/name").to_owned()
}

/// A version as a number: every server counts, though the words of the API say only that it may be compared for
/// equality. One that does not is believed in the order in which it tells.
fn version(object: &Value) -> Option<u64> {
    text(object, "/metadata/resourceVersion").parse().ok()
}
