//! Weights asked for ahead of their use, in the order in which they lie in memory.
//!
//! A vector of columns reads as many weight rows side by side; the processor's own prefetchers see
//! too many streams. So while one group of rows is in use, the next one's bytes are asked for, a
//! few lines at a time.

use super::lanes::Lanes;

const LINE: usize = 64;

/// A moving address, never read.
pub(super) struct Prefetch {
    at: *const u8,
}

impl Prefetch {
    /// Starts at `at`.
    #[inline(always)]
    pub fn from(at: *const u8) -> Prefetch {
        Prefetch { at }
    }

    /// Goes to `at`.
    #[inline(always)]
    pub fn jump(&mut self, at: *const u8) {
        self.at = at;
    }

    /// Asks for the next `bytes` bytes.
    ///
    /// # Safety
    /// The processor has the instruction set.
    #[inline(always)]
    pub unsafe fn bytes<L: Lanes>(&mut self, bytes: usize) {
        for line in (0..bytes).step_by(LINE) {
            // SAFETY: the caller promises the instruction set; any address may be asked for.
            unsafe { L::prefetch(self.at.wrapping_add(line)) };
        }
        self.at = self.at.wrapping_add(bytes);
    }
}

/// Pieces of several rows, never read: the next slice of a tile.
pub(super) struct Pieces {
    row: *const u8,
    stride: usize,
    line: usize,
    lines: usize,
    left: usize,
}

impl Pieces {
    /// `bytes` bytes at `at` and at each of `rows` rows, `stride` apart.
    pub fn new(at: *const u8, stride: usize, bytes: usize, rows: usize) -> Pieces {
        // A piece may begin inside a line.
        let lines = bytes / LINE + 1;
        Pieces { row: at, stride, line: 0, lines, left: lines * rows }
    }

    /// Lines not asked for yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Asks for the next `lines` lines, if there are so many.
    ///
    /// # Safety
    /// The processor has the instruction set.
    #[inline(always)]
    pub unsafe fn ask<L: Lanes>(&mut self, lines: usize) {
        for _ in 0..lines.min(self.left) {
            // SAFETY: the caller promises the instruction set; any address may be asked for.
            unsafe { L::prefetch(self.row.wrapping_add(self.line * LINE)) };
            self.line += 1;
            if self.line == self.lines {
                self.line = 0;
                self.row = self.row.wrapping_add(self.stride);
            }
        }
        self.left -= lines.min(self.left);
    }
}
