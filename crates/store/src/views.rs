//! Typed views of one slab of memory, many at a time, none of which overlaps what another one writes.
//!
//! The borrow checker cannot see that two planned tensors of an arena are apart, so [`Views`] checks it: it borrows the slab
//! mutably, remembers each span that it has given out, and refuses one that would overlap a span given out for writing.

use bytemuck::Pod;
use std::cell::{RefCell, RefMut};
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use thiserror::Error;

/// A range of bytes of a slab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// First byte.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}

impl Span {
    /// The bytes `offset .. offset + bytes`.
    pub const fn new(offset: usize, bytes: usize) -> Span {
        Span { offset, bytes }
    }

    /// The first byte after it, or `None` beyond the address space.
    pub const fn end(self) -> Option<usize> {
        self.offset.checked_add(self.bytes)
    }

    /// True when both hold some byte.
    pub const fn overlaps(self, other: Span) -> bool {
        self.bytes > 0
            && other.bytes > 0
            && self.offset < other.offset.saturating_add(other.bytes)
            && other.offset < self.offset.saturating_add(self.bytes)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, +{})", self.offset, self.bytes)
    }
}

/// A view that would be wrong to give out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ViewError {
    /// The span ends beyond the slab.
    #[error("span {span} ends beyond the slab of {slab} bytes")]
    OutOfBounds {
        /// The span asked for.
        span: Span,
        /// Bytes of the slab.
        slab: usize,
    },
    /// The span does not start at a multiple of the element's alignment or is no whole number of elements.
    #[error("span {span} does not hold whole {element} values: it must start and end at multiples of {size} bytes")]
    Misaligned {
        /// The span asked for.
        span: Span,
        /// The element type.
        element: &'static str,
        /// Bytes of an element.
        size: usize,
    },
    /// The span overlaps one that is in use, and one of the two is written.
    #[error("span {span} overlaps span {taken}, which is in use, and one of the two is written")]
    Overlap {
        /// The span asked for.
        span: Span,
        /// The span given out before.
        taken: Span,
    },
}

#[derive(Clone, Copy)]
pub(crate) struct Taken {
    span: Span,
    written: bool,
}

/// Hands out views of a slab that is borrowed for `'a`; all views of one `Views` may live at the same time.
pub struct Views<'a> {
    base: NonNull<u8>,
    bytes: usize,
    high_water: &'a mut usize,
    taken: RefCell<&'a mut Vec<Taken>>,
    slab: PhantomData<&'a mut [u8]>,
}

impl<'a> Views<'a> {
    /// Views of `bytes` bytes at `base`.
    ///
    /// # Safety
    /// For `'a`, `base .. base + bytes` must be initialized memory that nothing else reads or writes.
    pub(crate) unsafe fn new(
        base: NonNull<u8>,
        bytes: usize,
        taken: &'a mut Vec<Taken>,
        high_water: &'a mut usize,
    ) -> Views<'a> {
        taken.clear();
        Views { base, bytes, high_water, taken: RefCell::new(taken), slab: PhantomData }
    }

    /// A view to read; it may overlap other views that are read.
    ///
    /// # Errors
    /// Out of bounds, misaligned, or overlapping a span that is written.
    pub fn read<T: Pod>(&self, span: Span) -> Result<&'a [T], ViewError> {
        let (pointer, len) = self.take::<T>(span, false)?;
        // SAFETY: `take` checked bounds and alignment and that no view to write overlaps; Pod accepts any bytes; the slab is
        // ours for 'a.
        Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
    }

    /// A view to write; it overlaps no other view of these `Views`.
    ///
    /// # Errors
    /// Out of bounds, misaligned, or overlapping any span given out before.
    #[allow(clippy::mut_from_ref)] // each call gives another part, checked at run time
    pub fn write<T: Pod>(&self, span: Span) -> Result<&'a mut [T], ViewError> {
        let (pointer, len) = self.take::<T>(span, true)?;
        // SAFETY: as `read`; and since no span given out before overlaps and later ones are checked against this one, the
        // slice is the only reference to its bytes.
        Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
    }

    fn take<T: Pod>(&self, span: Span, written: bool) -> Result<(*mut T, usize), ViewError> {
        if span.end().is_none_or(|end| end > self.bytes) {
            return Err(ViewError::OutOfBounds { span, slab: self.bytes });
        }
        let size = size_of::<T>();
        // SAFETY: offset <= bytes, inside the slab or one past its end.
        let pointer = unsafe { self.base.add(span.offset) }.as_ptr().cast::<T>();
        if size == 0 || !pointer.is_aligned() || !span.bytes.is_multiple_of(size) {
            return Err(ViewError::Misaligned { span, element: std::any::type_name::<T>(), size });
        }
        let mut taken: RefMut<'_, &'a mut Vec<Taken>> = self.taken.borrow_mut();
        if let Some(other) = taken.iter().find(|t| (t.written || written) && t.span.overlaps(span)) {
            return Err(ViewError::Overlap { span, taken: other.span });
        }
        taken.push(Taken { span, written });
        Ok((pointer, span.bytes / size))
    }
}

impl Drop for Views<'_> {
    fn drop(&mut self) {
        let taken = self.taken.borrow();
        let end = taken.iter().filter_map(|t| t.span.end()).max().unwrap_or(0);
        *self.high_water = (*self.high_water).max(end);
    }
}
