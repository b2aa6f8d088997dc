//! Micro-batches: requests of several callers that wait at the same time are computed together, where that is faster.
//!
//! A version gets a second plan, for as many items as a batch may have. It is used only if the engine takes it, if the
//! golden samples come out of it as they are recorded, and if it is quicker than one item after another. That is measured
//! on each machine: tract's plan for one item is often the faster one, so a batch is no gain by itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use muster_proto::manifest::{BundleManifest, Tensor, TensorSpec, Tolerance};

use super::model::{self, Model};
use super::{onnx, probe};

/// The largest batch.
pub const MAX_SIZE: usize = 256;
/// The longest time for which the first request of a batch waits for others.
pub const MAX_DELAY: Duration = Duration::from_secs(1);
/// A batch has to save at least this share of the time, in percent, to be worth its memory.
const GAIN: u32 = 10;
/// How often each way is timed; the best counts.
const ROUNDS: usize = 3;

type Tensors = BTreeMap<String, Tensor>;

/// What is asked for, as Triton's dynamic batcher calls it: `max_batch_size` and `max_queue_delay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The most items of a batch; below two there is none.
    pub size: usize,
    /// How long the first request waits for others, at most.
    pub delay: Duration,
}

/// Why requests of a version are computed one by one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its inputs and outputs do not share a first dimension of any size.
    #[error("the model has no batch dimension")]
    NoDimension,
    /// The engine makes no plan for so many items, or does not run it.
    #[error("the engine does not run {size} items at once: {source}")]
    Plan {
        /// How many.
        size: usize,
        /// Its reason.
        source: Box<model::Error>,
    },
    /// The golden samples hold no item that could be tried.
    #[error("no golden sample holds an item to try")]
    NoSample,
    /// An item comes out otherwise among others than alone.
    #[error("items come out otherwise in a batch than alone: {0}")]
    Differs(String),
    /// It would gain nothing.
    #[error("{size} items take {batch:?} at once and {single:?} each alone")]
    NoGain {
        /// How many.
        size: usize,
        /// The time of a batch.
        batch: Duration,
        /// The time of one item.
        single: Duration,
    },
}

/// How a version computes several requests at once.
#[derive(Debug)]
pub struct Together {
    wish: Wish,
    /// A plan for exactly that many items; none where the version's own takes any number.
    plan: Option<Model>,
    /// What one item takes alone.
    single: Duration,
    /// What a full batch takes.
    batch: Duration,
    /// Whether there was company in the last batch: only then is waiting for more worth the delay.
    has_company: AtomicBool,
}

impl Together {
    /// Makes and tries the plan for `model`, whose verified bundle lies in `folder`, on `samples`, inputs and outputs.
    ///
    /// It blocks for as long as loading does.
    pub fn build(
        model: &Model,
        folder: &Path,
        manifest: &BundleManifest,
        samples: &[(&Tensors, &Tensors)],
        wish: Wish,
    ) -> Result<Self, Error> {
        let (mut together, item) = Self::untimed(model, folder, manifest, samples, wish)?;
        let unfit = |source: model::Error| Error::Plan { size: wish.size, source: Box::new(source) };
        let inputs = vec![&item; wish.size];
        together.single = fastest(|| model.run(&item)).map_err(unfit)?;
        together.batch = fastest(|| together.compute(model, &inputs)).map_err(unfit)?;
        let (size, batch, single) = (wish.size, together.batch, together.single);
        if batch * 100 > single * (size as u32) * (100 - GAIN) {
            return Err(Error::NoGain { size, batch, single });
        }
        Ok(together)
    }

