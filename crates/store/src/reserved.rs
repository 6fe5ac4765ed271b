//! Reserved address space that grows on demand: KV caches and recurrent states live there.
//!
//! The addresses of the largest size are reserved once (that costs no memory), so growing never moves what is there; pages
//! are taken from the budget as it grows and given back to the operating system as it shrinks. A region has one or more
//! equal parts, one a sequence, that grow apart from each other; what is not held reads as zeros.

use crate::budget::{Budget, BudgetError, Reservation};
use crate::pages::{Pages, page_bytes};
use std::io;
use std::ops::Range;
use thiserror::Error;

/// A region that cannot be reserved or grown.
#[derive(Debug, Error)]
pub enum ReservedError {
    /// The budget refused to grow it.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// More bytes than were reserved.
    #[error("{account}: {bytes} bytes do not fit into the {capacity} that were reserved")]
    Capacity {
        /// The account of the region.
        account: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes reserved.
        capacity: usize,
    },
    /// The operating system refused.
    #[error("{account}: the operating system gives no {bytes} bytes: {source}")]
    Os {
        /// The account of the region.
        account: &'static str,
        /// Bytes asked for.
        bytes: usize,
        /// Its answer.
        source: io::Error,
    },
}

/// A region of equal parts, each of which holds its first bytes.
pub struct Reserved {
    pages: Pages,
    part_bytes: usize,
    /// Bytes that each part holds.
    held: Vec<usize>,
    reservation: Reservation,
}

impl Reserved {
    /// Reserves addresses for `parts` (at least 1) parts of `part_bytes` each, one behind the other, starting at a page;
    /// holds none yet and takes nothing from the budget.
    ///
    /// # Errors
    /// When the operating system has no such range of addresses.
    pub fn new(
        budget: &Budget,
        account: &'static str,
        parts: usize,
        part_bytes: usize,
    ) -> Result<Reserved, ReservedError> {
        let parts = parts.max(1);
        let bytes = parts.saturating_mul(part_bytes);
        let pages = Pages::reserve(bytes, 64).map_err(|source| ReservedError::Os { account, bytes, source })?;
        let reservation = budget.take(account, 0)?;
        Ok(Reserved { pages, part_bytes, held: vec![0; parts], reservation })
    }

    /// Bytes that a part holds.
    pub fn held(&self, part: usize) -> usize {
        self.held[part]
    }

    /// Bytes of all parts at their largest.
    pub fn capacity(&self) -> usize {
        self.part_bytes * self.held.len()
    }

    /// Bytes of a part at its largest.
    pub fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// Bytes taken from the budget: those of every page that holds a byte.
    pub fn committed(&self) -> usize {
        self.reservation.bytes()
    }

