use muster_proto::desired::Real;
use muster_proto::manifest::Sample;

use super::*;
use crate::engine::testing::*;
use crate::engine::{Executor, Slots};

fn terms(rule: Agreement) -> ShadowTerms {
    ShadowTerms { seconds: 0, inferences: 0, share_permille: 1000, cpu_permille: 1000, memory_bytes: 0, rule }
}

fn slot() -> SlotName {
    "digits".parse().expect("slot name")
}

fn digits_model(version: u32) -> Arc<Loaded> {
    Arc::new(Bundle::digits(version).load().expect("loads"))
}

fn image() -> Tensors {
    named([("image", f32s(&[1, 1, 8, 8], &[0.25; 64]))])
}

fn start(shadow: &Arc<Loaded>, terms: ShadowTerms) -> Arc<Run> {
    Run::start(slot(), &digits_model(1), Arc::clone(shadow), terms).expect("a thread")
}

/// An answer with another best class than `own`, which `shadow` gave.
fn other_than(shadow: &Loaded, own: &Tensors) -> Tensors {
    let name = own.keys().next().expect("an output");
    let best = sketch::rows(shadow.model.outputs(), own)[0].top1;
    let mut values = [0.0; 10];
    values[(best + 1) % 10] = 1.0;
    named([(name.as_str(), f32s(&[1, 10], &values))])
}