    /// Without a look at the times, as if a batch took none; and an item.
    pub(super) fn untimed(
        model: &Model,
        folder: &Path,
        manifest: &BundleManifest,
        samples: &[(&Tensors, &Tensors)],
        wish: Wish,
    ) -> Result<(Self, Tensors), Error> {
        let unfit = |source: model::Error| Error::Plan { size: wish.size, source: Box::new(source) };
        if model.batch_dimension().is_none() {
            return Err(Error::NoDimension);
        }
        let plan = match model.runs_item_by_item() {
            false => None,
            true => {
                let entry = folder.join(manifest.entry.as_str());
                let mut recipe = manifest.engine.load.clone();
                for shape in recipe.input_shapes.values_mut() {
                    shape.iter_mut().take(1).for_each(|first| *first = wish.size as u64);
                }
                let proto = onnx::read(&entry).map_err(unfit)?;
                let plan = Model::build(&entry, &proto, &recipe);
                Some(plan.map_err(|fault| unfit(model::Error::unsupported(&entry, Some(&proto), &fault)))?)
            }
        };
        let items: Vec<(Tensors, Tensors)> =
            samples.iter().flat_map(|(inputs, outputs)| cut(inputs, outputs)).collect();
        if items.is_empty() {
            return Err(Error::NoSample);
        }
        let chosen: Vec<&(Tensors, Tensors)> = items.iter().cycle().take(wish.size).collect();
        let inputs: Vec<&Tensors> = chosen.iter().map(|(inputs, _)| inputs).collect();
        let (single, batch) = (Duration::from_secs(1), Duration::ZERO);
        let together = Self { wish, plan, single, batch, has_company: AtomicBool::new(false) };
        let outputs = together.compute(model, &inputs).map_err(unfit)?;
        check(&chosen, &outputs, manifest.samples.tolerance)?;
        Ok((together, inputs[0].clone()))
    }

    /// What was asked for.
    pub fn wish(&self) -> Wish {
        self.wish
    }

    /// What its plan takes beside the version's own, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.plan.as_ref().map_or(0, Model::memory_bytes)
    }

    /// What one item takes alone, and what a full batch takes.
    pub fn times(&self) -> (Duration, Duration) {
        (self.single, self.batch)
    }

    /// How long the first request of a batch may wait for others.
    pub(super) fn patience(&self) -> Duration {
        if self.has_company.load(Ordering::Relaxed) { self.wish.delay } else { Duration::ZERO }
    }

    /// How many items a request has that may share a batch; none where it is to be computed alone.
    pub(super) fn items(&self, inputs: &Tensors) -> Option<usize> {
        let first = inputs.values().next()?.shape().first()?;
        let count = usize::try_from(*first).ok()?;
        let alike = inputs.values().all(|tensor| tensor.shape().first() == Some(first));
        (alike && (1..self.wish.size).contains(&count)).then_some(count)
    }

    /// Whether two requests may stand in one batch: all their sizes but the first are the same.
    pub(super) fn are_alike(one: &Tensors, other: &Tensors) -> bool {
        one.len() == other.len()
            && one.iter().all(|(name, tensor)| {
                other.get(name).is_some_and(|other| tensor.shape().get(1..) == other.shape().get(1..))
            })
    }

    /// The outputs of each request. One that fails among others is tried alone, so that each gets what is its own.
    pub(super) fn run(&self, model: &Model, requests: &[&Tensors]) -> Vec<Result<Tensors, model::Error>> {
        self.has_company.store(requests.len() > 1, Ordering::Relaxed);
        let alone = || requests.iter().map(|inputs| model.run(inputs)).collect();
        let items: usize = requests.iter().filter_map(|inputs| self.items(inputs)).sum();
        if requests.len() < 2 || self.plan.is_some() && self.single * (items as u32) <= self.batch {
            return alone();
        }
        match self.compute(model, requests) {
            Ok(outputs) => outputs.into_iter().map(Ok).collect(),
            Err(_) => alone(),
        }
    }

    /// Runs them as one.
    fn compute(&self, model: &Model, requests: &[&Tensors]) -> Result<Vec<Tensors>, model::Error> {
        let counts: Vec<usize> = requests.iter().map(|inputs| first_size(inputs)).collect();
        let given: usize = counts.iter().sum();
        let (model, size) = match &self.plan {
            Some(plan) => (plan, self.wish.size),
            None => (model, given),
        };
        let joined = model.inputs().iter().map(|spec| Ok((spec.name.clone(), join(spec, requests, given, size)?)));
        let outputs = model.run(&joined.collect::<Result<Tensors, model::Error>>()?)?;
        let mut from = 0;
        let mut parts = Vec::with_capacity(requests.len());
        for count in counts {
            let part = |(name, tensor): (&String, &Tensor)| Ok((name.clone(), slice(tensor, from, count, size)?));
            parts.push(outputs.iter().map(part).collect::<Result<Tensors, model::Error>>()?);
            from += count;
        }
        Ok(parts)
    }
}

