//! What a `ModelService` says, what follows from it, and what it is told: pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::app::{RevisionView, ServiceDocument, ServiceUpdate, ServiceView};
use crate::cluster::{Kind, Object, RESOURCE_VERSION};
use crate::domain::service::{Kubernetes, Settings, State, Target};

/// Keeps a resource until its service is gone.
const FINALIZER: &str = "muster.dev/service";
/// The kind.
const KIND: &str = "ModelService";

/// What a resource says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What answers: `NAME:VERSION`.
    pub model: String,
    /// The image that holds it; none where `kubernetes.image` fetches it.
    #[serde(default)]
    pub image: Option<String>,
    /// A version that gets a share of the requests.
    #[serde(default)]
    pub canary: Option<Canary>,
    /// How it answers.
    #[serde(default)]
    pub settings: Settings,
    /// How it runs on the cluster.
    #[serde(default)]
    pub kubernetes: Kubernetes,
}

/// A version that gets a share of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// `NAME:VERSION`.
    pub model: String,
    /// The image that holds it.
    #[serde(default)]
    pub image: Option<String>,
    /// Its share, 1 to 99.
    pub percent: u8,
}

/// One step from what is to what is wanted.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// A change.
    Update(Box<ServiceUpdate>),
    /// The canary is wanted for everything.
    Promote,
    /// The canary is not wanted any more.
    RollBack,
}

impl Spec {
    /// Reads `object`; what is wrong in words otherwise.
    pub fn read(object: &Value) -> Result<Self, String> {
        let mut spec: Self = serde_json::from_value(object["spec"].clone()).map_err(|e| format!("spec: {e}"))?;
        for model in [Some(&spec.model), spec.canary.as_ref().map(|canary| &canary.model)].into_iter().flatten() {
            let version = model.rsplit_once(':').map(|(_, version)| version.parse::<u32>());
            if !matches!(version, Some(Ok(_))) {
                return Err(format!(
                    "spec: the model {model:?} needs its version, NAME:VERSION: what is declared is not to move by itself"
                ));
            }
        }
        // The dispatcher's own matter.
        spec.settings.key_hashes.clear();
        Ok(spec)
    }

    fn target(&self, place: &Kubernetes) -> Target {
        let Kubernetes { kubeconfig, context, namespace, .. } = place.clone();
        Target::Kubernetes(Box::new(Kubernetes { kubeconfig, context, namespace, ..self.kubernetes.clone() }))
    }

    /// The service at its beginning.
    pub fn document(&self, name: &str, place: &Kubernetes) -> ServiceDocument {
        ServiceDocument {
            name: name.to_owned(),
            model: self.model.clone(),
            image: self.image.clone(),
            target: self.target(place),
            settings: self.settings.clone(),
        }
    }

    /// What brings `now` nearer; none where it is as it is to be.
    pub fn step(&self, now: &ServiceView, place: &Kubernetes) -> Result<Option<Step>, String> {
        if now.target != self.target(place) {
            return Err("spec.kubernetes cannot change: delete the ModelService and make it anew".into());
        }
        let is = |revision: &RevisionView, model: &str, image: &Option<String>| {
            revision.model == model && revision.image == *image
        };
        let update = |model: &str, image: &Option<String>, canary| {
            let (model, image) = (Some(model.to_owned()), image.clone());
            // In one step, or each pod would be made twice.
            let settings = (now.settings != self.settings).then(|| self.settings.clone());
            Some(Step::Update(Box::new(ServiceUpdate { model, image, canary, settings })))
        };
        let is_stable = now.revisions.first().is_some_and(|stable| is(stable, &self.model, &self.image));
        let step = match (&self.canary, now.revisions.get(1)) {
            (None, Some(canary)) if is(canary, &self.model, &self.image) => Some(Step::Promote),
            (None, Some(_)) if is_stable => Some(Step::RollBack),
            _ if !is_stable => update(&self.model, &self.image, None),
            (Some(want), have) => {
                let same = have.is_some_and(|have| is(have, &want.model, &want.image) && have.traffic == want.percent);
                if same { None } else { update(&want.model, &want.image, Some(want.percent)) }
            }
            (None, None) | (None, Some(_)) => None,
        };
        if step.is_some() || now.settings == self.settings {
            return Ok(step);
        }
        let settings = Some(self.settings.clone());
        Ok(Some(Step::Update(Box::new(ServiceUpdate { settings, ..ServiceUpdate::default() }))))
    }
}

