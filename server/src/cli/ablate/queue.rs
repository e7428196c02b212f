//! Which runs of a plan are taken and done, for several workers: a run may wait for another (an arm for the start of its
//! seed), and nothing more is handed out once a worker gave up.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Runs by number.
pub struct Queue {
    /// the run that each waits for
    after: Vec<Option<usize>>,
    /// None once a worker gave up
    state: Mutex<Option<Vec<State>>>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Taken,
    Done,
}

pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    pub fn new(after: Vec<Option<usize>>) -> Queue {
        let state = Mutex::new(Some(vec![State::Waiting; after.len()]));
        Queue { after, state, changed: Condvar::new() }
    }

    /// The next run to take: one that others wait for, else the first that waits for nothing. Blocks while what is left
    /// waits for runs that are taken; None when nothing is left or a worker gave up.
    fn next(&self) -> Option<usize> {
        let mut guard = lock(&self.state);
        loop {
            let state = guard.as_mut()?;
            let ready = |i: &usize| {
                state[*i] == State::Waiting && self.after[*i].is_none_or(|a| state[a] == State::Done)
            };
            let needed = |i: &usize| self.after.contains(&Some(*i));
            let all = || 0..state.len();
            if let Some(i) = all().find(|i| needed(i) && ready(i)).or(all().find(ready)) {
                state[i] = State::Taken;
                return Some(i);
            }
            if state.iter().all(|s| *s != State::Waiting) {
                return None;
            }
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes runs until none is left: `each` does one, `then` follows when it counts as done. A worker that fails, or panics,
    /// ends the others after their runs.
    ///
    /// # Errors
    /// The first of `each` or `then`.
    pub fn work<E>(
        &self,
        mut each: impl FnMut(usize) -> Result<(), E>,
        mut then: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let unfinished = Abandon(self);
        while let Some(i) = self.next() {
            each(i)?;
            self.done(i);
            then(i)?;
        }
        std::mem::forget(unfinished);
        Ok(())
    }

    pub fn is_done(&self, i: usize) -> bool {
        lock(&self.state).as_ref().is_some_and(|state| state[i] == State::Done)
    }

    fn done(&self, i: usize) {
        if let Some(state) = lock(&self.state).as_mut() {
            state[i] = State::Done;
        }
        self.changed.notify_all();
    }

    /// Nothing more is handed out.
    fn abandon(&self) {
        *lock(&self.state) = None;
        self.changed.notify_all();
    }
}

/// Gives the queue up when dropped.
struct Abandon<'a>(&'a Queue);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two seeds: a start and two arms each.
    fn plan() -> Queue {
        Queue::new(vec![None, Some(0), Some(0), None, Some(3), Some(3)])
    }

    #[test]
    fn what_others_wait_for_comes_first() {
        let q = plan();
        assert_eq!((q.next(), q.next()), (Some(0), Some(3)));
        q.done(3);
        assert_eq!(q.next(), Some(4));
        q.done(0);
        assert_eq!((q.next(), q.next(), q.next()), (Some(1), Some(2), Some(5)));
        assert_eq!(q.next(), None);
    }

    /// Four workers: every run once, and none before the one it waits for is done.
    #[test]
    fn workers_share_the_runs() {
        let (q, order) = (plan(), Mutex::new(vec![]));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    let each = |i| {
                        std::thread::yield_now();
                        lock(&order).push(i);
                        Ok::<(), ()>(())
                    };
                    let then = |i| if q.is_done(i) { Ok(()) } else { Err(()) };
                    assert_eq!(q.work(each, then), Ok(()));
                });
            }
        });
        let order = lock(&order).clone();
        let at = |i: usize| order.iter().position(|x| *x == i).expect("every run");
        assert_eq!(order.len(), 6);
        assert!([(0, 1), (0, 2), (3, 4), (3, 5)].iter().all(|(a, b)| at(*a) < at(*b)), "{order:?}");
    }

    #[test]
    fn a_worker_that_gives_up_ends_the_others() {
        for panics in [false, true] {
            let q = Queue::new(vec![None, Some(0)]);
            std::thread::scope(|s| {
                let fails = s.spawn(|| {
                    q.work(|_| if panics { panic!("as asked") } else { Err("as asked") }, |_| Ok(()))
                });
                assert!(fails.join().map_or(true, |end| end == Err("as asked")));
                let other = s.spawn(|| q.work(|_| Ok::<(), &str>(()), |_| Ok(())));
                assert_eq!(other.join().expect("no panic"), Ok(()));
                assert!(!q.is_done(0) && !q.is_done(1));
            });
        }
    }
}
