//! The arena: one slab of the planned size that all activations live in, with poison and fences for the laws.

use crate::budget::{Budget, BudgetError, Reservation};
use crate::pages::{Pages, round_to_pages};
use crate::views::{Span, Taken, ViewError, Views};
use std::io;
use thiserror::Error;

/// Slabs of at least this size start at a multiple of it and ask for huge pages.
const HUGE_PAGE: usize = 2 << 20;

/// The byte that poison consists of: four or eight of them are a NaN, four an index of -1.
pub const POISON: u8 = 0xFF;

/// Fences are filled with it: no poison, no zero, and no plain number in f32.
const CANARY: u8 = 0xA5;

/// An arena that cannot be made or a fence that was crossed.
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
    /// A span is not part of the arena.
    #[error(transparent)]
    View(#[from] ViewError),
    /// Something wrote where no tensor lives.
    #[error(
        "byte {offset} of the arena, in the fence {fence}, was overwritten with {found:#04x}: a kernel wrote outside its tensor"
    )]
    Fence {
        /// The byte that changed.
        offset: usize,
        /// The fence it belongs to.
        fence: Span,
        /// What it holds now.
        found: u8,
    },
}

/// One slab of memory of a planned size, aligned to 64 bytes (2 MiB and huge pages from 2 MiB up).
pub struct Arena {
    pages: Pages,
    bytes: usize,
    taken: Vec<Taken>,
    high_water: usize,
    fences: Vec<Span>,
    _reservation: Reservation,
}

impl Arena {
    /// An arena of `bytes` zeros, taken from `budget` under `account` in whole pages before it is allocated.
    ///
    /// # Errors
    /// When the budget or the operating system refuses.
    pub fn new(budget: &Budget, account: &'static str, bytes: usize) -> Result<Arena, ArenaError> {
        let reservation = budget.take(account, round_to_pages(bytes).unwrap_or(usize::MAX))?;
        let os = |source| ArenaError::Os { bytes, source };
        let huge = bytes >= HUGE_PAGE;
        let mut pages = Pages::reserve(bytes, if huge { HUGE_PAGE } else { 64 }).map_err(os)?;
        if huge {
            pages.advise_huge();
        }
        pages.commit(bytes).map_err(os)?;
        let taken = Vec::with_capacity(64);
        Ok(Arena { pages, bytes, taken, high_water: 0, fences: Vec::new(), _reservation: reservation })
    }

