//! A fork-join pool: `run` splits a call into tasks that do not depend on the number of threads.
//!
//! Workers spin briefly for the next call before they sleep, because the steps of a small model
//! come every few microseconds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// How often a worker looks for new work before it sleeps.
const SPINS: u32 = 20_000;

type Job = *const (dyn Fn(usize, usize) + Sync);

struct Shared {
    /// Counts calls; a worker that sees a new value takes part in that call.
    epoch: AtomicUsize,
    next: AtomicUsize,
    tasks: AtomicUsize,
    running: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    job: Mutex<Option<SendJob>>,
    wake: Condvar,
}

#[derive(Clone, Copy)]
struct SendJob(Job);
// SAFETY: the closure behind the pointer is Sync, and `run` does not return before every worker is done with it.
unsafe impl Send for SendJob {}

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
            epoch: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            tasks: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            job: Mutex::new(None),
            wake: Condvar::new(),
        });
        let workers = (1..threads.max(1))
            .map(|worker| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
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
    /// If a task panics. A call from inside a task deadlocks.
    pub fn run(&self, tasks: usize, f: impl Fn(usize, usize) + Sync) {
        if tasks == 0 {
            return;
        }
        if tasks == 1 || self.workers.is_empty() {
            (0..tasks).for_each(|task| f(task, 0));
            return;
        }
        let _one_call = self.call.lock().unwrap_or_else(|e| e.into_inner());
        let s = &*self.shared;
        let f: &(dyn Fn(usize, usize) + Sync) = &f;
        // SAFETY: only the lifetime changes; `running` reaches 0 below before `f` goes out of scope.
        let job: Job = unsafe { std::mem::transmute(f) };
        s.next.store(0, Ordering::Relaxed);
        s.tasks.store(tasks, Ordering::Relaxed);
        s.running.store(self.workers.len(), Ordering::Relaxed);
        {
            let mut slot = s.job.lock().unwrap_or_else(|e| e.into_inner());
            *slot = Some(SendJob(job));
            s.epoch.fetch_add(1, Ordering::Release);
        }
        s.wake.notify_all();
        let mine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim(s, f, 0)));
        while s.running.load(Ordering::Acquire) != 0 {
            std::hint::spin_loop();
        }
        let theirs = s.panicked.swap(false, Ordering::Relaxed);
        if let Err(panic) = mine {
            std::panic::resume_unwind(panic);
        }
        assert!(!theirs, "a task of the pool panicked");
    }
}

fn claim(s: &Shared, f: &(dyn Fn(usize, usize) + Sync), worker: usize) {
    let tasks = s.tasks.load(Ordering::Relaxed);
    loop {
        let task = s.next.fetch_add(1, Ordering::Relaxed);
        if task >= tasks {
            return;
        }
        f(task, worker);
    }
}

fn work(s: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while s.epoch.load(Ordering::Acquire) == seen && spins < SPINS {
            std::hint::spin_loop();
            spins += 1;
        }
        let job = {
            let mut slot = s.job.lock().unwrap_or_else(|e| e.into_inner());
            while s.epoch.load(Ordering::Acquire) == seen && !s.stop.load(Ordering::Relaxed) {
                slot = s.wake.wait(slot).unwrap_or_else(|e| e.into_inner());
            }
            *slot
        };
        if s.stop.load(Ordering::Relaxed) {
            return;
        }
        seen = s.epoch.load(Ordering::Acquire);
        if let Some(SendJob(job)) = job {
            // SAFETY: `run` keeps the closure alive until `running` is 0.
            let f = unsafe { &*job };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| claim(s, f, worker))).is_err() {
                s.panicked.store(true, Ordering::Relaxed);
            }
        }
        s.running.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _slot = self.shared.job.lock().unwrap_or_else(|e| e.into_inner());
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has already been reported by `run`.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

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
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(100, |task, _| assert!(task != 57, "task 57"));
        }));
        assert!(caught.is_err());
        pool.run(100, |_, _| {});
    }
}
