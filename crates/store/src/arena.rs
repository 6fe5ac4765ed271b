//! The arena: one slab of the planned size that all activations live in.

use crate::budget::{Budget, BudgetError, Reservation};
use crate::pages::{Pages, whole_pages};
use std::io;
use thiserror::Error;

/// Slabs of at least this size start at a multiple of it and ask for huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// An arena that cannot be made.
#[derive(Debug, Error)]
pub enum ArenaError {
    /// The budget refused.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The operating system refused.
    #[error("the operating system gives no {bytes} bytes for an arena: {source}")]
    Os {
        /// Bytes asked for.
        bytes: usize,
        /// Its answer.
        source: io::Error,
    },
}

/// One slab of memory of a planned size, aligned to 64 bytes (2 MiB and huge pages from 2 MiB up).
pub struct Arena {
    pages: Pages,
    bytes: usize,
    _reservation: Reservation,
}

impl Arena {
    /// An arena of `bytes` zeros, taken from `budget` under `account` in whole pages before it is allocated.
    ///
    /// # Errors
    /// When the budget or the operating system refuses.
    pub fn new(budget: &Budget, account: &'static str, bytes: usize) -> Result<Arena, ArenaError> {
        let held = whole_pages(bytes);
        let reservation = budget.take(account, held)?;
        let huge = bytes >= HUGE_PAGE;
        let pages = Pages::reserve(bytes, if huge { HUGE_PAGE } else { 64 });
        let mut pages = pages.map_err(|source| ArenaError::Os { bytes, source })?;
        if huge {
            pages.advise_huge();
        }
        pages.commit(held);
        Ok(Arena { pages, bytes, _reservation: reservation })
    }

    /// All of it.
    pub fn as_slice(&self) -> &[u8] {
        &self.pages.as_slice()[..self.bytes]
    }

    /// All of it, to write.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_slice()[..self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_zeros_aligned_and_counted_in_whole_pages() {
        for bytes in [0, 1, 4096, 100_000, HUGE_PAGE, HUGE_PAGE + 1] {
            let budget = Budget::unlimited();
            let mut arena = Arena::new(&budget, "arena", bytes).unwrap();
            assert_eq!(arena.as_slice().len(), bytes);
            assert!(arena.as_slice().iter().all(|&b| b == 0));
            assert!(arena.as_slice().as_ptr().addr().is_multiple_of(if bytes < HUGE_PAGE { 64 } else { HUGE_PAGE }));
            assert_eq!(budget.held(), whole_pages(bytes));
            arena.as_mut_slice().fill(3);
            drop(arena);
            assert_eq!(budget.held(), 0);
        }
    }
}