fn first_size(tensors: &Tensors) -> usize {
    let first = tensors.values().next().and_then(|tensor| tensor.shape().first().copied());
    first.and_then(|size| usize::try_from(size).ok()).unwrap_or(0)
}

fn no_batch(reason: String) -> model::Error {
    model::Error::Failed { node: None, reason }
}

/// The input `spec` of all requests one after another, filled up to `size` items by the last one.
fn join(spec: &TensorSpec, requests: &[&Tensors], given: usize, size: usize) -> Result<Tensor, model::Error> {
    let lacks = || no_batch(format!("a request lacks input {:?}", spec.name));
    let first = requests.first().and_then(|inputs| inputs.get(&spec.name)).ok_or_else(lacks)?;
    let mut shape = first.shape().to_vec();
    shape.iter_mut().take(1).for_each(|first| *first = size as u64);
    let mut data = Vec::new();
    for inputs in requests {
        data.extend_from_slice(inputs.get(&spec.name).ok_or_else(lacks)?.data());
    }
    let item = data.len() / given.max(1);
    let last = data.len() - item;
    for _ in given..size {
        data.extend_from_within(last..last + item);
    }
    Tensor::new(first.dtype(), shape, data).map_err(|error| no_batch(error.to_string()))
}

/// `count` items of `tensor` from `from` on, which has `all`.
fn slice(tensor: &Tensor, from: usize, count: usize, all: usize) -> Result<Tensor, model::Error> {
    if tensor.shape().first() != Some(&(all as u64)) {
        return Err(no_batch(format!("an output of shape {:?} for {all} items", tensor.shape())));
    }
    let item = tensor.data().len() / all.max(1);
    let mut shape = tensor.shape().to_vec();
    shape[0] = count as u64;
    let data = tensor.data()[from * item..(from + count) * item].to_vec();
    Tensor::new(tensor.dtype(), shape, data).map_err(|error| no_batch(error.to_string()))
}

/// The single items of a sample; none where its tensors do not agree on how many there are.
fn cut(inputs: &Tensors, outputs: &Tensors) -> Vec<(Tensors, Tensors)> {
    let all = first_size(inputs);
    let part = |tensors: &Tensors, index: usize| -> Option<Tensors> {
        tensors.iter().map(|(name, tensor)| Some((name.clone(), slice(tensor, index, 1, all).ok()?))).collect()
    };
    (0..all).filter_map(|index| Some((part(inputs, index)?, part(outputs, index)?))).collect()
}

/// Holds what came out against what is recorded.
fn check(wanted: &[&(Tensors, Tensors)], got: &[Tensors], tolerance: Tolerance) -> Result<(), Error> {
    for ((_, wanted), got) in wanted.iter().zip(got) {
        for (name, tensor) in wanted {
            let differs = |why: String| Error::Differs(format!("output {name:?}: {why}"));
            let got = got.get(name).ok_or_else(|| differs("there is none".into()))?;
            let found = probe::compare(tensor, got, tolerance, &mut 0.0);
            found.map_err(|difference| {
                let (sample, output) = ("in a batch".to_owned(), name.clone());
                Error::Differs(probe::Mismatch { sample, output, difference }.to_string())
            })?;
        }
    }
    Ok(())
}

fn fastest<T>(run: impl Fn() -> Result<T, model::Error>) -> Result<Duration, model::Error> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        run()?;
        best = best.min(started.elapsed());
    }
    Ok(best)
}

#[cfg(test)]
mod tests;
