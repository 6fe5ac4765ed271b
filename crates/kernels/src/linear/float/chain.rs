//! One chain over k, lanes weight rows: F32 for a few rows of x.

use super::{FloatFormat, Sink, term, words};
use crate::linear::lanes::{Lanes, Rows};
use crate::linear::prefetch::Prefetch;
use std::marker::PhantomData;

/// Outputs so far, and the words of x.
struct Sums<L: Lanes, F, const R: usize> {
    acc: [L::F; R],
    x: *const u32,
    stride: usize,
    format: PhantomData<F>,
}

impl<L: Lanes, F: FloatFormat, const R: usize> Sink<L> for Sums<L, F, R> {
    #[inline(always)]
    unsafe fn word(&mut self, k: usize, w: L::V) {
        for r in 0..R {
            // SAFETY: the maker of this promises the instruction set and the lengths.
            unsafe {
                let x = L::splat(*self.x.add(r * self.stride + k) as i32);
                self.acc[r] =
                    if F::PAIRS { term::<L, true>(self.acc[r], w, x) } else { term::<L, false>(self.acc[r], w, x) };
            }
        }
    }
}

/// Outputs of `R` rows of x, `words_in_row` words apart, for the weight rows of one vector.
///
/// # Safety
/// The processor has the instruction set; rows and x have the lengths given.
#[inline(always)]
pub(in crate::linear) unsafe fn columns<L: Lanes, F: FloatFormat, const R: usize>(
    rows: &Rows,
    row_bytes: usize,
    x: *const u32,
    words_in_row: usize,
    prefetch: &mut Prefetch,
) -> [L::F; R] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sums = Sums::<L, F, R> { acc: [L::splat_f(0.0); R], x, stride: words_in_row, format: PhantomData };
        words::<L, F>(rows, row_bytes, 0, words_in_row, Some(prefetch), &mut sums);
        sums.acc
    }
}
