//! Indexed Jobs of batch runs: made once, and followed to their end.

use serde_json::{Value, json};

use super::api::{Cluster, Collection, Selection};
use super::names::APPLIED;
use super::object::{number, text};
use super::plan::fingerprint;
use super::watch::{Change, Patience, Watching};
use super::{Error, Kind, MANAGER};

const JOBS: Collection = Collection { api_version: "batch/v1", plural: "jobs" };
const SECRETS: Collection = Collection { api_version: "v1", plural: "secrets" };

/// How far a Job is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// How many shards it has.
    pub shards: u64,
    /// How many have been scored.
    pub done: u64,
    /// How many are being scored.
    pub active: u64,
    /// Which have failed for good, as Kubernetes writes them, e.g. `1,3-5`; empty for none.
    pub failed: String,
    /// How it ended, once it has.
    pub ended: Option<Ended>,
}

/// How a Job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Each shard has been scored.
    Complete,
    /// Some have failed; the cluster's reason.
    Failed(String),
    /// Somebody has deleted it.
    Gone,
}

impl Standing {
    /// What `job`, a batch/v1 Job, tells of itself.
    pub fn of(job: &Value) -> Self {
        let conditions = job.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
        let ended = conditions.filter(|condition| text(condition, "/status") == "True").find_map(|condition| {
            let because = || format!("{} ({})", text(condition, "/message"), text(condition, "/reason"));
            match text(condition, "/type") {
                "Complete" => Some(Ended::Complete),
                "Failed" => Some(Ended::Failed(because())),
                _ => None,
            }
        });
        let count = |pointer: &str| u64::try_from(number(job, pointer)).unwrap_or_default();
        Self {
            shards: count("/spec/completions"),
            done: count("/status/succeeded"),
            active: count("/status/active"),
            failed: text(job, "/status/failedIndexes").to_owned(),
            ended,
        }
    }
}

impl Cluster {
    /// Makes the Job among `objects`, and beside it the Secret that goes when it goes; false where that very one is there
    /// already. A Job of that name from other words is left alone, and so is another's Secret.
    pub async fn make_job(&self, objects: &[Value]) -> Result<bool, Error> {
        let digest = fingerprint(&json!(objects));
        let is = |kind: &'static str| move |object: &&Value| text(object, "/kind") == kind;
        let Some(job) = objects.iter().find(is("Job")) else { return Ok(false) };
        let (namespace, name) = (text(job, "/metadata/namespace"), text(job, "/metadata/name"));
        let subject = format!("Job {namespace}/{name}");
        match self.request(&subject, "GET", &format!("{}/{name}", JOBS.path(namespace)), None, "").await {
            Err(Error::Missing { .. }) => {}
            Err(error) => return Err(error),
            Ok(live) if !live["metadata"]["deletionTimestamp"].is_null() => {
                return Err(Error::Taken { subject, owner: "of a run that is being deleted".into() });
            }
            Ok(live) if live["metadata"]["annotations"][APPLIED] == digest.as_str() => return Ok(false),
            Ok(_) => return Err(Error::Taken { subject, owner: "of a run with other words".into() }),
        }
        let secret = objects.iter().find(is("Secret"));
        if let Some(secret) = secret {
            let live = self.get(Kind::Secret, namespace, name).await?;
            if live.is_some_and(|live| live["metadata"]["labels"] != secret["metadata"]["labels"]) {
                return Err(Error::Taken {
                    subject: format!("Secret {namespace}/{name}"),
                    owner: "not of a run".into(),
                });
            }
            self.apply_to(SECRETS, secret).await?;
        }
        let mut marked = job.clone();
        marked["metadata"]["annotations"][APPLIED] = json!(digest);
        let live = self.apply_to(JOBS, &marked).await?;
        if let Some(secret) = secret {
            let mut owned = secret.clone();
            let uid = text(&live, "/metadata/uid");
            owned["metadata"]["ownerReferences"] =
                json!([{ "apiVersion": JOBS.api_version, "kind": "Job", "name": name, "uid": uid }]);
            self.apply_to(SECRETS, &owned).await?;
        }
        Ok(true)
    }

    async fn apply_to(&self, of: Collection, object: &Value) -> Result<Value, Error> {
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let path = format!("{}/{name}?fieldManager={MANAGER}&force=true&fieldValidation=Strict", of.path(namespace));
        let subject = format!("{} {namespace}/{name}", text(object, "/kind"));
        self.request(&subject, "PATCH", &path, Some(object), "application/apply-patch+yaml").await
    }

    /// Follows the Job `name` until it has ended. A cluster that does not answer is waited for, and `told` with the reason;
    /// what cannot be mended by waiting is an error.
    pub async fn follow_job(
        &self,
        namespace: &str,
        name: &str,
        patience: Patience,
        mut told: impl FnMut(&Standing, Option<&Error>),
    ) -> Result<Standing, Error> {
        let which = Selection { labels: String::new(), fields: format!("metadata.name={name}") };
        let mut watching = Watching::start(self, namespace, vec![(JOBS, which)], patience);
        let mut standing = Standing::default();
        while let Some(change) = watching.next().await {
            let trouble = match change {
                Change::Listed(_, all, _) => {
                    let gone = Standing { ended: Some(Ended::Gone), ..standing.clone() };
                    standing = all.first().map_or(gone, Standing::of);
                    None
                }
                Change::Set(_, job) => {
                    standing = Standing::of(&job);
                    None
                }
                Change::Gone(..) => {
                    standing.ended.get_or_insert(Ended::Gone);
                    None
                }
                Change::Resumed(_) => None,
                Change::Failed(_, error) if error.is_transient() => Some(error),
                Change::Failed(_, error) => return Err(error),
            };
            told(&standing, trouble.as_ref());
            if standing.ended.is_some() {
                break;
            }
        }
        Ok(standing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_tells_how_far_it_is() {
        let job = |status: Value| Standing::of(&json!({ "spec": { "completions": 4 }, "status": status }));
        assert_eq!(job(json!({})), Standing { shards: 4, ..Standing::default() });
        let under_way = job(json!({ "active": 2, "succeeded": 1, "failedIndexes": "3" }));
        assert_eq!((under_way.done, under_way.active, under_way.failed.as_str()), (1, 2, "3"));
        assert_eq!(under_way.ended, None);
        let condition = |kind: &str, status: &str| {
            json!({ "conditions": [
                { "type": kind, "status": status, "reason": "FailedIndexes", "message": "Job has failed indexes" },
            ] })
        };
        assert_eq!(job(condition("Complete", "True")).ended, Some(Ended::Complete));
        assert_eq!(job(condition("Complete", "False")).ended, None);
        assert_eq!(job(condition("FailureTarget", "True")).ended, None);
        let failed = job(condition("Failed", "True")).ended;
        assert_eq!(failed, Some(Ended::Failed("Job has failed indexes (FailedIndexes)".into())));
    }
}
