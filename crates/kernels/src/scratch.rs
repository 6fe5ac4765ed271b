//! Cutting the scratch memory that a caller passes in.

use bytemuck::Pod;
use std::ops::Range;

/// Every piece begins at a multiple of this.
const ALIGN: usize = 64;

/// Bytes of `n` elements, rounded up so that the next piece is aligned.
pub(crate) const fn bytes<T>(n: usize) -> usize {
    (n * size_of::<T>()).next_multiple_of(ALIGN)
}

/// `n` places from `at` on.
#[inline(always)]
pub(crate) const fn span(at: usize, n: usize) -> Range<usize> {
    at..at + n
}

/// What [`Scratch::new`] may lose at the front of unaligned memory.
pub(crate) const SLACK: usize = ALIGN;

/// Memory from which pieces are cut, front to back.
pub(crate) struct Scratch<'a>(&'a mut [u8]);

impl<'a> Scratch<'a> {
    pub(crate) fn new(memory: &'a mut [u8]) -> Scratch<'a> {
        let skip = memory.as_ptr().align_offset(ALIGN).min(memory.len());
        Scratch(&mut memory[skip..])
    }

    /// The next `n` elements, with whatever was there.
    ///
    /// # Panics
    /// If the memory is too small: the caller passed less than the `..._scratch` function said.
    pub(crate) fn take<T: Pod>(&mut self, n: usize) -> &'a mut [T] {
        let memory = std::mem::take(&mut self.0);
        assert!(memory.len() >= bytes::<T>(n), "scratch: {} bytes left, {} needed", memory.len(), bytes::<T>(n));
        let (piece, rest) = memory.split_at_mut(bytes::<T>(n));
        self.0 = rest;
        bytemuck::cast_slice_mut(&mut piece[..n * size_of::<T>()])
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a mut [u8] {
        self.0
    }

    /// One piece of `bytes_each` for each of `workers`.
    pub(crate) fn per_worker(&mut self, workers: usize, bytes_each: usize) -> PerWorker {
        PerWorker { start: self.take::<u8>(workers * bytes_each).as_mut_ptr(), bytes_each, workers }
    }
}

/// Scratch of each worker of a pool.
#[derive(Clone, Copy)]
pub(crate) struct PerWorker {
    start: *mut u8,
    bytes_each: usize,
    workers: usize,
}

// SAFETY: `of` hands each worker a piece of its own.
unsafe impl Sync for PerWorker {}
// SAFETY: as above.
unsafe impl Send for PerWorker {}

impl PerWorker {
    /// The piece of `worker`.
    ///
    /// # Safety
    /// Only that worker calls this, one piece at a time, while the memory is borrowed.
    pub(crate) unsafe fn of<'a>(self, worker: usize) -> Scratch<'a> {
        assert!(worker < self.workers);
        // SAFETY: inside the memory that `per_worker` took; the caller promises to be alone.
        Scratch(unsafe { std::slice::from_raw_parts_mut(self.start.add(worker * self.bytes_each), self.bytes_each) })
    }
}
