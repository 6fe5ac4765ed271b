//! A global allocator that counts: the witness of "a step allocates nothing" and of stated state bytes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Says whether allocations of the calling thread count in an allocator that is limited to chosen threads.
pub fn count_this_thread(counted: bool) {
    COUNTED.with(|c| c.set(counted));
}

/// The system's allocator with counts; a test makes it its `#[global_allocator]`.
///
/// It counts all threads, or after [`CountingAllocator::only_chosen_threads`] those that called [`count_this_thread`]; a
/// block then counts where it is allocated and where it is freed, so both should happen on chosen threads. Arenas and
/// reserved regions come from the operating system directly: [`crate::committed_bytes`] counts those.
///
/// ```
/// use memwall_store::CountingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: CountingAllocator = CountingAllocator::new();
///
/// let before = ALLOCATOR.allocations();
/// let sum: u32 = (0..10).sum();
/// assert_eq!((sum, ALLOCATOR.allocations()), (45, before));
/// ```
pub struct CountingAllocator {
    allocations: AtomicU64,
    live: AtomicI64,
    peak: AtomicI64,
    chosen_only: AtomicBool,
}

impl CountingAllocator {
    /// An allocator that has counted nothing.
    pub const fn new() -> CountingAllocator {
        CountingAllocator {
            allocations: AtomicU64::new(0),
            live: AtomicI64::new(0),
            peak: AtomicI64::new(0),
            chosen_only: AtomicBool::new(false),
        }
    }

    /// Blocks allocated or resized so far.
    pub fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::SeqCst)
    }

    /// Bytes allocated and not freed.
    pub fn live_bytes(&self) -> usize {
        usize::try_from(self.live.load(Ordering::SeqCst)).unwrap_or(0)
    }

    /// The most live bytes since the start or [`CountingAllocator::reset_peak`].
    pub fn peak_bytes(&self) -> usize {
        usize::try_from(self.peak.load(Ordering::SeqCst)).unwrap_or(0)
    }

    /// Sets the peak to the bytes live now.
    pub fn reset_peak(&self) {
        self.peak.store(self.live.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Counts from now on only threads that called [`count_this_thread`], or all again.
    pub fn only_chosen_threads(&self, only: bool) {
        self.chosen_only.store(only, Ordering::SeqCst);
    }

    fn counts_here(&self) -> bool {
        // A thread that is being torn down has no mark left and counts as not chosen.
        !self.chosen_only.load(Ordering::Relaxed) || COUNTED.try_with(Cell::get).unwrap_or(false)
    }

    fn add(&self, bytes: i64, block: bool) {
        if self.counts_here() {
            self.allocations.fetch_add(u64::from(block), Ordering::SeqCst);
            let live = self.live.fetch_add(bytes, Ordering::SeqCst) + bytes;
            self.peak.fetch_max(live, Ordering::SeqCst);
        }
    }
}

impl Default for CountingAllocator {
    fn default() -> CountingAllocator {
        CountingAllocator::new()
    }
}

// SAFETY: every call is handed to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            self.add(layout.size() as i64, true);
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            self.add(layout.size() as i64, true);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.add(-(layout.size() as i64), false);
        // SAFETY: the caller keeps the contract of `dealloc`, and the block came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `realloc`, and the block came from the system's allocator.
        let moved = unsafe { System.realloc(block, layout, bytes) };
        if !moved.is_null() {
            self.add(bytes as i64 - layout.size() as i64, true);
        }
        moved
    }
}
