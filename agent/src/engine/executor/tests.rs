use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use muster_proto::manifest::Sample;

use super::*;
use crate::engine::testing::*;
use crate::engine::together::Wish;

fn digits_slot() -> SlotName {
    "digits".parse().expect("slot name")
}

fn slots_with(bundle: &Bundle) -> Arc<Slots> {
    let slots = Arc::new(Slots::default());
    slots.activate(digits_slot(), Arc::new(bundle.load().expect("loads")));
    slots
}

fn image() -> BTreeMap<String, Tensor> {
    named([("image", f32s(&[1, 1, 8, 8], &[0.25; 64]))])
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("runtime")
}

/// Polls once, as an executor would before it parks.
fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn requests_are_answered_and_counted() {
    let executor = Executor::start(slots_with(&Bundle::digits(1)), NonZeroUsize::new(2), 8).expect("threads");
    let (loaded, outputs) = runtime().block_on(executor.infer(&digits_slot(), image())).expect("answers");
    assert_eq!(outputs, loaded.model.run(&image()).expect("runs"));
    let counts = loaded.stats.take_window();
    assert_eq!((counts.counts.ok, counts.counts.errors, counts.queue_peak), (1, 0, 1));
    assert_eq!((executor.queued(), loaded.stats.queued()), (0, 0));
}

#[test]
fn requests_that_cannot_be_run_do_not_wait() {
    let slots = slots_with(&Bundle::digits(1));
    let executor = Executor::idle(Arc::clone(&slots), 8);
    let empty: SlotName = "empty".parse().expect("slot name");
    let Poll::Ready(Err(error)) = poll(pin!(executor.infer(&empty, image()))) else { panic!("waits") };
    assert_eq!(error.code(), Code::NoModel);
    let Poll::Ready(Err(error)) = poll(pin!(executor.infer(&digits_slot(), named([])))) else { panic!("waits") };
    assert_eq!(error.code(), Code::InputInvalid);
    let stats = &slots.get(&digits_slot()).expect("answers").stats;
    assert_eq!((stats.totals().errors, stats.totals().rejected), (0, 0), "the model did nothing wrong");
}

#[test]
fn a_full_queue_refuses_at_once_and_callers_that_left_make_room() {
    let slots = slots_with(&Bundle::digits(1));
    let loaded = slots.get(&digits_slot()).expect("answers");
    let executor = Executor::idle(slots, 2);
    let slot = digits_slot();
    let mut first = Box::pin(executor.infer(&slot, image()));
    let mut second = Box::pin(executor.infer(&slot, image()));
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    let Poll::Ready(Err(error)) = poll(pin!(executor.infer(&slot, image()))) else { panic!("waits") };
    assert_eq!(error.code(), Code::Overloaded);
    assert_eq!((loaded.stats.totals().rejected, loaded.stats.queued(), executor.queued()), (1, 2, 2));

    drop(first);
    let mut third = Box::pin(executor.infer(&slot, image()));
    assert!(poll(third.as_mut()).is_pending());
    drop(third);
    // Only the second request is still wanted: it is the only one that is run.
    executor.add_workers(1).expect("threads");
    runtime().block_on(second).expect("answers");
    let counts = loaded.stats.take_window();
    assert_eq!((counts.counts.ok, counts.counts.rejected, counts.queue_peak), (1, 1, 2));
}

#[test]
fn a_panicking_model_hurts_only_its_request() {
    let i32s =
        |value: i32| Tensor::new(muster_proto::manifest::Dtype::I32, vec![1, 2], [value.to_le_bytes(); 2].concat());
    let by = |value: i32| named([("a", i32s(6).expect("fits")), ("b", i32s(value).expect("fits"))]);
    let model = crate::engine::Model::load(&fixture("divide.onnx"), &Default::default()).expect("loads");
    let outputs = model.run(&by(2)).expect("runs");
    let golden = Sample { name: "by two".into(), inputs: by(2), outputs };
    let slots = slots_with(&Bundle::new(&fixture("divide.onnx"), vec![golden], 1));
    let executor = Executor::start(Arc::clone(&slots), NonZeroUsize::new(1), 8).expect("threads");
    let runtime = runtime();
    for _ in 0..3 {
        let error = runtime.block_on(executor.infer(&digits_slot(), by(0))).expect_err("division by zero");
        assert_eq!(error.code(), Code::InferenceFailed);
        let (_, outputs) = runtime.block_on(executor.infer(&digits_slot(), by(3))).expect("the worker lives");
        assert_eq!(outputs["q"].to_f64(), [2.0, 2.0]);
    }
    let totals = slots.get(&digits_slot()).expect("answers").stats.totals();
    assert_eq!((totals.ok, totals.errors), (3, 3));
}

#[test]
fn waiting_requests_learn_that_the_executor_is_gone() {
    let slots = slots_with(&Bundle::digits(1));
    let loaded = slots.get(&digits_slot()).expect("answers");
    let executor = Executor::idle(slots, 2);
    let (reply, answer) = oneshot::channel();
    executor
        .shared
        .submit(Job {
            loaded: Arc::clone(&loaded),
            work: Work::Infer { inputs: image(), reply },
            since: Instant::now(),
        })
        .expect("room");
    drop(executor);
    assert!(answer.blocking_recv().is_err());
    assert_eq!(loaded.stats.queued(), 0);
}

