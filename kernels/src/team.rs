//! Threads that share the numbered tasks of one region at a time and wait for the next between regions.
//!
//! A forward is some sixty short regions with a few microseconds of serial work between them. A pool whose idle threads go
//! to sleep pays a wake-up (tens of microseconds on a virtual machine) at each; here they look for the next region for
//! about a tenth of a millisecond before they sleep, and the thread that opens a region works on it itself.
//!
//! One word, [`Team::ticket`], holds the region's number and how many of its tasks nobody has taken. Taking a task is a
//! compare-and-swap of that word, so a thread that read an old region's description cannot take a task of a new one: the
//! description is only written while no task is left, and the number has moved on when tasks appear.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};
use std::sync::{Condvar, Mutex, TryLockError};

/// Looks for work before a thread sleeps: about 0.1 ms.
const LOOKS: u32 = 4000;

thread_local! {
    /// this thread is inside a region: what it is asked for there it does alone
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Calls `data`'s function with a task's number.
type Call = unsafe fn(*mut (), usize);

struct Team {
    /// region << 32 | tasks nobody has taken
    ticket: AtomicU64,
    call: AtomicPtr<()>,
    data: AtomicPtr<()>,
    tasks: AtomicUsize,
    /// helpers that may take part
    seats: AtomicUsize,
    /// tasks not finished
    left: AtomicUsize,
    panicked: AtomicBool,
    payload: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    asleep: Mutex<()>,
    wake: Condvar,
}

static TEAM: Team = Team {
    ticket: AtomicU64::new(0),
    call: AtomicPtr::new(null_mut()),
    data: AtomicPtr::new(null_mut()),
    tasks: AtomicUsize::new(0),
    seats: AtomicUsize::new(0),
    left: AtomicUsize::new(0),
    panicked: AtomicBool::new(false),
    payload: Mutex::new(None),
    sleepers: AtomicUsize::new(0),
    asleep: Mutex::new(()),
    wake: Condvar::new(),
};

/// Who holds this opens regions; the number of helpers that exist.
static LEADER: Mutex<usize> = Mutex::new(0);

unsafe fn trampoline<F: Fn(usize) + Sync>(data: *mut (), task: usize) {
    // SAFETY: `data` is the F of the region whose task was taken; its owner waits until the task is finished.
    unsafe { (*(data as *const F))(task) }
}

impl Team {
    /// Takes and runs tasks until none is left. `helper` is this thread's number, None for the region's owner.
    fn work(&self, helper: Option<usize>) {
        loop {
            let ticket = self.ticket.load(Acquire);
            let open = ticket & u32::MAX as u64;
            if open == 0 || helper.is_some_and(|h| h >= self.seats.load(Relaxed)) {
                return;
            }
            let (call, data) = (self.call.load(Relaxed), self.data.load(Relaxed));
            let task = self.tasks.load(Relaxed).wrapping_sub(open as usize);
            if self.ticket.compare_exchange(ticket, ticket - 1, AcqRel, Relaxed).is_err() {
                continue;
            }
            // SAFETY: the swap proves that call and data were those of this region, see above; `call` was made from a Call.
            let run = || unsafe { std::mem::transmute::<*mut (), Call>(call)(data, task) };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                self.panicked.store(true, Relaxed);
                *self.payload.lock().unwrap_or_else(|e| e.into_inner()) = Some(panic);
            }
            self.left.fetch_sub(1, Release);
        }
    }

    fn help(&self, number: usize) {
        BUSY.set(true);
        let mut seen = self.ticket.load(Acquire) >> 32;
        loop {
            self.work(Some(number));
            let mut looks = 0;
            loop {
                let ticket = self.ticket.load(SeqCst);
                if ticket >> 32 != seen {
                    seen = ticket >> 32;
                    break;
                }
                looks += 1;
                if looks < LOOKS {
                    std::hint::spin_loop();
                    continue;
                }
                let mut guard = self.asleep.lock().unwrap_or_else(|e| e.into_inner());
                self.sleepers.fetch_add(1, SeqCst);
                while self.ticket.load(SeqCst) >> 32 == seen {
                    guard = self.wake.wait(guard).unwrap_or_else(|e| e.into_inner());
                }
                self.sleepers.fetch_sub(1, SeqCst);
            }
        }
    }

    /// Opens a region, works on it and returns when its last task is finished.
    fn region<F: Fn(usize) + Sync>(&self, tasks: usize, seats: usize, f: &F) {
        self.call.store(trampoline::<F> as Call as *mut (), Relaxed);
        self.data.store(f as *const F as *mut (), Relaxed);
        self.tasks.store(tasks, Relaxed);
        self.seats.store(seats, Relaxed);
        self.left.store(tasks, Relaxed);
        let region = (self.ticket.load(Relaxed) >> 32).wrapping_add(1);
        self.ticket.store(region << 32 | tasks as u64, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            drop(self.asleep.lock().unwrap_or_else(|e| e.into_inner()));
            self.wake.notify_all();
        }
        self.work(None);
        let mut looks = 0;
        while self.left.load(Acquire) != 0 {
            looks += 1;
            // the thread with the last task may have lost its processor to another program
            if looks < LOOKS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if self.panicked.swap(false, Relaxed) {
            let payload = self.payload.lock().unwrap_or_else(|e| e.into_inner()).take();
            resume_unwind(payload.unwrap_or_else(|| Box::new("a task panicked")));
        }
    }
}

/// Back to not busy, also when a task panicked.
struct Free;
impl Drop for Free {
    fn drop(&mut self) {
        BUSY.set(false);
    }
}

/// Runs `f(0..n)` on up to `threads` threads, this one among them. False if that has to happen another way: nothing was
/// run. Inside a region everything runs on the thread that asks.
pub fn each<F: Fn(usize) + Sync>(n: usize, threads: usize, f: &F) -> bool {
    if BUSY.get() || threads < 2 || n < 2 {
        (0..n).for_each(f);
        return true;
    }
    let mut helpers = match LEADER.try_lock() {
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(e)) => e.into_inner(),
        Err(TryLockError::WouldBlock) => return false,
    };
    if n >= u32::MAX as usize {
        return false;
    }
    while *helpers + 1 < threads {
        let number = *helpers;
        let made =
            std::thread::Builder::new().name(format!("team {number}")).spawn(move || TEAM.help(number));
        if made.is_err() {
            break;
        }
        *helpers += 1;
    }
    BUSY.set(true);
    let _free = Free;
    TEAM.region(n, threads - 1, f);
    true
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use crate::par;

    fn counts(n: usize, f: impl Fn(usize) + Sync + Send) -> bool {
        let seen: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
        par::each(n, |i| {
            seen[i].fetch_add(1, Relaxed);
            f(i);
        });
        seen.iter().all(|c| c.load(Relaxed) == 1)
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool")
    }

    #[test]
    fn every_task_runs_once_region_after_region() {
        for threads in [1, 2, 3, 5] {
            pool(threads).install(|| (0..2000).for_each(|i| assert!(counts(i % 37, |_| ()), "{i}")));
        }
    }

    #[test]
    fn regions_inside_a_region_and_from_several_threads_at_once() {
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    pool(3).install(|| {
                        for _ in 0..200 {
                            assert!(counts(9, |_| assert!(counts(5, |_| ()))));
                        }
                    })
                });
            }
        });
    }

    #[test]
    fn helpers_wake_up_again() {
        pool(2).install(|| {
            for _ in 0..5 {
                assert!(counts(64, |_| std::thread::sleep(std::time::Duration::from_micros(50))));
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        pool(2).install(|| {
            for bad in [0, 7, 15] {
                let caught = std::panic::catch_unwind(|| par::each(16, |i| assert!(i != bad, "task {i}")));
                let text = *caught.unwrap_err().downcast::<String>().unwrap();
                assert_eq!(text, format!("task {bad}"));
                assert!(counts(16, |_| ()));
            }
        });
    }
}
