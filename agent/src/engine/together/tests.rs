use muster_proto::code::Code;

use super::*;
use crate::engine::Loaded;
use crate::engine::loaded;
use crate::engine::testing::*;

const WISH: Wish = Wish { size: 4, delay: Duration::ZERO };

fn together(loaded: &Loaded, bundle: &Bundle) -> Result<Together, Error> {
    let item = wide_item(1);
    let samples = [(&item, &loaded.model.run(&item).expect("runs"))];
    Together::untimed(&loaded.model, bundle.folder.path(), &loaded.manifest, &samples, WISH)
        .map(|(together, _)| together)
}

/// As close as two orders of summing are.
fn assert_same(got: &Tensors, want: &Tensors) {
    let tolerance = Tolerance { absolute: 1e-5, relative: 1e-5 };
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    got.iter().for_each(|(name, got)| probe::compare(&want[name], got, tolerance, &mut 0.0).expect("the same"));
}

#[test]
fn each_request_of_a_batch_gets_what_it_would_get_alone() {
    let bundle = wide_bundle();
    let loaded = bundle.load().expect("loads");
    let together = together(&loaded, &bundle).expect("a plan");
    for seeds in [vec![3, 4], vec![3, 4, 5], vec![3, 4, 5, 6]] {
        let requests: Vec<Tensors> = seeds.into_iter().map(wide_item).collect();
        let answers = together.run(&loaded.model, &requests.iter().collect::<Vec<_>>());
        assert_eq!(answers.len(), requests.len());
        for (request, answer) in requests.iter().zip(answers) {
            assert_same(&answer.expect("answers"), &loaded.model.run(request).expect("runs"));
        }
    }
}

#[test]
fn requests_of_several_items_share_a_batch_and_full_ones_do_not() {
    let bundle = wide_bundle();
    let loaded = bundle.load().expect("loads");
    let together = together(&loaded, &bundle).expect("a plan");
    let pair = join(&loaded.model.inputs()[0], &[&wide_item(7), &wide_item(8)], 2, 2).expect("joins");
    let (pair, one) = (named([("x", pair)]), wide_item(9));
    assert_eq!((together.items(&pair), together.items(&one)), (Some(2), Some(1)));
    let answers = together.run(&loaded.model, &[&pair, &one]);
    for (request, answer) in [&pair, &one].into_iter().zip(answers) {
        assert_same(&answer.expect("answers"), &loaded.model.run(request).expect("runs"));
    }
    let full = named([("x", f32s(&[4, 64], &[0.5; 256]))]);
    let none = named([("x", f32s(&[0, 64], &[]))]);
    assert_eq!((together.items(&full), together.items(&none)), (None, None));
    assert!(!Together::are_alike(&one, &named([("x", f32s(&[1, 32], &[0.5; 32]))])));
}

#[test]
fn one_that_fails_among_others_is_tried_alone() {
    let bundle = wide_bundle();
    let loaded = bundle.load().expect("loads");
    let together = together(&loaded, &bundle).expect("a plan");
    // The executor refuses such a request before; here it spoils the batch.
    let (good, bad) = (wide_item(1), named([("x", f32s(&[1, 32], &[0.5; 32]))]));
    let answers = together.run(&loaded.model, &[&good, &bad]);
    assert_same(answers[0].as_ref().expect("answers"), &loaded.model.run(&good).expect("runs"));
    assert!(answers[1].is_err());
}

#[test]
fn what_is_slower_at_once_is_computed_alone() {
    let bundle = wide_bundle();
    let loaded = bundle.load().expect("loads");
    let mut together = together(&loaded, &bundle).expect("a plan");
    (together.single, together.batch) = (Duration::from_micros(10), Duration::from_micros(35));
    let plan = together.plan.take();
    assert!(plan.is_some(), "planned for one, so there is another for four");
    together.plan = plan;
    let requests: Vec<Tensors> = (0..3).map(wide_item).collect();
    let answers = together.run(&loaded.model, &requests.iter().collect::<Vec<_>>());
    for (request, answer) in requests.iter().zip(answers) {
        // To the bit: it is the plan for one that ran.
        assert_eq!(answer.expect("answers"), loaded.model.run(request).expect("runs"));
    }
}

#[test]
fn a_batch_that_differs_or_cannot_be_is_refused_and_the_version_answers_on() {
    let bundle = wide_bundle();
    let loaded = bundle.load().expect("loads");
    let item = wide_item(1);
    let mut wrong = loaded.model.run(&item).expect("runs");
    wrong.insert("y".into(), f32s(&[1, 64], &[9.0; 64]));
    let build = |samples: &[(&Tensors, &Tensors)]| {
        let made = Together::untimed(&loaded.model, bundle.folder.path(), &loaded.manifest, samples, WISH);
        made.map(drop).expect_err("refused").to_string()
    };
    assert!(build(&[(&item, &wrong)]).starts_with("items come out otherwise in a batch than alone: "), "differs");
    assert!(build(&[]).contains("no golden sample"), "nothing to try");

    let fixed = Model::load(&fixture("linear.onnx"), &Default::default()).expect("loads");
    let made = Together::untimed(&fixed, bundle.folder.path(), &loaded.manifest, &[], WISH);
    let has_dimension = fixed.batch_dimension().is_some();
    assert_eq!(matches!(made, Err(Error::NoDimension)), !has_dimension);
}

#[test]
fn a_wish_is_tried_once_and_may_be_taken_back() {
    let bundle = wide_bundle();
    let loaded = bundle.load().expect("loads");
    let calls = std::cell::Cell::new(0);
    let folder = || {
        calls.set(calls.get() + 1);
        Ok::<_, loaded::Error>(bundle.folder.path().to_owned())
    };
    // Whether it gains anything is this machine's to say.
    if let Err(error) = loaded.compute_together(Some(WISH), folder) {
        assert_eq!((error.code(), loaded.together().is_none()), (Code::Incompatible, true));
    }
    loaded.compute_together(Some(WISH), folder).expect("it was tried");
    assert_eq!(calls.get(), 1);
    loaded.compute_together(None, folder).expect("as before");
    assert!(loaded.together().is_none());
    assert_eq!(calls.get(), 1);
}