    /// Grows a part with zeros or shrinks it to `bytes`; what stays keeps its address and contents.
    ///
    /// # Errors
    /// Beyond the capacity, or when the budget or the operating system refuses; nothing changes then.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn resize(&mut self, part: usize, bytes: usize) -> Result<(), ReservedError> {
        let account = self.reservation.account();
        if bytes > self.part_bytes {
            return Err(ReservedError::Capacity { account, bytes, capacity: self.part_bytes });
        }
        let (start, before) = (part * self.part_bytes, self.held[part]);
        let page = page_bytes();
        if bytes >= before && before > 0 && (start + bytes).div_ceil(page) == (start + before).div_ceil(page) {
            self.held[part] = bytes; // inside the last page that it has
            return Ok(());
        }
        self.held[part] = bytes;
        let committed = self.held_pages() * page;
        let resized = self.reservation.resize(committed);
        if let Err(error) = resized {
            self.held[part] = before;
            return Err(error.into());
        }
        self.pages.commit(committed);
        self.forget(start + bytes..start + before).map_err(|source| ReservedError::Os { account, bytes, source })
    }

    /// Makes a range that no part holds any more read as zeros, and gives back its pages that nobody needs.
    fn forget(&mut self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let page = page_bytes();
        let needed = |at: usize| self.is_held(at / page * page..(at / page + 1) * page);
        let first = if needed(range.start) { range.start.next_multiple_of(page) } else { range.start / page * page };
        let last = range.end - 1;
        let end = if needed(last) { range.end / page * page } else { range.end.next_multiple_of(page) };
        let end = end.max(first);
        let all = self.pages.as_mut_slice();
        all[range.start..first.clamp(range.start, range.end)].fill(0);
        all[end.clamp(range.start, range.end)..range.end].fill(0);
        self.pages.release(first..end)
    }

    /// Whether a part holds a byte of `range`.
    fn is_held(&self, range: Range<usize>) -> bool {
        if self.part_bytes == 0 {
            return false;
        }
        let parts = range.start / self.part_bytes..range.end.div_ceil(self.part_bytes).min(self.held.len());
        parts.into_iter().any(|part| {
            let start = part * self.part_bytes;
            start < range.end && range.start < start + self.held[part]
        })
    }

    /// Pages that hold a byte.
    fn held_pages(&self) -> usize {
        let page = page_bytes();
        let (mut pages, mut counted) = (0, 0);
        for (part, &held) in self.held.iter().enumerate().filter(|(_, held)| **held > 0) {
            let start = part * self.part_bytes;
            let (first, end) = (start / page, (start + held).div_ceil(page));
            pages += end - first.max(counted).min(end);
            counted = end;
        }
        pages
    }

    /// All of it; what is not held reads as zeros.
    pub fn as_slice(&self) -> &[u8] {
        &self.pages.as_slice()[..self.capacity()]
    }

    /// All of it, to write. Writing what is not held takes memory that nobody counts: grow first.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let bytes = self.capacity();
        &mut self.pages.as_mut_slice()[..bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_terabyte_of_addresses_costs_nothing_until_it_grows() {
        let budget = Budget::new(1 << 20);
        let mut kv = Reserved::new(&budget, "kv", 1, 1 << 40).unwrap();
        assert_eq!(budget.held(), 0);
        kv.resize(0, 10).unwrap();
        let start = kv.as_slice().as_ptr();
        kv.as_mut_slice()[..10].copy_from_slice(b"0123456789");
        kv.resize(0, 1 << 20).unwrap();
        assert_eq!(budget.held(), 1 << 20);
        assert_eq!(&kv.as_slice()[..11], b"0123456789\0");
        assert_eq!(kv.as_slice().as_ptr(), start, "growing moves nothing");
        assert!(matches!(kv.resize(0, (1 << 20) + 1), Err(ReservedError::Budget(_))));
        assert_eq!((kv.held(0), kv.committed()), (1 << 20, 1 << 20), "a refusal changes nothing");
        assert!(matches!(kv.resize(0, (1 << 40) + 1), Err(ReservedError::Capacity { .. })));
        drop(kv);
        assert_eq!(budget.held(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn parts_behave_as_vectors_that_are_resized_with_zeros(
            part_bytes in prop_oneof![Just(100usize), Just(4096), Just(5000), Just(20_000)],
            steps in proptest::collection::vec((0usize..3, 0usize..=20_000), 1..20)
        ) {
            let budget = Budget::unlimited();
            let mut region = Reserved::new(&budget, "state", 3, part_bytes).unwrap();
            let mut model = vec![Vec::<u8>::new(); 3];
            for (i, (part, bytes)) in steps.into_iter().enumerate() {
                let bytes = bytes % (part_bytes + 1);
                region.resize(part, bytes).unwrap();
                model[part].resize(bytes, 0);
                let fresh = i as u8 + 1;
                region.as_mut_slice()[part * part_bytes..][..bytes].fill(fresh);
                model[part].fill(fresh);
                let mut whole = vec![0u8; 3 * part_bytes];
                for (part, held) in model.iter().enumerate() {
                    whole[part * part_bytes..][..held.len()].copy_from_slice(held);
                }
                prop_assert_eq!(region.as_slice(), &whole[..]);
                let page = page_bytes();
                let used = |p: usize| model.iter().enumerate().any(|(part, held)| {
                    let start = part * part_bytes;
                    !held.is_empty() && start < (p + 1) * page && p * page < start + held.len()
                });
                let pages = (0..(3 * part_bytes).div_ceil(page)).filter(|&p| used(p)).count();
                prop_assert_eq!(budget.held(), pages * page);
            }
        }
    }
}
