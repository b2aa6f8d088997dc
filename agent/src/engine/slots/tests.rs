use std::sync::Weak;
use std::time::Duration;

use super::*;
use crate::engine::testing::*;

fn slot(name: &str) -> SlotName {
    name.parse().expect("slot name")
}

#[test]
fn a_switch_gives_back_the_old_model_and_its_last_user_frees_it() {
    let slots = Slots::default();
    assert!(slots.get(&slot("digits")).is_none());
    let (one, two) = (Bundle::digits(1).load().expect("loads"), Bundle::digits(2).load().expect("loads"));
    let digests = (one.digest, two.digest);
    assert!(slots.activate(slot("digits"), Arc::new(one)).is_none());
    let request = slots.get(&slot("digits")).expect("answers");
    let old = slots.activate(slot("digits"), Arc::new(two)).expect("the old one");
    assert_eq!((old.digest, slots.get(&slot("digits")).expect("answers").digest), digests);
    let weak: Weak<Loaded> = Arc::downgrade(&old);
    drop(old);
    assert!(weak.upgrade().is_some(), "the request still holds it");
    drop(request);
    assert!(weak.upgrade().is_none(), "nobody holds it");
    assert_eq!(slots.clear(&slot("digits")).expect("was there").digest, digests.1);
    assert!(slots.clear(&slot("digits")).is_none() && slots.all().is_empty());
}

#[test]
fn every_slot_has_a_window() {
    let slots = Slots::default();
    for name in ["a", "b"] {
        slots.activate(slot(name), Arc::new(Bundle::digits(1).load().expect("loads")));
    }
    slots.get(&slot("b")).expect("answers").stats.succeeded(Duration::from_micros(40));
    let windows = slots.take_windows();
    assert_eq!(windows.iter().map(|w| (w.window.slot.as_str(), w.window.ok)).collect::<Vec<_>>(), [("a", 0), ("b", 1)]);
    assert_eq!(windows[1].window.latency.iter().sum::<u64>(), 1);
    assert_eq!(slots.take_windows()[1].window.ok, 0);
}
