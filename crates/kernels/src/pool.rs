//! A fork-join pool: `run` splits a call into tasks that do not depend on the number of threads.
//!
//! Tasks are claimed from one word, (epoch, next task), by compare-and-exchange, and a call is over
//! when its tasks are: a worker that the operating system has not scheduled is not waited for, so
//! a machine with fewer free cores than threads costs their help, not their absence. Workers spin
//! for a few microseconds, because the steps of a small model follow each other that fast; then they
//! give their core away between looks, then they sleep.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(loom)]
use loom::sync::{Arc, Condvar, Mutex};
#[cfg(loom)]
use loom::thread::{Builder, JoinHandle, yield_now};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
#[cfg(not(loom))]
use std::sync::{Arc, Condvar, Mutex};
#[cfg(not(loom))]
use std::thread::{Builder, JoinHandle, yield_now};

/// Looks for work between which a thread does not give its core away: some 5 µs.
const SPINS: u32 = if cfg!(loom) { 0 } else { 200 };
/// Looks between which it does: some 50 µs if no other thread wants the core.
const YIELDS: u32 = if cfg!(loom) { 0 } else { 100 };

/// The part of a claim word that is the next task; all ones while a call is being set up.
const TASK_BITS: u32 = 32;
const TASKS: u64 = (1 << TASK_BITS) - 1;

/// A task's function behind a thin pointer.
type Job<'a> = &'a (dyn Fn(usize, usize) + Sync + 'a);

struct Shared {
    /// Epoch in the upper half, next task in the lower.
    claims: AtomicU64,
    /// The call's function: a pointer to a [`Job`] on the caller's stack.
    job: AtomicPtr<Job<'static>>,
    tasks: AtomicUsize,
    done: AtomicUsize,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// Threads that run the tasks of one call together; the caller is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    call: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` threads, the caller counted (at least 1).
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            claims: AtomicU64::new(TASKS),
            job: AtomicPtr::new(std::ptr::null_mut()),
            tasks: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let workers = (1..threads.max(1))
            .map(|worker| {
                let shared = Arc::clone(&shared);
                Builder::new()
                    .name(format!("memwall-{worker}"))
                    .spawn(move || work(&shared, worker))
                    .expect("the operating system starts a thread")
            })
            .collect();
        Pool { shared, workers, call: Mutex::new(()) }
    }

    /// Threads of the pool, the caller counted.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(task, worker)` once for each task in `0..tasks`; `worker` is below [`Pool::threads`].
    ///
    /// Tasks are claimed in order by whichever thread is free, so what a task computes must not
    /// depend on `worker`; use that only to pick a scratch buffer. Returns when all are done.
    ///
    /// # Panics
    /// If a task panics, once all tasks have ended. A call from inside a task deadlocks.
    pub fn run(&self, tasks: usize, f: impl Fn(usize, usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(|task| f(task, 0));
            return;
        }
        assert!((tasks as u64) < TASKS, "{tasks} tasks in one call");
        let _one_call = self.call.lock().unwrap_or_else(|e| e.into_inner());
        let s = &*self.shared;
        let job: Job = &f;
        // While the word is closed nothing can be claimed, so what a claim refers to can change.
        // Whoever reads the new job or number of tasks (both acquired) also sees the word closed or
        // later, and their exchange on the former word fails.
        let epoch = (s.claims.load(Ordering::Relaxed) >> TASK_BITS).wrapping_add(1) << TASK_BITS;
        s.claims.store(epoch | TASKS, Ordering::Relaxed);
        s.job.store((&raw const job).cast_mut().cast(), Ordering::Release);
        s.tasks.store(tasks, Ordering::Release);
        s.done.store(0, Ordering::Relaxed);
        s.claims.store(epoch, Ordering::Release);
        // A worker counts itself as asleep before it looks a last time; so either it sees the call
        // or we see it.
        fence(Ordering::SeqCst);
        if s.sleepers.load(Ordering::Relaxed) > 0 {
            let _sleep = s.sleep.lock().unwrap_or_else(|e| e.into_inner());
            s.wake.notify_all();
        }
        let mut panic = None;
        while let Some(task) = s.take() {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| f(task, 0))) {
                panic.get_or_insert(payload);
            }
            s.done.fetch_add(1, Ordering::Release);
        }
        let mut looks = 0;
        while s.done.load(Ordering::Acquire) < tasks {
            pause(&mut looks);
        }
        let theirs = s.panicked.swap(false, Ordering::Relaxed);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
        assert!(!theirs, "a task of the pool panicked");
    }
}

/// Lets time pass between two looks for something that is about to happen.
fn pause(looks: &mut u32) {
    if *looks < SPINS {
        std::hint::spin_loop();
    } else {
        yield_now();
    }
    *looks = looks.saturating_add(1);
}

