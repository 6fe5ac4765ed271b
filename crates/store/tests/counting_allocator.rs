//! The counting allocator sees what the program does, and only where it is told to look.

use memwall_store::{Budget, CountingAllocator, Reserved, count_this_thread};
use std::hint::black_box;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// One test, because the counts are of the whole process.
#[test]
fn counts_are_exact_on_chosen_threads_and_growing_a_region_allocates_nothing() {
    ALLOCATOR.only_chosen_threads(true);
    count_this_thread(true);

    let (blocks, live) = (ALLOCATOR.allocations(), ALLOCATOR.live_bytes());
    ALLOCATOR.reset_peak();
    let mut v: Vec<u8> = black_box(Vec::with_capacity(10_000));
    assert_eq!((ALLOCATOR.allocations() - blocks, ALLOCATOR.live_bytes() - live), (1, 10_000));
    v.reserve_exact(30_000);
    black_box(&mut v);
    assert_eq!((ALLOCATOR.allocations() - blocks, ALLOCATOR.live_bytes() - live), (2, 30_000));
    drop(v);
    assert_eq!(ALLOCATOR.live_bytes(), live);
    assert_eq!(ALLOCATOR.peak_bytes() - live, 30_000);

    let blocks = ALLOCATOR.allocations();
    std::thread::scope(|scope| {
        // Starting the thread allocates here; what it does itself must not count.
        let started = ALLOCATOR.allocations();
        scope.spawn(move || black_box(vec![0u8; 1 << 20]).len()).join().unwrap();
        assert!(ALLOCATOR.live_bytes() < live + (1 << 20) && ALLOCATOR.allocations() - started < 20);
    });
    assert!(ALLOCATOR.peak_bytes() < live + (1 << 20));
    assert!(ALLOCATOR.allocations() > blocks);

    let mut kv = Reserved::new(&Budget::unlimited(), "kv", 2, 1 << 20).unwrap();
    let blocks = ALLOCATOR.allocations();
    for tokens in 1..=1000 {
        kv.resize(tokens % 2, tokens * 1000).unwrap();
    }
    assert_eq!(ALLOCATOR.allocations(), blocks);
}
