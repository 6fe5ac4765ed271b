//! Reserved address space that grows on demand: KV caches and recurrent states live there.
//!
//! The addresses of the largest size are reserved once (that costs no memory), so growing never moves what is there; pages
//! are taken from the budget as it grows and given back to the operating system as it shrinks.

use crate::budget::{Budget, BudgetError, Reservation};
use crate::pages::{Pages, round_to_pages};
use crate::views::{Taken, Views};
use bytemuck::Pod;
use std::io;
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

/// A region of up to `capacity` bytes that holds `len` of them.
pub struct Reserved {
    pages: Pages,
    len: usize,
    capacity: usize,
    taken: Vec<Taken>,
    high_water: usize,
    reservation: Reservation,
}

impl Reserved {
    /// Reserves addresses for `capacity` bytes, starting at a page; holds none yet and takes nothing from the budget.
    ///
    /// # Errors
    /// When the operating system has no such range of addresses.
    pub fn new(budget: &Budget, account: &'static str, capacity: usize) -> Result<Reserved, ReservedError> {
        let pages =
            Pages::reserve(capacity, 64).map_err(|source| ReservedError::Os { account, bytes: capacity, source })?;
        let reservation = budget.take(account, 0)?;
        Ok(Reserved { pages, len: 0, capacity, taken: Vec::with_capacity(8), high_water: 0, reservation })
    }

    /// Bytes that it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it can grow to.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes taken from the budget: `len` rounded up to pages.
    pub fn committed(&self) -> usize {
        self.reservation.bytes()
    }

    /// Grows with zeros or shrinks to `bytes`; what stays keeps its address and contents.
    ///
    /// # Errors
    /// Beyond the capacity, or when the budget or the operating system refuses; nothing changes then.
    pub fn resize(&mut self, bytes: usize) -> Result<(), ReservedError> {
        let account = self.reservation.account();
        if bytes > self.capacity {
            return Err(ReservedError::Capacity { account, bytes, capacity: self.capacity });
        }
        let os = |source| ReservedError::Os { account, bytes, source };
        let committed = self.pages.committed();
        let target = round_to_pages(bytes).unwrap_or(usize::MAX);
        if target > committed {
            self.reservation.resize(target)?;
            if let Err(source) = self.pages.commit(bytes) {
                self.reservation.resize(committed)?;
                return Err(os(source));
            }
        } else if target < committed {
            self.pages.commit(bytes).map_err(os)?;
            self.reservation.resize(target)?;
        }
        if bytes < self.len {
            // Zeros are promised when it grows again, and this part of the last page stays.
            let end = self.len.min(target);
            self.pages.as_mut_slice()[bytes..end].fill(0);
        }
        self.len = bytes;
        Ok(())
    }

    /// What it holds, as values; bytes after the last whole value are left out.
    pub fn as_slice<T: Pod>(&self) -> &[T] {
        let whole = self.len - self.len.checked_rem(size_of::<T>()).unwrap_or(0);
        bytemuck::cast_slice(&self.pages.as_slice()[..whole])
    }

    /// What it holds, as values to write; bytes after the last whole value are left out.
    pub fn as_mut_slice<T: Pod>(&mut self) -> &mut [T] {
        let whole = self.len - self.len.checked_rem(size_of::<T>()).unwrap_or(0);
        bytemuck::cast_slice_mut(&mut self.pages.as_mut_slice()[..whole])
    }

    /// Starts a round of disjoint views of what it holds.
    pub fn views(&mut self) -> Views<'_> {
        // SAFETY: the first `len` bytes are committed and initialized, and the returned value borrows `self` mutably for as
        // long as any view of it lives.
        unsafe { Views::new(self.pages.base(), self.len, &mut self.taken, &mut self.high_water) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Span, page_bytes};
    use proptest::prelude::*;

    #[test]
    fn a_terabyte_of_addresses_costs_nothing_until_it_grows() {
        let budget = Budget::new(1 << 20);
        let mut kv = Reserved::new(&budget, "kv", 1 << 40).unwrap();
        assert_eq!(budget.held(), 0);
        kv.resize(10).unwrap();
        let start = kv.as_slice::<u8>().as_ptr();
        kv.as_mut_slice::<u8>().copy_from_slice(b"0123456789");
        kv.resize(1 << 20).unwrap();
        assert_eq!(budget.held(), 1 << 20);
        assert_eq!(&kv.as_slice::<u8>()[..11], b"0123456789\0");
        assert_eq!(kv.as_slice::<u8>().as_ptr(), start, "growing moves nothing");
        assert!(matches!(kv.resize((1 << 20) + 1), Err(ReservedError::Budget(_))));
        assert_eq!(kv.len(), 1 << 20, "a refusal changes nothing");
        assert!(matches!(kv.resize((1 << 40) + 1), Err(ReservedError::Capacity { .. })));
        drop(kv);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn views_end_where_the_contents_end() {
        let mut state = Reserved::new(&Budget::unlimited(), "state", 4096).unwrap();
        state.resize(100).unwrap();
        assert!(state.views().write::<f32>(Span::new(96, 4)).is_ok());
        assert!(state.views().write::<f32>(Span::new(100, 4)).is_err());
        assert_eq!((state.as_slice::<f64>().len(), state.as_slice::<u8>().len()), (12, 100));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_behaves_as_a_vector_that_is_resized_with_zeros(
            sizes in proptest::collection::vec(0usize..40_000, 1..20)
        ) {
            let budget = Budget::unlimited();
            let mut region = Reserved::new(&budget, "state", 40_000).unwrap();
            let mut model: Vec<u8> = Vec::new();
            for (i, bytes) in sizes.into_iter().enumerate() {
                region.resize(bytes).unwrap();
                model.resize(bytes, 0);
                prop_assert_eq!(region.as_slice::<u8>(), &model[..]);
                prop_assert_eq!(budget.held(), bytes.next_multiple_of(page_bytes()));
                region.as_mut_slice::<u8>().fill(i as u8 + 1);
                model.fill(i as u8 + 1);
            }
        }
    }
}
