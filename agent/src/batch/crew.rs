//! Threads that share a row of work and hand their results on in the order in which the work came. What waits for its
//! turn is bounded: a thread that is too far ahead waits.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::Error;

/// The stack of a thread, as an inference has it elsewhere.
const STACK_BYTES: usize = 8 << 20;
/// So many results may wait for each thread.
const AHEAD: usize = 2;

/// Runs `work` on `jobs` threads on all that `next` gives, and hands what comes out to `write` in that order. The first
/// error ends it; what was written before it stays written. `write` says whether to go on.
pub fn run<S, T>(
    jobs: usize,
    next: impl FnMut() -> Result<Option<S>, Error> + Send,
    work: impl Fn(S) -> T + Sync,
    write: impl FnMut(T) -> Result<(), Error> + Send,
) -> Result<(), Error>
where
    S: Send,
    T: Send,
{
    let desk = Desk {
        take: Mutex::new(Take { next, index: 0, ended: false }),
        give: Mutex::new(Give { write, due: 0, waiting: BTreeMap::new(), failed: None }),
        turn: Condvar::new(),
        most: jobs.max(1) * AHEAD,
    };
    thread::scope(|scope| {
        for index in 0..jobs.max(1) {
            let builder = thread::Builder::new().name(format!("batch-{index}")).stack_size(STACK_BYTES);
            let spawned = builder.spawn_scoped(scope, || desk.serve(&work));
            if let Err(error) = spawned {
                desk.fail(Error::Internal { what: format!("a thread cannot be started: {error}") });
            }
        }
    });
    let give = desk.give.into_inner().unwrap_or_else(PoisonError::into_inner);
    give.failed.map_or(Ok(()), Err)
}

struct Desk<N, W, T> {
    take: Mutex<Take<N>>,
    give: Mutex<Give<W, T>>,
    turn: Condvar,
    most: usize,
}

struct Take<N> {
    next: N,
    index: u64,
    ended: bool,
}

struct Give<W, T> {
    write: W,
    due: u64,
    waiting: BTreeMap<u64, T>,
    failed: Option<Error>,
}

impl<N, W, T> Desk<N, W, T> {
    fn serve<S>(&self, work: &impl Fn(S) -> T)
    where
        N: FnMut() -> Result<Option<S>, Error>,
        W: FnMut(T) -> Result<(), Error>,
    {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            while let Some((index, item)) = self.pick() {
                self.hand_over(index, work(item));
            }
        }));
        if outcome.is_err() {
            self.fail(Error::Internal { what: "a thread of the run ended by a mistake of this program".into() });
        }
    }

    fn pick<S>(&self) -> Option<(u64, S)>
    where
        N: FnMut() -> Result<Option<S>, Error>,
    {
        let mut take = self.take.lock().unwrap_or_else(PoisonError::into_inner);
        if take.ended || self.give().failed.is_some() {
            return None;
        }
        match (take.next)() {
            Ok(Some(item)) => {
                take.index += 1;
                Some((take.index - 1, item))
            }
            Ok(None) => {
                take.ended = true;
                None
            }
            Err(error) => {
                take.ended = true;
                let end = take.index;
                drop(take);
                self.fail_at(end, error);
                None
            }
        }
    }

    fn hand_over(&self, index: u64, result: T)
    where
        W: FnMut(T) -> Result<(), Error>,
    {
        let mut give = self.give();
        while give.failed.is_none() && index != give.due && give.waiting.len() >= self.most {
            give = self.turn.wait(give).unwrap_or_else(PoisonError::into_inner);
        }
        give.waiting.insert(index, result);
        while give.failed.is_none() {
            let due = give.due;
            let Some(result) = give.waiting.remove(&due) else { break };
            match (give.write)(result) {
                Ok(()) => give.due += 1,
                Err(error) => give.failed = Some(error),
            }
        }
        drop(give);
        self.turn.notify_all();
    }

    /// Fails once everything before `end` was written: what was read well is not lost.
    fn fail_at(&self, end: u64, error: Error) {
        let mut give = self.give();
        while give.failed.is_none() && give.due < end {
            give = self.turn.wait(give).unwrap_or_else(PoisonError::into_inner);
        }
        give.failed.get_or_insert(error);
        drop(give);
        self.turn.notify_all();
    }

    fn fail(&self, error: Error) {
        self.give().failed.get_or_insert(error);
        self.turn.notify_all();
    }

    fn give(&self) -> MutexGuard<'_, Give<W, T>> {
        self.give.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    /// The numbers below `count`, slowest first in each eight, through `jobs` threads.
    fn ordered(jobs: usize, count: u64) -> (Vec<u64>, i64) {
        let (held, most) = (AtomicI64::new(0), AtomicI64::new(0));
        let (mut at, mut written) = (0..count, Vec::new());
        let next = || {
            let now = held.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            Ok(at.next())
        };
        let work = |number: u64| {
            (0..(8 - number % 8) * 2000).for_each(|n| _ = std::hint::black_box(n));
            number
        };
        let write = |number| {
            held.fetch_sub(1, Ordering::SeqCst);
            written.push(number);
            Ok(())
        };
        run(jobs, next, work, write).expect("runs");
        (written, most.into_inner())
    }

    #[test]
    fn results_come_in_order_and_little_waits() {
        for jobs in [1, 4] {
            let (written, most) = ordered(jobs, 500);
            assert_eq!(written, (0..500).collect::<Vec<_>>());
            // What waits, what is worked on, and an asking for more that found nothing.
            assert!(most <= (jobs * (AHEAD + 2) + 1) as i64, "{most} at once with {jobs} threads");
        }
    }

    #[test]
    fn what_was_read_before_an_error_is_written() {
        for jobs in [1, 3] {
            let (mut at, mut written) = (0, Vec::new());
            let next = || {
                at += 1;
                if at == 8 { Err(Error::input("cut off", "mend it")) } else { Ok(Some(at)) }
            };
            let write = |number: i32| {
                written.push(number);
                Ok(())
            };
            let error = run(jobs, next, |n| n, write).expect_err("cut off");
            assert_eq!((error.to_string().as_str(), written), ("cut off", (1..8).collect()));
        }
    }

    #[test]
    fn an_error_of_writing_and_a_panic_end_the_run() {
        let full = |number: i32| if number == 3 { Err(Error::input("full", "")) } else { Ok(()) };
        let mut at = 0;
        let mut endless = || {
            at += 1;
            Ok(Some(at))
        };
        assert_eq!(run(3, &mut endless, |n| n, full).expect_err("full").to_string(), "full");
        let panics = |n: i32| if n > 20 { panic!("a test") } else { n };
        assert!(matches!(run(3, endless, panics, |_| Ok(())), Err(Error::Internal { .. })));
    }
}