/// The resource's name, which is the service's.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// How the service says whose it is.
pub fn owner(object: &Value) -> String {
    format!("{KIND} {}/{}", object["metadata"]["namespace"].as_str().unwrap_or_default(), name(object))
}

/// Whether somebody has asked for its deletion.
pub fn is_leaving(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

fn finalizers(object: &Value) -> Vec<&str> {
    let all = object["metadata"]["finalizers"].as_array();
    all.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether it stays until its service is gone.
pub fn has_finalizer(object: &Value) -> bool {
    finalizers(object).contains(&FINALIZER)
}

/// A merge patch that makes it stay. With the version that was looked at: a list is replaced as a whole.
pub fn with_finalizer(object: &Value) -> Value {
    let mut all = finalizers(object);
    all.push(FINALIZER);
    json!({ "metadata": { "finalizers": all, "resourceVersion": object["metadata"]["resourceVersion"] } })
}

/// A merge patch that lets it go.
pub fn without_finalizer(object: &Value) -> Value {
    let all: Vec<&str> = finalizers(object).into_iter().filter(|finalizer| *finalizer != FINALIZER).collect();
    json!({ "metadata": { "finalizers": all, "resourceVersion": object["metadata"]["resourceVersion"] } })
}

/// The name of the secret with a service's keys.
pub fn secret_name(name: &str) -> String {
    format!("{name}-keys")
}

/// The secret with a service's keys. It belongs to the resource and goes with it; its labels are not those of what a
/// service's plan keeps and clears away.
pub fn secret(object: &Value, primary: &str, secondary: &str) -> Object {
    let (name, namespace) = (secret_name(name(object)), object["metadata"]["namespace"].as_str().unwrap_or_default());
    let value = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": { "app.kubernetes.io/part-of": "muster" },
            "ownerReferences": [{
                "apiVersion": RESOURCE_VERSION, "kind": KIND, "name": self::name(object),
                "uid": object["metadata"]["uid"], "controller": true,
            }],
        },
        "data": { "primary": STANDARD.encode(primary), "secondary": STANDARD.encode(secondary) },
    });
    Object { kind: Kind::Secret, name, namespace: namespace.to_owned(), value }
}

/// What `object` is told: how its service is, or why there is none.
pub fn status(object: &Value, outcome: Result<&ServiceView, &str>, now: u64) -> Value {
    let generation = object["metadata"]["generation"].clone();
    let mut status = Map::new();
    let accepted = match outcome {
        Ok(view) => {
            status.insert("state".into(), json!(view.state.to_string()));
            status.insert("reason".into(), json!(view.reason));
            status.insert("url".into(), json!(view.url));
            let revision = |r: &RevisionView| json!({ "model": r.model, "digest": r.digest, "traffic": r.traffic });
            status.insert("revisions".into(), view.revisions.iter().map(revision).collect());
            let ready = view.state == State::Healthy && view.observed_generation == view.generation;
            let ready = condition(object, "Ready", ready, &view.state.to_string(), &view.reason, now);
            let accepted = condition(object, "Accepted", true, "Accepted", "it is kept as it says", now);
            vec![accepted, ready]
        }
        Err(reason) => {
            status.insert("state".into(), json!("Failed"));
            status.insert("reason".into(), json!(reason));
            // What answered before goes on; nothing of it is said anew.
            for kept in ["url", "revisions"] {
                status.extend(object["status"].get(kept).map(|value| (kept.to_owned(), value.clone())));
            }
            let accepted = condition(object, "Accepted", false, "Refused", reason, now);
            vec![accepted, condition(object, "Ready", false, "Failed", reason, now)]
        }
    };
    status.insert("observedGeneration".into(), generation);
    status.insert("conditions".into(), accepted.into());
    // What is null is not stored.
    status.retain(|_, value| !value.is_null());
    Value::Object(status)
}