impl Shared {
    /// Whether there is a task to claim.
    fn open(&self) -> bool {
        self.claims.load(Ordering::Acquire) & TASKS < self.tasks.load(Ordering::Acquire) as u64
    }

    /// Claims the next task of the call in progress, and with it its function for as long as the task is not done.
    fn claim(&self) -> Option<(usize, *mut Job<'static>)> {
        loop {
            let claims = self.claims.load(Ordering::Acquire);
            let job = self.job.load(Ordering::Acquire);
            if claims & TASKS >= self.tasks.load(Ordering::Acquire) as u64 {
                return None;
            }
            let exchange = self.claims.compare_exchange_weak(claims, claims + 1, Ordering::AcqRel, Ordering::Relaxed);
            if exchange.is_ok() {
                return Some(((claims & TASKS) as usize, job));
            }
        }
    }

    /// As [`Shared::claim`], for the caller, who has the function.
    fn take(&self) -> Option<usize> {
        self.claim().map(|(task, _)| task)
    }

    /// Sleeps until there is a task to claim, or the end.
    fn sleep(&self) {
        let mut sleep = self.sleep.lock().unwrap_or_else(|e| e.into_inner());
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        while !self.open() && !self.stop.load(Ordering::Relaxed) {
            sleep = self.wake.wait(sleep).unwrap_or_else(|e| e.into_inner());
        }
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

fn work(s: &Shared, worker: usize) {
    let mut looks = 0;
    while !s.stop.load(Ordering::Relaxed) {
        if let Some((task, job)) = s.claim() {
            // SAFETY: `run` keeps the function alive until all tasks are done, and this one is not.
            let f = unsafe { *job };
            if catch_unwind(AssertUnwindSafe(|| f(task, worker))).is_err() {
                s.panicked.store(true, Ordering::Relaxed);
            }
            s.done.fetch_add(1, Ordering::Release);
            looks = 0;
        } else if looks < SPINS + YIELDS {
            pause(&mut looks);
        } else {
            s.sleep();
            looks = 0;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _sleep = self.shared.sleep.lock().unwrap_or_else(|e| e.into_inner());
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has already been reported by `run`.
            let _ = worker.join();
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use std::sync::atomic::AtomicUsize as Plain;

    /// Run with `RUSTFLAGS="--cfg loom" cargo test -p memwall-kernels --release model`.
    #[test]
    fn no_interleaving_loses_a_task_a_wakeup_or_a_call() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(3);
        model.check(|| {
            let pool = Pool::new(2);
            for tasks in [2, 3] {
                let ran: [Plain; 3] = std::array::from_fn(|_| Plain::new(0));
                pool.run(tasks, |task, _| {
                    ran[task].fetch_add(1, Ordering::Relaxed);
                });
                for (task, ran) in ran.iter().enumerate() {
                    assert_eq!(ran.load(Ordering::Relaxed), (task < tasks) as usize);
                }
            }
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_for_any_number_of_threads() {
        for threads in 1..=4 {
            let pool = Pool::new(threads);
            for tasks in [0, 1, 2, 3, 17, 1000] {
                let counts: Vec<AtomicU64> = (0..tasks).map(|_| AtomicU64::new(0)).collect();
                pool.run(tasks, |task, worker| {
                    assert!(worker < threads);
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn calls_in_quick_and_in_slow_succession_see_each_other_s_writes() {
        let pool = Pool::new(3);
        let mut x = vec![0u64; 64];
        for call in 0..20_000u64 {
            let parts = crate::disjoint::Disjoint::new(&mut x);
            pool.run(8, |task, _| {
                // SAFETY: each task has a part of its own.
                unsafe { parts.part(task * 8..task * 8 + 8) }.iter_mut().for_each(|x| *x += call);
            });
            if call % 5000 == 0 {
                // Long enough for workers to fall asleep.
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        assert!(x.iter().all(|&x| x == 20_000 * 19_999 / 2), "{x:?}");
    }

    #[test]
    fn more_threads_than_cores_do_not_stall_a_call() {
        let threads = 8 * std::thread::available_parallelism().map_or(1, |n| n.get());
        let pool = Pool::new(threads);
        let start = std::time::Instant::now();
        for _ in 0..1000 {
            pool.run(threads, |_, _| {});
        }
        // Waiting for each worker's turn on a core would take milliseconds a call.
        assert!(start.elapsed().as_secs() < 20, "{:?} for 1000 calls", start.elapsed());
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, |task, _| assert!(task != 57, "task 57"));
        }));
        assert!(caught.is_err());
        pool.run(100, |_, _| {});
    }
}