    /// Bytes of the slab, as planned.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Starts a round of views; those of an earlier round are gone, so their spans may be given out anew.
    ///
    /// Allocates nothing once a round has had as many views as this one will (64 are free).
    pub fn views(&mut self) -> Views<'_> {
        // SAFETY: the pages are committed up to `bytes` and zeroed by the system, and the returned value borrows `self`
        // mutably for as long as any view of it lives.
        unsafe { Views::new(self.pages.base(), self.bytes, &mut self.taken, &mut self.high_water) }
    }

    /// The end of the highest view given out since the start or [`Arena::reset_high_water`].
    pub fn high_water(&self) -> usize {
        self.high_water
    }

    /// Forgets the highest view.
    pub fn reset_high_water(&mut self) {
        self.high_water = 0;
    }

    /// Fills a span with [`POISON`], so that a kernel that reads what nobody wrote shows up as NaN.
    ///
    /// # Errors
    /// When the span is not inside the arena.
    pub fn poison(&mut self, span: Span) -> Result<(), ArenaError> {
        self.fill(span, POISON)
    }

    /// Fills a span that belongs to no tensor with a canary, which [`Arena::check_fences`] looks for.
    ///
    /// # Errors
    /// When the span is not inside the arena.
    pub fn fence(&mut self, span: Span) -> Result<(), ArenaError> {
        self.fill(span, CANARY)?;
        self.fences.push(span);
        Ok(())
    }

    /// Looks at every byte of every fence.
    ///
    /// # Errors
    /// The first byte that something has overwritten.
    pub fn check_fences(&self) -> Result<(), ArenaError> {
        let slab = self.pages.as_slice();
        for &fence in &self.fences {
            let bytes = &slab[fence.offset..fence.offset + fence.bytes];
            if let Some(at) = bytes.iter().position(|&byte| byte != CANARY) {
                return Err(ArenaError::Fence { offset: fence.offset + at, fence, found: bytes[at] });
            }
        }
        Ok(())
    }

    /// Forgets all fences; their bytes stay as they are.
    pub fn clear_fences(&mut self) {
        self.fences.clear();
    }

    fn fill(&mut self, span: Span, byte: u8) -> Result<(), ArenaError> {
        let end = span.end().filter(|&end| end <= self.bytes);
        let end = end.ok_or(ViewError::OutOfBounds { span, slab: self.bytes })?;
        self.pages.as_mut_slice()[span.offset..end].fill(byte);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arena(bytes: usize) -> Arena {
        Arena::new(&Budget::unlimited(), "arena", bytes).unwrap()
    }

    #[test]
    fn views_are_typed_aligned_and_apart() {
        let mut arena = arena(4096);
        let views = arena.views();
        let y = views.write::<f32>(Span::new(64, 64)).unwrap();
        let ids = views.write::<i32>(Span::new(0, 64)).unwrap();
        y.fill(2.5);
        ids.fill(-7);
        assert_eq!((y.len(), ids.len()), (16, 16));
        assert!(y.iter().all(|&v| v == 2.5) && ids.iter().all(|&v| v == -7));
        assert!(y.as_ptr().addr().is_multiple_of(64));
        drop(views);
        assert_eq!(arena.high_water(), 128);
        assert_eq!(arena.views().read::<i32>(Span::new(0, 64)).unwrap(), [-7; 16]);
    }

    #[test]
    fn reads_may_overlap_and_writes_may_not() {
        let mut arena = arena(1024);
        let views = arena.views();
        let a = views.read::<f32>(Span::new(0, 256)).unwrap();
        let b = views.read::<f32>(Span::new(128, 256)).unwrap();
        assert_eq!(a[32..].as_ptr(), b.as_ptr());
        assert!(matches!(views.write::<f32>(Span::new(380, 8)), Err(ViewError::Overlap { .. })));
        views.write::<f32>(Span::new(384, 64)).unwrap();
        assert!(matches!(views.read::<u8>(Span::new(447, 1)), Err(ViewError::Overlap { .. })));
        assert!(views.read::<u8>(Span::new(448, 1)).is_ok());
        assert!(views.write::<f32>(Span::new(0, 0)).is_ok(), "an empty view overlaps nothing");
    }

    #[test]
    fn bad_spans_are_refused() {
        let mut arena = arena(100);
        let views = arena.views();
        assert!(matches!(views.read::<u8>(Span::new(96, 5)), Err(ViewError::OutOfBounds { .. })));
        assert!(matches!(views.read::<u8>(Span::new(usize::MAX, 2)), Err(ViewError::OutOfBounds { .. })));
        assert!(matches!(views.read::<f32>(Span::new(2, 8)), Err(ViewError::Misaligned { .. })));
        assert!(matches!(views.read::<f32>(Span::new(4, 6)), Err(ViewError::Misaligned { .. })));
        drop(views);
        assert!(arena.poison(Span::new(90, 11)).is_err());
        assert!(arena.fence(Span::new(usize::MAX, 2)).is_err());
    }

    #[test]
    fn poison_is_nan_in_every_float_type() {
        let mut arena = arena(64);
        arena.poison(Span::new(0, 64)).unwrap();
        let views = arena.views();
        assert!(views.read::<f32>(Span::new(0, 64)).unwrap().iter().all(|v| v.is_nan()));
        assert!(views.read::<f64>(Span::new(0, 64)).unwrap().iter().all(|v| v.is_nan()));
        assert!(views.read::<i32>(Span::new(0, 64)).unwrap().iter().all(|&v| v == -1));
    }

    #[test]
    fn a_crossed_fence_is_found_at_its_byte() {
        let mut arena = arena(512);
        arena.fence(Span::new(128, 64)).unwrap();
        arena.fence(Span::new(448, 64)).unwrap();
        arena.check_fences().unwrap();
        arena.views().write::<u8>(Span::new(0, 129)).unwrap().fill(0);
        match arena.check_fences().unwrap_err() {
            ArenaError::Fence { offset, fence, found } => {
                assert_eq!((offset, fence, found), (128, Span::new(128, 64), 0));
            }
            other => panic!("{other}"),
        }
    }

    proptest! {
        #[test]
        fn no_byte_is_ever_in_two_written_views(
            spans in proptest::collection::vec((0usize..600, 0usize..200, any::<bool>()), 1..40)
        ) {
            let mut arena = arena(512);
            let views = arena.views();
            let mut owner = [0u8; 512]; // 0 free, 1 read, 2 written
            for (offset, bytes, write) in spans {
                let span = Span::new(offset, bytes);
                let fits = offset + bytes <= 512;
                let free = fits && owner[offset..offset + bytes].iter().all(|&o| o == 0 || (o == 1 && !write));
                let given = if write { views.write::<u8>(span).is_ok() } else { views.read::<u8>(span).is_ok() };
                prop_assert_eq!(given, free, "{}", span);
                if given {
                    owner[offset..offset + bytes].fill(if write { 2 } else { 1 });
                }
            }
        }
    }
}