/// Invariant 2: a slot that has a working model always has one.
#[test]
fn a_switch_under_load_fails_no_request() {
    let bundles = [Bundle::digits(1), Bundle::digits(2)];
    let versions: Vec<Arc<Loaded>> = bundles.iter().map(|b| Arc::new(b.load().expect("loads"))).collect();
    let want: Vec<_> = versions.iter().map(|v| (v.digest, v.model.run(&image()).expect("runs"))).collect();
    let slots = Arc::new(Slots::default());
    slots.activate(digits_slot(), Arc::clone(&versions[0]));
    let executor = Arc::new(Executor::start(Arc::clone(&slots), NonZeroUsize::new(2), 64).expect("threads"));
    let runtime = runtime();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (executor, want) = (Arc::clone(&executor), want.clone());
            runtime.spawn(async move {
                for _ in 0..200 {
                    let (loaded, outputs) = executor.infer(&digits_slot(), image()).await.expect("no failed request");
                    assert!(want.contains(&(loaded.digest, outputs)), "an answer of neither version");
                }
            })
        })
        .collect();
    let mut switches = 0;
    while !callers.iter().all(|caller| caller.is_finished()) {
        switches += 1;
        assert!(slots.activate(digits_slot(), Arc::clone(&versions[switches % 2])).is_some());
        thread::yield_now();
    }
    for caller in callers {
        runtime.block_on(caller).expect("no panic");
    }
    let answered: Vec<u64> = versions.iter().map(|v| v.stats.totals().ok).collect();
    assert_eq!(answered.iter().sum::<u64>(), 1600);
    assert!(answered.iter().all(|count| *count > 0), "{answered:?} in {switches} switches");
}

/// A version that computes up to `size` requests at once.
fn batching(size: usize, delay: Duration) -> Arc<Loaded> {
    let bundle = wide_bundle();
    let loaded = bundle.load().expect("loads");
    let item = wide_item(1);
    let outputs = loaded.model.run(&item).expect("runs");
    let wish = Wish { size, delay };
    let made = Together::untimed(&loaded.model, bundle.folder.path(), &loaded.manifest, &[(&item, &outputs)], wish);
    *loaded.together.write().expect("not poisoned") = (Some(wish), Some(Arc::new(made.expect("a plan").0)));
    Arc::new(loaded)
}

#[test]
fn what_waits_for_one_version_is_computed_at_once() {
    let (loaded, other) = (batching(4, Duration::ZERO), Bundle::digits(1).load().expect("loads"));
    let (executor, other) = (Executor::idle(Arc::default(), 16), Arc::new(other));
    let answers = runtime().block_on(async {
        let mut waiting = Vec::new();
        for seed in 0..6 {
            waiting.push(Box::pin(executor.infer_on(Arc::clone(&loaded), wide_item(seed))));
        }
        let mut stranger = Box::pin(executor.infer_on(Arc::clone(&other), image()));
        waiting.iter_mut().for_each(|waiting| assert!(poll(waiting.as_mut()).is_pending()));
        assert!(poll(stranger.as_mut()).is_pending());
        // Its caller has gone.
        drop(waiting.remove(1));
        executor.add_workers(1).expect("a thread");
        stranger.await.expect("answers");
        let mut answers = Vec::new();
        for waiting in waiting {
            answers.push(waiting.await.expect("answers").1);
        }
        answers
    });
    for (seed, answer) in [0, 2, 3, 4, 5].into_iter().zip(answers) {
        let want = loaded.model.run(&wide_item(seed)).expect("runs");
        let close = |(got, want): (f64, f64)| (got - want).abs() < 1e-5;
        assert!(answer["y"].to_f64().into_iter().zip(want["y"].to_f64()).all(close), "{seed}");
    }
    // Four at once, and one alone behind them.
    let counts = loaded.stats.totals();
    assert_eq!((loaded.stats.batches(), counts.ok, loaded.stats.executions()), ((1, 4), 5, 2));
    assert_eq!((loaded.stats.queued(), other.stats.totals().ok), (0, 1));
}

#[test]
fn after_company_the_first_waits_for_more_but_not_behind_other_work() {
    let loaded = batching(2, Duration::from_secs(60));
    let executor = Executor::idle(Arc::default(), 16);
    let runtime = runtime();
    runtime.block_on(async {
        let ask = |seed| executor.infer_on(Arc::clone(&loaded), wide_item(seed));
        let (mut first, mut second) = (Box::pin(ask(0)), Box::pin(ask(1)));
        assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
        executor.add_workers(2).expect("threads");
        first.await.expect("answers");
        second.await.expect("answers");
        // There was company: the next one waits up to a minute, and the one after it ends the wait.
        let (first, second) = tokio::join!(ask(2), ask(3));
        assert!(first.is_ok() && second.is_ok());
        let (mut third, other) = (Box::pin(ask(4)), Arc::new(Bundle::digits(1).load().expect("loads")));
        assert!(poll(third.as_mut()).is_pending());
        // It is with one of the two threads, the other does this; or the same does it, and waits no longer.
        executor.infer_on(other, image()).await.expect("answers");
        drop(third);
    });
    assert_eq!(loaded.stats.batches(), (2, 4));
    assert!(!executor.shared.queue().closed);
}
