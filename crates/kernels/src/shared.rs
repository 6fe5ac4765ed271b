//! A slice that tasks of the pool write in disjoint parts.

use std::marker::PhantomData;

/// Hands out parts of one mutable slice to several tasks.
pub struct SharedMut<'a, T> {
    ptr: *mut T,
    len: usize,
    of: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out by `slice`, whose callers promise that they are disjoint.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Shares `x` until the result is dropped.
    pub fn new(x: &'a mut [T]) -> SharedMut<'a, T> {
        SharedMut { ptr: x.as_mut_ptr(), len: x.len(), of: PhantomData }
    }

    /// Elements `from..from + len`.
    ///
    /// # Safety
    /// No two parts in use at the same time overlap.
    ///
    /// # Panics
    /// If the part reaches beyond the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from + len <= self.len);
        // SAFETY: inside the slice, and disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(from), len) }
    }
}
