//! What is going to happen, in order of virtual time; what falls on the same millisecond happens in the order in
//! which it was planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A plan of `T`s.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Planned<T>>,
    planned: u64,
}

#[derive(Debug)]
struct Planned<T> {
    at: u64,
    number: u64,
    what: T,
}

impl<T> Queue<T> {
    /// An empty plan.
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    /// Plans `what` for the millisecond `at`.
    pub fn plan(&mut self, at: u64, what: T) {
        self.planned += 1;
        self.heap.push(Planned { at, number: self.planned, what });
    }

    /// The next thing and its time, if it is due by `end`.
    pub fn next(&mut self, end: u64) -> Option<(u64, T)> {
        if self.heap.peek()?.at > end {
            return None;
        }
        self.heap.pop().map(|planned| (planned.at, planned.what))
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Ord for Planned<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<T> PartialOrd for Planned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Planned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Planned<T> {}
