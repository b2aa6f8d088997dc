//! What the server stores, and every change of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fields::{Holder, Path, leaves, managed, remove, set, shown};

pub const NAMESPACES: &str = "v1/namespaces";
pub const PODS: &str = "v1/pods";

/// How a request is to fail.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Requests whose method and path, `PATCH /apis/apps/v1/…`, hold this text.
    pub holds: &'static str,
    /// How many of them.
    pub times: u32,
    /// The HTTP status.
    pub code: u16,
    /// The reason word.
    pub reason: &'static str,
    /// The message.
    pub message: &'static str,
}

/// A refusal: status, reason, message, and what a conflict is about.
#[derive(Debug)]
pub struct Refusal(pub u16, pub &'static str, pub String, pub Vec<(String, String)>);

/// One event of a watch.
#[derive(Debug, Clone)]
pub struct Event {
    pub version: u64,
    pub collection: String,
    pub namespace: String,
    pub kind: &'static str,
    pub object: Value,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    object: Value,
    holders: BTreeMap<Holder, BTreeSet<Path>>,
}

type Key = (String, String, String);

/// What the server stores.
#[derive(Debug, Default)]
pub struct Store {
    version: u64,
    uids: u64,
    objects: BTreeMap<Key, Entry>,
    events: VecDeque<Event>,
    /// Versions up to this are forgotten: a watch from one gets 410.
    compacted: u64,
    /// How requests are to fail, the first that fits.
    pub faults: Vec<Fault>,
    /// Method and path of each request.
    pub requests: Vec<String>,
    /// Raised to send a bookmark on every watch.
    pub bookmarks: u64,
    /// Raised to end every watch.
    pub cuts: u64,
    /// Collections that the cluster does not have, e.g. `gateway.networking.k8s.io/v1/httproutes`.
    pub missing: BTreeSet<String>,
    /// Objects of a page, whatever the client asks for.
    pub page: Option<usize>,
}

impl Store {
    pub fn get(&self, collection: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&key(collection, namespace, name)).map(|entry| &entry.object)
    }

    pub fn names(&self, collection: &str, namespace: &str) -> Vec<String> {
        self.list(collection, namespace)
            .iter()
            .map(|object| object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// The objects of a collection in all namespaces.
    pub fn all(&self, collection: &str) -> Vec<Value> {
        let all = self.objects.iter().filter(|((c, _, _), _)| c == collection);
        all.map(|(_, entry)| entry.object.clone()).collect()
    }

    /// Every object, with its collection.
    pub fn everything(&self) -> Vec<(String, Value)> {
        self.objects.iter().map(|((collection, _, _), entry)| (collection.clone(), entry.object.clone())).collect()
    }

    pub fn list(&self, collection: &str, namespace: &str) -> Vec<&Value> {
        let all = self.objects.iter().filter(|((c, n, _), _)| c == collection && n == namespace);
        all.map(|(_, entry)| &entry.object).collect()
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Forgets all that happened up to now: watches must list again.
    pub fn compact(&mut self) {
        self.compacted = self.version;
        self.events.clear();
    }

    /// The events after a version, or a refusal because they are forgotten.
    pub fn after(&self, version: u64) -> Result<Vec<Event>, Refusal> {
        if version < self.compacted {
            return Err(Refusal(
                410,
                "Expired",
                format!("too old resource version: {version} ({})", self.compacted),
                vec![],
            ));
        }
        Ok(self.events.iter().filter(|event| event.version > version).cloned().collect())
    }

    /// Server-side apply.
    pub fn apply(
        &mut self,
        collection: &str,
        namespace: &str,
        name: &str,
        body: &Value,
        manager: &str,
        force: bool,
    ) -> Result<Value, Refusal> {
        let key = key(collection, namespace, name);
        let old = self.objects.get(&key).cloned();
        let mut entry =
            old.clone().unwrap_or_else(|| Entry { object: skeleton(body, namespace, name), ..Entry::default() });
        let me: Holder = (manager.into(), "Apply".into(), String::new());
        let wanted = leaves(body);
        let there = leaves(&entry.object);
        let mut conflicts = Vec::new();
        for (path, value) in &wanted {
            if there.get(path) == Some(value) {
                continue;
            }
            for (holder, paths) in &mut entry.holders {
                if *holder != me && paths.contains(path) {
                    if force {
                        paths.remove(path);
                    } else {
                        conflicts.push((
                            format!("conflict with \"{}\" using {}", holder.0, body["apiVersion"]),
                            shown(path),
                        ));
                    }
                }
            }
        }
        if !conflicts.is_empty() {
            let message = format!("Apply failed with {} conflicts", conflicts.len());
            return Err(Refusal(409, "Conflict", message, conflicts));
        }
        let mine = entry.holders.remove(&me).unwrap_or_default();
        for path in mine.iter().filter(|path| !wanted.contains_key(*path)) {
            if !entry.holders.values().any(|paths| paths.contains(path)) {
                remove(&mut entry.object, path);
            }
        }
        for (path, value) in &wanted {
            set(&mut entry.object, path, value.clone());
        }
        entry.holders.insert(me, wanted.into_keys().collect());
        Ok(self.put(key, entry, old))
    }

    /// A whole object in the name of `manager`, as PUT or a patch leaves it.
    pub fn update(
        &mut self,
        collection: &str,
        body: Value,
        manager: &str,
        subresource: &str,
    ) -> Result<Value, Refusal> {
        let text = |field: &str| body["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = key(collection, &text("namespace"), &text("name"));
        let old = self.objects.get(&key).cloned();
        let current = old.as_ref().map(|entry| entry.object["metadata"]["resourceVersion"].clone());
        let given = &body["metadata"]["resourceVersion"];
        if !given.is_null() && current.as_ref() != Some(given) {
            let message = "the object has been modified; please apply your changes to the latest version and try again";
            return Err(Refusal(409, "Conflict", message.into(), vec![]));
        }
        let mut entry = old.clone().unwrap_or_default();
        let before = leaves(&entry.object);
        let after = leaves(&body);
        let me: Holder = (manager.into(), "Update".into(), subresource.into());
        let changed: BTreeSet<Path> = after
            .iter()
            .filter(|(path, value)| before.get(*path) != Some(*value))
            .map(|(path, _)| path.clone())
            .collect();
        for paths in entry.holders.values_mut() {
            paths.retain(|path| !changed.contains(path) && after.contains_key(path));
        }
        entry.holders.entry(me).or_default().extend(changed);
        entry.object = body;
        Ok(self.put(key, entry, old))
    }

    /// Changes an object in place in the name of `manager`, as a controller or `kubectl edit` would.
    pub fn edit(
        &mut self,
        collection: &str,
        name: &str,
        manager: &str,
        subresource: &str,
        edit: impl FnOnce(&mut Value),
    ) {
        let mut object =
            self.get(collection, "models", name).cloned().unwrap_or_else(|| panic!("no {collection} {name}"));
        edit(&mut object);
        self.update(collection, object, manager, subresource).expect("edited");
    }

    /// Puts an object there in the name of `manager`.
    pub fn make(&mut self, collection: &str, kind: &str, name: &str, rest: Value, manager: &str) -> Value {
        let api_version = collection.rsplit_once('/').map(|(version, _)| version).unwrap_or_default();
        let mut object = json!({ "apiVersion": api_version, "kind": kind });
        merge(&mut object, &rest);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("models");
        self.update(collection, object, manager, "").expect("made")
    }

    /// Deletion as a client asks for it. A pod that is on a node is only marked, for its kubelet to end it, and so is a
    /// namespace, for what is in it to go first; all else is gone at once.
    pub fn delete(
        &mut self,
        collection: &str,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Result<Value, Refusal> {
        let key = key(collection, namespace, name);
        let Some(entry) = self.objects.get(&key) else { return Err(not_found(collection, name)) };
        if uid.is_some_and(|uid| entry.object["metadata"]["uid"] != uid) {
            return Err(Refusal(409, "Conflict", "the UID in the precondition does not match".into(), vec![]));
        }
        let object = &entry.object;
        let ended = matches!(object["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        let on_node = collection == PODS && !object["spec"]["nodeName"].is_null() && !ended;
        let held = is_held(object);
        if !on_node && !held && collection != NAMESPACES {
            return Ok(self.remove(&key).expect("seen"));
        }
        if is_leaving(object) {
            return Ok(object.clone());
        }
        let (old, mut entry) = (entry.clone(), entry.clone());
        let grace = object["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or_default();
        entry.object["metadata"]["deletionTimestamp"] = json!(time(now() + SignedDuration::from_secs(grace)));
        if on_node {
            entry.object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        } else if collection == NAMESPACES {
            entry.object["status"]["phase"] = json!("Terminating");
        }
        Ok(self.put(key, entry, Some(old)))
    }

    /// Takes away what was marked, if it is still that very object.
    pub fn finish(&mut self, collection: &str, object: &Value) {
        let key = key(collection, namespace_of(object), name_of(object));
        if self.objects.get(&key).is_some_and(|entry| entry.object["metadata"]["uid"] == object["metadata"]["uid"]) {
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &Key) -> Option<Value> {
        let mut entry = self.objects.remove(key)?;
        self.version += 1;
        entry.object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell(key, "DELETED", entry.object.clone());
        Some(entry.object)
    }

    fn put(&mut self, key: Key, mut entry: Entry, old: Option<Entry>) -> Value {
        if key.0 == "apps/v1/deployments" && entry.object["spec"]["replicas"].is_null() {
            entry.object["spec"]["replicas"] = json!(1);
        }
        let api_version = entry.object["apiVersion"].as_str().unwrap_or_default().to_owned();
        entry.holders.retain(|_, paths| !paths.is_empty());
        entry.object["metadata"]["managedFields"] = managed(&entry.holders, &api_version);
        if let Some(old) = &old {
            for field in ["uid", "creationTimestamp", "resourceVersion"] {
                entry.object["metadata"][field] = old.object["metadata"][field].clone();
            }
            if entry.object == old.object {
                return old.object.clone();
            }
            let same_spec = entry.object["spec"] == old.object["spec"];
            let generation = old.object["metadata"]["generation"].as_i64().unwrap_or(1);
            entry.object["metadata"]["generation"] = json!(if same_spec { generation } else { generation + 1 });
        } else {
            self.uids += 1;
            entry.object["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
            entry.object["metadata"]["creationTimestamp"] = json!(time(now()));
            entry.object["metadata"]["generation"] = json!(1);
        }
        self.version += 1;
        entry.object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let object = entry.object.clone();
        if is_leaving(&object) && !is_held(&object) && old.as_ref().is_some_and(|old| is_held(&old.object)) {
            self.objects.remove(&key);
            self.tell(&key, "DELETED", object.clone());
            return object;
        }
        self.objects.insert(key.clone(), entry);
        self.tell(&key, if old.is_some() { "MODIFIED" } else { "ADDED" }, object.clone());
        object
    }

    fn tell(&mut self, key: &Key, kind: &'static str, object: Value) {
        let (collection, namespace, _) = key.clone();
        self.events.push_back(Event { version: self.version, collection, namespace, kind, object });
    }
}

/// Now, in whole seconds, as objects have it.
pub fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).expect("in range")
}

/// A time as objects have it.
pub fn time(at: Timestamp) -> String {
    at.to_string()
}

pub fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub fn namespace_of(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

/// Whether it was deleted and is not gone yet.
pub fn is_leaving(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// A merge patch (RFC 7396).
pub fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().expect("a map").remove(name);
        } else {
            merge(&mut target[name], value);
        }
    }
}

pub fn not_found(collection: &str, name: &str) -> Refusal {
    let plural = collection.rsplit('/').next().unwrap_or_default();
    Refusal(404, "NotFound", format!("{plural} \"{name}\" not found"), vec![])
}

fn skeleton(body: &Value, namespace: &str, name: &str) -> Value {
    json!({ "apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": { "name": name, "namespace": namespace } })
}

fn key(collection: &str, namespace: &str, name: &str) -> Key {
    (collection.into(), namespace.into(), name.into())
}

/// Whether a finalizer keeps it.
fn is_held(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty())
}
