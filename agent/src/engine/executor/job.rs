//! What waits in the executor's queue: an inference, or a scoring script's part before or after one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use muster_proto::manifest::Tensor;
use tokio::sync::oneshot;

use crate::engine::loaded::Loaded;
use crate::engine::model;
use crate::engine::sample::{Answer, Sample};
use crate::engine::script::{self, Scored, Script};

type Tensors = BTreeMap<String, Tensor>;
type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// Work for one version.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) loaded: Arc<Loaded>,
    pub(super) work: Work,
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

    pub(super) fn run(self) {
        let Job { loaded, work } = self;
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
    let (mut mirrored, mut sampled) = (None, None);
    match &outcome {
        Ok(outputs) => {
            loaded.stats.succeeded(started.elapsed());
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