/// Offers a request until the thread takes it, and waits until it is done.
fn mirror(run: &Run, inputs: &Tensors, answer: &Tensors) {
    let done = |run: &Run| run.counts().compared + run.counts().failed;
    let before = done(run);
    let deadline = Instant::now() + Duration::from_secs(20);
    while done(run) == before {
        assert!(Instant::now() < deadline, "the shadow does not answer");
        if run.shared.busy_since.load(Relaxed) == 0 {
            let _ = run.sender.try_send((inputs.clone(), answer.clone()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    while run.shared.busy_since.load(Relaxed) != 0 {
        thread::yield_now();
    }
}

#[test]
fn equal_answers_agree_and_others_do_not() {
    let shadow = digits_model(2);
    let run = start(&shadow, terms(Agreement::Top1));
    let own = shadow.model.run(&image()).expect("runs");
    mirror(&run, &image(), &own);
    mirror(&run, &image(), &other_than(&shadow, &own));
    let window = run.take_window();
    assert_eq!((window.compared, window.agreed, window.failed), (2, 1, 0));
    assert_eq!((window.digest, window.latency.iter().sum::<u64>()), (shadow.digest, 2));
    assert_eq!(run.take_window().compared, 0, "it is taken once");
    assert_eq!(run.counts().compared, 2);
}

#[test]
fn rules_tell_what_agrees() {
    let of = |values: &[f32]| named([("y", f32s(&[1, values.len() as u64], values))]);
    let near = Agreement::Tolerance { absolute: Real(0.5) };
    let half = Agreement::Overlap { permille: 500 };
    let nan = f32::NAN;
    let table = [
        (Agreement::Top1, vec![1.0, 2.0], vec![5.0, 9.0], true),
        (Agreement::Top1, vec![1.0, 2.0], vec![2.0, 1.0], false),
        (Agreement::Top1, vec![1.0, 2.0], vec![1.0, 2.0, 0.0], false),
        (near, vec![1.0, 2.0], vec![1.5, 1.5], true),
        (near, vec![1.0, 2.0], vec![1.0, 2.6], false),
        (near, vec![1.0, nan], vec![1.0, nan], true),
        (near, vec![1.0, nan], vec![1.0, 2.0], false),
        (half, vec![1.0, 2.0], vec![1.0005, 7.0], true),
        (half, vec![1.0, 2.0, 3.0], vec![1.0, 7.0, 7.0], false),
    ];
    let spec = muster_proto::manifest::TensorSpec {
        name: "y".into(),
        dtype: muster_proto::manifest::Dtype::F32,
        shape: vec![],
    };
    for (rule, one, other, want) in table {
        let (one, other) = (of(&one), of(&other));
        let specs = std::slice::from_ref(&spec);
        let (ones, others) = (sketch::rows(specs, &one), sketch::rows(specs, &other));
        assert_eq!(agree(rule, &one, &other, &ones, &others), want, "{rule:?}: {one:?} and {other:?}");
    }
}

#[test]
fn errors_and_panics_are_counted_and_end_nothing() {
    let i32s =
        |value: i32| Tensor::new(muster_proto::manifest::Dtype::I32, vec![1, 2], [value.to_le_bytes(); 2].concat());
    let by = |value: i32| named([("a", i32s(6).expect("fits")), ("b", i32s(value).expect("fits"))]);
    let model = crate::engine::Model::load(&fixture("divide.onnx"), &Default::default()).expect("loads");
    let outputs = model.run(&by(2)).expect("runs");
    let golden = Sample { name: "by two".into(), inputs: by(2), outputs: outputs.clone() };
    let shadow = Arc::new(Bundle::new(&fixture("divide.onnx"), vec![golden], 1).load().expect("loads"));
    let run = start(&shadow, terms(Agreement::Tolerance { absolute: Real(0.0) }));
    mirror(&run, &by(0), &outputs);
    mirror(&run, &named([]), &outputs);
    mirror(&run, &by(2), &outputs);
    let counts = run.counts();
    assert_eq!((counts.failed, counts.compared, counts.agreed), (2, 1, 1), "a division by zero makes the engine panic");
}

#[test]
fn a_share_of_the_requests_is_taken_by_number() {
    for (share, want) in [(0, 0), (1, 1), (50, 50), (333, 333), (1000, 1000)] {
        let run = start(&digits_model(1), ShadowTerms { share_permille: share, ..terms(Agreement::Top1) });
        let taken: Vec<usize> = (0..1000).filter(|_| run.wants()).collect();
        assert_eq!(taken.len(), want, "{share} of 1000");
        let again = start(&digits_model(1), ShadowTerms { share_permille: share, ..terms(Agreement::Top1) });
        assert_eq!(taken, (0..1000).filter(|_| again.wants()).collect::<Vec<_>>(), "the same ones each time");
    }
}

#[test]
fn what_is_over_the_budget_is_left_out() {
    let second = Duration::from_secs;
    let mut budget = Budget::new(100);
    assert!(budget.allows(second(1)));
    budget.spend(Duration::from_millis(700));
    assert!(!budget.allows(second(1)), "0.6 s may be owed");
    assert!(!budget.allows(Duration::from_millis(1_900)));
    assert!(budget.allows(second(2)), "a tenth of a second is earned in one");
    budget.spend(second(6));
    assert!(!budget.allows(second(50)));
    assert!(budget.allows(second(62)));
    // Spending all that is allowed for an hour takes the share and the one burst.
    let (mut budget, mut spent) = (Budget::new(100), 0);
    for step in 0..360_000u64 {
        if budget.allows(Duration::from_millis(step * 10)) {
            budget.spend(Duration::from_millis(10));
            spent += 10;
        }
    }
    assert!((360_000..=360_000 + 620).contains(&spent), "{spent} ms of an hour");
    assert!(!Budget::new(0).allows(second(9)));

    let run = start(&digits_model(1), ShadowTerms { cpu_permille: 1, ..terms(Agreement::Top1) });
    run.shared.budget().spend(second(100));
    assert!(!run.wants());
    assert_eq!(run.counts().skipped, 1);
}

#[test]
fn what_comes_while_it_is_busy_is_left_out() {
    let run = start(&digits_model(1), terms(Agreement::Top1));
    run.shared.busy_since.store(1, Relaxed);
    assert!(!run.wants());
    assert_eq!(run.counts().skipped, 1);
}

#[test]
fn it_does_not_start_without_memory() {
    let mut shadow = Bundle::digits(1).load().expect("loads");
    shadow.manifest.measured.memory_bytes = 1000;
    let terms = ShadowTerms { memory_bytes: 500, ..terms(Agreement::Top1) };
    for (available, refused) in [(1499, true), (1500, false), (0, false)] {
        let code = refusal(&shadow, &terms, available).map(|f| f.code);
        assert_eq!(code, refused.then_some(Code::ShadowOverBudget), "{available} bytes");
    }
    assert!(refusal(&shadow, &ShadowTerms { cpu_permille: 0, ..terms }, 0).is_some());
}

#[test]
fn it_ends_by_count_by_time_and_when_it_hangs() {
    let shadow = digits_model(1);
    let own = shadow.model.run(&image()).expect("runs");
    let run = start(&shadow, ShadowTerms { inferences: 2, ..terms(Agreement::Top1) });
    mirror(&run, &image(), &own);
    assert!(!run.is_over() && run.wants());
    mirror(&run, &image(), &own);
    assert!(run.is_over() && !run.wants());

    let timed = |seconds, age| {
        let mut run = start(&shadow, ShadowTerms { seconds, ..terms(Agreement::Top1) });
        let inner = Arc::get_mut(&mut run).expect("not shared");
        let old = Arc::clone(&inner.shared);
        let shared = Shared {
            slot: slot(),
            shadow: Arc::clone(&shadow),
            sampler: None,
            terms: old.terms.clone(),
            started: Instant::now().checked_sub(Duration::from_secs(age)).expect("the machine runs that long"),
            busy_since: AtomicU64::new(0),
            over: AtomicBool::new(false),
            budget: Mutex::new(Budget::new(1000)),
            compared: AtomicU64::new(0),
            agreed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            shift: Default::default(),
            latency: Default::default(),
            taken: Mutex::default(),
        };
        inner.shared = Arc::new(shared);
        run
    };
    assert!(!timed(100, 99).is_over());
    assert!(timed(100, 100).is_over());
    let hanging = timed(0, 100);
    assert!(!hanging.is_over());
    hanging.shared.busy_since.store(30_000, Relaxed);
    assert!(hanging.is_over() && hanging.is_over());
    assert_eq!(hanging.counts().failed, 1);
}

/// The active model answers as ever, whatever its shadow does.
#[test]
fn requests_are_mirrored_after_they_were_answered() {
    let (active, shadow) = (digits_model(1), digits_model(2));
    let slots = Arc::new(Slots::default());
    slots.activate(slot(), Arc::clone(&active));
    let executor = Executor::start(Arc::clone(&slots), std::num::NonZeroUsize::new(1), 8).expect("threads");
    let run = start(&shadow, terms(Agreement::Top1));
    active.mirror.set(Some(Arc::clone(&run)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("runtime");
    let want = active.model.run(&image()).expect("runs");
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut asked = 0;
    while run.counts().compared < 3 {
        assert!(Instant::now() < deadline, "nothing is compared: {:?}", run.counts());
        let (answered, outputs) = runtime.block_on(executor.infer(&slot(), image())).expect("answers");
        assert_eq!((answered.digest, &outputs), (active.digest, &want));
        asked += 1;
    }
    active.mirror.set(None);
    drop(run);
    let sketch = active.stats.sketch.take();
    assert_eq!(sketch.top1.iter().sum::<u32>(), asked);
    assert_eq!(active.stats.totals().ok, u64::from(asked));
}

#[test]
fn what_a_shadow_answers_otherwise_is_kept_where_that_is_wanted() {
    let (active, shadow) = (digits_model(1), digits_model(2));
    let (sampler, samples) = Sampler::new(0, true);
    active.mirror.sample(sampler);
    let run = Run::start(slot(), &active, Arc::clone(&shadow), terms(Agreement::Top1)).expect("a thread");
    let own = shadow.model.run(&image()).expect("runs");
    mirror(&run, &image(), &own);
    let other = other_than(&shadow, &own);
    mirror(&run, &image(), &other);
    let kept: Vec<_> = samples.try_iter().collect();
    let answer = Answer::of(&active, other);
    assert_eq!(
        kept,
        [crate::engine::sample::Sample { answer, inputs: image(), shadow: Some(Answer::of(&shadow, own)) }]
    );
}

#[test]
fn requests_are_sampled_after_they_were_answered() {
    let active = digits_model(1);
    let slots = Arc::new(Slots::default());
    slots.activate(slot(), Arc::clone(&active));
    let executor = Executor::start(slots, std::num::NonZeroUsize::new(1), 8).expect("threads");
    let (sampler, samples) = Sampler::new(2, false);
    active.mirror.sample(sampler);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    for _ in 0..3 {
        runtime.block_on(executor.infer(&slot(), image())).expect("answers");
    }
    // The threads end before the samples are counted.
    drop(executor);
    let outputs = active.model.run(&image()).expect("runs");
    let deadline = Duration::from_secs(20);
    for _ in 0..2 {
        let sample = samples.recv_timeout(deadline).expect("a sample");
        assert_eq!((&sample.answer.outputs, &sample.inputs, sample.shadow), (&outputs, &image(), None));
    }
    assert!(samples.try_recv().is_err());
}
