//! A fixed team of threads that works on one call at a time, and the barrier that keeps its members in step.
//!
//! Waiting spins for some microseconds, which is how long the others usually take, and then sleeps, so that a team
//! costs nothing while its encoder is idle and little where the machine is busy with other things.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use millstream_core::{Error, Result};

/// Looks at a value before sleeping; about 30 microseconds.
const SPINS: usize = 2_000;

/// A number that threads wait for a change of.
#[derive(Debug, Default)]
struct Gate {
    value: AtomicUsize,
    sleepers: AtomicUsize,
    mutex: Mutex<()>,
    changed: Condvar,
}

impl Gate {
    fn get(&self) -> usize {
        self.value.load(Ordering::Acquire)
    }

    fn add(&self, difference: isize) -> usize {
        // Sequentially consistent, as the counting of sleepers is: either the sleeper sees the value, or this the
        // sleeper.
        let value = self.value.fetch_add(difference.cast_unsigned(), Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.mutex));
            self.changed.notify_all();
        }
        value.wrapping_add_signed(difference)
    }

    fn wait_until(&self, reached: impl Fn(usize) -> bool) -> usize {
        for _ in 0..SPINS {
            let value = self.get();
            if reached(value) {
                return value;
            }
            std::hint::spin_loop();
        }
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = lock(&self.mutex);
        let value = loop {
            let value = self.value.load(Ordering::SeqCst);
            if reached(value) {
                break value;
            }
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        value
    }
}

/// No data is behind the locks here that a panic could leave half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the members of a group wait for each other between two phases.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    members: usize,
    arrived: AtomicUsize,
    passed: Gate,
    broken: AtomicBool,
}

impl Barrier {
    /// Makes the barrier ready for `members` threads, whatever happened to it before.
    pub(super) fn reset(&mut self, members: usize) {
        *self = Self { members, ..Self::default() };
    }

    /// Returns when all members have called it; what they wrote before can be read after.
    ///
    /// # Panics
    /// Where another member has panicked: it will never arrive.
    pub(super) fn wait(&self) {
        if self.members > 1 {
            let passed = self.passed.get();
            // Behind the look at `passed`: a member that panics later than this changes it again.
            self.check();
            if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.members {
                self.arrived.store(0, Ordering::Relaxed);
                self.passed.add(1);
            } else {
                self.passed.wait_until(|value| value != passed);
            }
            self.check();
        }
    }

    fn check(&self) {
        assert!(!self.broken.load(Ordering::Acquire), "another thread of the encoder panicked");
    }

    /// Breaks the barrier where the current thread unwinds while the guard lives.
    pub(super) fn guard(&self) -> BarrierGuard<'_> {
        BarrierGuard(self)
    }
}

/// See [`Barrier::guard`].
#[derive(Debug)]
pub(super) struct BarrierGuard<'a>(&'a Barrier);

impl Drop for BarrierGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
            self.0.passed.add(1);
        }
    }
}

/// What the team is to do; each member calls it with its index.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

// SAFETY: the closure may be called by several threads at once, and `Team::run` does not return before all calls have.
unsafe impl Send for Job {}

#[derive(Default)]
struct Shared {
    /// Changes when there is a new job.
    jobs: Gate,
    /// Members that are still at the current job.
    busy: Gate,
    job: Mutex<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

/// Threads that work together; the caller of [`Team::run`] is one of them.
pub(super) struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("members", &self.members()).finish()
    }
}

impl Team {
    /// A team of `members`, at least 1.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn new(members: usize) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut team = Self { shared, threads: Vec::new() };
        for index in 1..members {
            let shared = team.shared.clone();
            let thread = std::thread::Builder::new().name(format!("encoder-{index}"));
            let handle = thread
                .spawn(move || work(&shared, index))
                .map_err(|e| Error::environment("can't start a thread; allow the process more threads").caused_by(e))?;
            team.threads.push(handle);
        }
        Ok(team)
    }

    /// How many threads work on a job.
    pub(super) fn members(&self) -> usize {
        self.threads.len() + 1
    }

    /// Calls `job` once on each member with its index, and returns when all have returned.
    ///
    /// # Panics
    /// With the panic of a member, once all are out of the job.
    pub(super) fn run(&mut self, job: &(dyn Fn(usize) + Sync)) {
        let others = self.threads.len();
        if others == 0 {
            return job(0);
        }
        // SAFETY: only the lifetime changes; the members use it before they count themselves out, which is waited for
        // below.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job) };
        *lock(&self.shared.job) = Some(Job(erased));
        self.shared.busy.add(others.cast_signed());
        self.shared.jobs.add(1);
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        self.shared.busy.wait_until(|busy| busy == 0);
        *lock(&self.shared.job) = None;
        let theirs = lock(&self.shared.panic).take();
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        if let Some(panic) = theirs {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.jobs.add(1);
        for thread in self.threads.drain(..) {
            // It ends only by returning: panics of jobs are caught.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = shared.jobs.wait_until(|jobs| jobs != seen);
        if shared.stop.load(Ordering::Acquire) {
            return;
        }
        let job = *lock(&shared.job);
        if let Some(Job(job)) = job {
            // SAFETY: `Team::run` keeps the closure alive until `busy` is 0.
            let done = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(index) }));
            if let Err(panic) = done {
                *lock(&shared.panic) = Some(panic);
            }
        }
        shared.busy.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_lets_nobody_through_before_all_have_arrived() {
        let (mut team, mut barrier) = (Team::new(3).unwrap(), Barrier::default());
        barrier.reset(3);
        let counts: Vec<AtomicUsize> = (0..500).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..2 {
            team.run(&|_| {
                for count in &counts {
                    count.fetch_add(1, Ordering::Relaxed);
                    barrier.wait();
                    assert_eq!(count.load(Ordering::Relaxed) % 3, 0);
                    barrier.wait();
                }
            });
        }
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 6));
    }

    #[test]
    fn a_panic_of_one_member_reaches_the_caller_and_the_team_works_on() {
        let (mut team, mut barrier) = (Team::new(3).unwrap(), Barrier::default());
        for culprit in 0..3 {
            barrier.reset(3);
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|index| {
                    let _guard = barrier.guard();
                    assert!(index != culprit, "as the test wants it");
                    barrier.wait();
                });
            }));
            assert!(result.is_err());
        }
        let calls = AtomicUsize::new(0);
        team.run(&|_| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.load(Ordering::Relaxed), 3);
    }
}