/// A condition; the time of its last transition stays while its status does.
fn condition(object: &Value, kind: &str, holds: bool, reason: &str, message: &str, now: u64) -> Value {
    let status = if holds { "True" } else { "False" };
    let all = object["status"]["conditions"].as_array();
    let before = all.into_iter().flatten().find(|c| c["type"] == kind && c["status"] == status);
    let since = before.map_or_else(|| json!(time(now)), |before| before["lastTransitionTime"].clone());
    json!({
        "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since,
        "observedGeneration": object["metadata"]["generation"],
    })
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Kubernetes {
        Kubernetes { namespace: "models".into(), ..Kubernetes::default() }
    }

    fn object(spec: Value) -> Value {
        json!({
            "metadata": { "name": "digits", "namespace": "models", "uid": "u1", "generation": 3, "resourceVersion": "7" },
            "spec": spec,
        })
    }

    fn spec(value: Value) -> Spec {
        Spec::read(&object(value)).expect("good")
    }

    fn view(revisions: &[(&str, u8)], spec: &Spec) -> ServiceView {
        let revision = |(model, traffic): &(&str, u8)| RevisionView {
            model: (*model).to_owned(),
            digest: "d".into(),
            image: Some(format!("hub.example/{model}")),
            traffic: *traffic,
            answered: 0,
        };
        ServiceView {
            name: "digits".into(),
            state: State::Healthy,
            reason: String::new(),
            since: 1,
            url: Some("http://digits.models.svc".into()),
            scoring_url: None,
            revisions: revisions.iter().map(revision).collect(),
            before: None,
            generation: 2,
            observed_generation: 2,
            settings: spec.settings.clone(),
            target: spec.target(&place()),
            owner: None,
            created_at: 1,
            updated_at: 1,
        }
    }

    fn plain(version: u32) -> Value {
        json!({ "model": format!("digits:{version}"), "image": format!("hub.example/digits:{version}") })
    }

    fn with_canary(version: u32, canary: u32, percent: u8) -> Value {
        let mut value = plain(version);
        value["canary"] = plain(canary);
        value["canary"]["percent"] = json!(percent);
        value
    }

    #[test]
    fn one_step_after_the_other_leads_to_what_is_declared() {
        let table = [
            (plain(1), vec![("digits:1", 100)], "-"),
            (plain(2), vec![("digits:1", 100)], "digits:2"),
            (with_canary(1, 2, 10), vec![("digits:1", 100)], "digits:2 10%"),
            (with_canary(1, 2, 10), vec![("digits:1", 90), ("digits:2", 10)], "-"),
            (with_canary(1, 2, 30), vec![("digits:1", 90), ("digits:2", 10)], "digits:2 30%"),
            (with_canary(1, 3, 10), vec![("digits:1", 90), ("digits:2", 10)], "digits:3 10%"),
            (plain(2), vec![("digits:1", 90), ("digits:2", 10)], "promote"),
            (plain(1), vec![("digits:1", 90), ("digits:2", 10)], "roll back"),
            (plain(3), vec![("digits:1", 90), ("digits:2", 10)], "digits:3"),
            (with_canary(3, 4, 10), vec![("digits:1", 90), ("digits:2", 10)], "digits:3"),
        ];
        for (value, revisions, expected) in table {
            let spec = spec(value.clone());
            let step = spec.step(&view(&revisions, &spec), &place()).expect("possible");
            let said = match step {
                None => "-".to_owned(),
                Some(Step::Promote) => "promote".into(),
                Some(Step::RollBack) => "roll back".into(),
                Some(Step::Update(change)) => {
                    let percent = change.canary.map(|percent| format!(" {percent}%")).unwrap_or_default();
                    format!("{}{percent}", change.model.unwrap_or_default())
                }
            };
            assert_eq!(said, expected, "{value} from {revisions:?}");
        }
    }

    #[test]
    fn settings_follow_versions_and_the_target_stays() {
        let before = spec(plain(1));
        let mut changed = plain(1);
        changed["settings"] = json!({ "queue": 50, "key_hashes": ["smuggled"] });
        let changed = spec(changed);
        assert!(changed.settings.key_hashes.is_empty());
        let step = changed.step(&view(&[("digits:1", 100)], &before), &place()).expect("possible");
        let settings = Some(changed.settings.clone());
        assert_eq!(step, Some(Step::Update(Box::new(ServiceUpdate { settings, ..ServiceUpdate::default() }))));
        let mut elsewhere = plain(1);
        elsewhere["kubernetes"] = json!({ "prometheus": false, "namespace": "kube-system" });
        let elsewhere = spec(elsewhere);
        let refused = elsewhere.step(&view(&[("digits:1", 100)], &before), &place());
        assert!(refused.expect_err("a change").contains("cannot change"));
        // The namespace is the resource's own, whatever it says.
        let Target::Kubernetes(target) = elsewhere.target(&place()) else { panic!("a cluster") };
        assert_eq!(target.namespace, "models");
    }

    #[test]
    fn what_cannot_be_declared_is_said() {
        for (value, part) in [
            (json!({}), "model"),
            (json!({ "model": "digits" }), "NAME:VERSION"),
            (json!({ "model": "digits:1", "canary": { "model": "digits", "percent": 5 } }), "NAME:VERSION"),
            (json!({ "model": "digits:1", "replicas": 2 }), "replicas"),
            (json!({ "model": "digits:1", "settings": { "queue": "many" } }), "many"),
        ] {
            let error = Spec::read(&object(value)).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_status_says_how_it_is_and_keeps_the_time_of_the_last_turn() {
        let spec = spec(plain(1));
        let mut object = object(plain(1));
        let good = view(&[("digits:1", 100)], &spec);
        let status = super::status(&object, Ok(&good), 60);
        assert_eq!((&status["state"], &status["observedGeneration"]), (&json!("Healthy"), &json!(3)));
        assert_eq!(status["conditions"][1]["lastTransitionTime"], "1970-01-01T00:01:00Z");
        object["status"] = status.clone();
        assert_eq!(super::status(&object, Ok(&good), 120), status, "nothing is new");
        let bad = super::status(&object, Err("there is no version 9"), 180);
        assert_eq!((&bad["state"], &bad["url"]), (&json!("Failed"), &status["url"]));
        let ready = &bad["conditions"][1];
        assert_eq!((&ready["status"], &ready["message"]), (&json!("False"), &json!("there is no version 9")));
        assert_eq!(ready["lastTransitionTime"], "1970-01-01T00:03:00Z");
    }

    #[test]
    fn the_keys_belong_to_the_resource_and_to_no_plan() {
        let secret = secret(&object(plain(1)), "one", "two");
        assert_eq!((secret.name.as_str(), &secret.value["data"]["primary"]), ("digits-keys", &json!("b25l")));
        let metadata = &secret.value["metadata"];
        assert_eq!(
            (&metadata["ownerReferences"][0]["uid"], metadata["namespace"].as_str()),
            (&json!("u1"), Some("models"))
        );
        assert!(metadata["labels"]["app.kubernetes.io/managed-by"].is_null(), "what is managed by muster is pruned");
    }

    #[test]
    fn the_finalizer_comes_and_goes_beside_those_of_others() {
        let mut object = object(plain(1));
        object["metadata"]["finalizers"] = json!(["other/one"]);
        assert!(!has_finalizer(&object));
        let patch = with_finalizer(&object);
        assert_eq!(patch["metadata"], json!({ "finalizers": ["other/one", FINALIZER], "resourceVersion": "7" }));
        object["metadata"]["finalizers"] = patch["metadata"]["finalizers"].clone();
        assert!(has_finalizer(&object));
        assert_eq!(without_finalizer(&object)["metadata"]["finalizers"], json!(["other/one"]));
    }
}
