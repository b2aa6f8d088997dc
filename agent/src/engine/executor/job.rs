//! What waits in the executor's queue: an inference, or a scoring script's part before or after one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_proto::manifest::Tensor;
use tokio::sync::oneshot;

use crate::engine::loaded::Loaded;
use crate::engine::model;
use crate::engine::sample::{Answer, Sample};
use crate::engine::script::{self, Scored, Script};
use crate::engine::together::Together;

type Tensors = BTreeMap<String, Tensor>;
type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// Work for one version.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) loaded: Arc<Loaded>,
    pub(super) work: Work,
    /// When it was handed in.
    pub(super) since: Instant,
}

/// What is to be done, and who waits for it.
#[derive(Debug)]
pub(super) enum Work {
    /// The model's outputs of these inputs.
    Infer { inputs: Tensors, reply: Reply<Tensors, model::Error> },
    /// The model's inputs of this request, by its script.
    Prepare { request: Vec<u8>, reply: Reply<Tensors, script::Error> },
    /// The answer of these outputs, by the model's script.
    Finish { outputs: Tensors, reply: Reply<Vec<u8>, script::Error> },
}

impl Job {
    /// Whether somebody still waits for it.
    pub(super) fn is_wanted(&self) -> bool {
        match &self.work {
            Work::Infer { reply, .. } => !reply.is_closed(),
            Work::Prepare { reply, .. } => !reply.is_closed(),
            Work::Finish { reply, .. } => !reply.is_closed(),
        }
    }

    /// Whether its request has been computed already, so that it would be a waste to refuse it.
    pub(super) fn is_last_part(&self) -> bool {
        matches!(self.work, Work::Finish { .. })
    }

    /// How it may be computed with others, if it may.
    pub(super) fn together(&self) -> Option<Arc<Together>> {
        let Work::Infer { inputs, .. } = &self.work else { return None };
        self.loaded.together().filter(|together| together.items(inputs).is_some())
    }

    /// How many items it adds to the batch that `first` has begun; none where it does not fit there.
    pub(super) fn joins(&self, first: &Job, together: &Together) -> Option<usize> {
        match (&self.work, &first.work) {
            (Work::Infer { inputs, .. }, Work::Infer { inputs: others, .. })
                if Arc::ptr_eq(&self.loaded, &first.loaded) && Together::are_alike(inputs, others) =>
            {
                together.items(inputs)
            }
            _ => None,
        }
    }

    /// Computes inferences of one version together.
    pub(super) fn run_together(jobs: Vec<Job>, together: &Together) {
        let Some(loaded) = jobs.first().map(|job| Arc::clone(&job.loaded)) else { return };
        let parts = jobs.into_iter().filter_map(|job| match job.work {
            Work::Infer { inputs, reply } => Some((inputs, reply)),
            Work::Prepare { .. } | Work::Finish { .. } => None,
        });
        let (inputs, replies): (Vec<Tensors>, Vec<_>) = parts.unzip();
        let started = Instant::now();
        let outcomes = together.run(&loaded.model, &inputs.iter().collect::<Vec<_>>());
        let took = started.elapsed();
        loaded.stats.batched(outcomes.len());
        for ((inputs, reply), outcome) in inputs.into_iter().zip(replies).zip(outcomes) {
            conclude(&loaded, inputs, outcome, took, reply);
        }
    }

    pub(super) fn run(self) {
        let Job { loaded, work, .. } = self;
        match work {
            Work::Infer { inputs, reply } => infer(&loaded, inputs, reply),
            Work::Prepare { request, reply } => scripted(&loaded, reply, |script, scored, is_wanted| {
                script.preprocess(&request, &scored.wanted(), is_wanted)
            }),
            Work::Finish { outputs, reply } => scripted(&loaded, reply, |script, scored, is_wanted| {
                script.postprocess(&outputs, scored.transforms, is_wanted)
            }),
        }
    }
}

fn infer(loaded: &Loaded, inputs: Tensors, reply: Reply<Tensors, model::Error>) {
    let started = Instant::now();
    let outcome = loaded.model.run(&inputs);
    conclude(loaded, inputs, outcome, started.elapsed(), reply);
}

/// Counts an inference and tells its outcome.
fn conclude(
    loaded: &Loaded,
    inputs: Tensors,
    outcome: Result<Tensors, model::Error>,
    took: Duration,
    reply: Reply<Tensors, model::Error>,
) {
    let (mut mirrored, mut sampled) = (None, None);
    match &outcome {
        Ok(outputs) => {
            loaded.stats.succeeded(took);
            loaded.stats.sketch.observe(loaded.model.outputs(), outputs);
            mirrored = loaded.mirror.run().filter(|run| run.wants()).map(|run| (run, outputs.clone()));
            let sampler = loaded.mirror.sampler().filter(|sampler| sampler.wants());
            sampled = sampler.map(|sampler| (sampler, outputs.clone()));
        }
        Err(_) => loaded.stats.failed(),
    }
    // Nobody waits for it any more: that is the caller's choice.
    let _ = reply.send(outcome);
    if let Some((sampler, outputs)) = sampled {
        sampler.keep(Sample { answer: Answer::of(loaded, outputs), inputs: inputs.clone(), shadow: None });
    }
    if let Some((run, outputs)) = mirrored {
        run.offer(inputs, outputs);
    }
}

/// Runs a script's part; it ends where nobody waits for it any more. A script that fails counts as the model failing,
/// so that a rollout stops at it; a request that it refuses counts as little as one that the model's declaration refuses.
fn scripted<T>(
    loaded: &Loaded,
    reply: Reply<T, script::Error>,
    run: impl FnOnce(&Script, &Scored, &dyn Fn() -> bool) -> Result<T, script::Error>,
) {
    // Without a script nobody asks for it.
    let Some(script) = &loaded.script else { return };
    let scored = Scored { model: &loaded.model, script: Some(script), transforms: &loaded.manifest.transforms };
    let outcome = run(script, &scored, &|| !reply.is_closed());
    if outcome.as_ref().is_err_and(|error| !error.is_callers() && !reply.is_closed()) {
        loaded.stats.failed();
    }
    let _ = reply.send(outcome);
}
