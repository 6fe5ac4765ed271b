//! Time that the processor gave to this thread: other programs disturb it less than wall time.

use std::time::{Duration, Instant};

use criterion::Bencher;

/// Processor time of this thread so far; wall time where the system does not tell.
fn busy(start: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.as_deref().and_then(|s| s.split(' ').next()).and_then(|n| n.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Measures `work`, repeated, on this thread alone.
pub fn measure(b: &mut Bencher<'_>, mut work: impl FnMut()) {
    let start = Instant::now();
    b.iter_custom(|repeats| {
        let before = busy(start);
        (0..repeats).for_each(|_| work());
        busy(start) - before
    });
}
