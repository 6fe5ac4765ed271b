//! One vector of output columns for a few rows of x, straight from the stored weights: decoding.
//!
//! Lanes are weight rows; blocks are unpacked in registers and used at once.

use super::activations::Activations;
use super::block::{BlockFormat, Sink, Unpacked, dot_codes, times_zero};
use super::lanes::{Lanes, Rows};
use super::prefetch::Prefetch;
use std::marker::PhantomData;

/// Outputs of `R` rows of x for the weight rows of one vector.
///
/// `x` is the first block of activations of row 0, the rows `stride` blocks apart.
///
/// # Safety
/// The processor has the instruction set; the rows hold `blocks` blocks of 32, as does x.
#[inline(always)]
pub(super) unsafe fn columns<L: Lanes, F: BlockFormat, const R: usize>(
    rows: &Rows,
    blocks: usize,
    x: *const Activations,
    stride: usize,
    prefetch: &mut Prefetch,
) -> [L::F; R] {
    let bytes = L::LANES * F::DTYPE.block_bytes() / F::STEP;
    // SAFETY: the caller promises the instruction set and the lengths.
    unsafe {
        let mut sums = Sums::<L, F, R> { acc: [L::splat_f(0.0); R], x, stride, prefetch, bytes, format: PhantomData };
        for first in (0..blocks).step_by(F::STEP) {
            F::unpack::<L>(rows, first, &mut sums);
            sums.x = sums.x.add(F::STEP);
        }
        sums.acc
    }
}

/// Outputs so far, and the activations that meet the next stored block.
struct Sums<'a, L: Lanes, F, const R: usize> {
    acc: [L::F; R],
    x: *const Activations,
    stride: usize,
    prefetch: &'a mut Prefetch,
    /// To ask for with each block: as many as it has.
    bytes: usize,
    format: PhantomData<F>,
}

impl<L: Lanes, F: BlockFormat, const R: usize> Sink<L> for Sums<'_, L, F, R> {
    #[inline(always)]
    unsafe fn block(&mut self, i: usize, w: Unpacked<L>) {
        // SAFETY: the maker of this promises the instruction set.
        unsafe { self.prefetch.bytes::<L>(self.bytes) };
        for r in 0..R {
            // SAFETY: the maker of this promises the instruction set and the lengths.
            unsafe { self.acc[r] = add_block::<L, F>(self.acc[r], &w, &*self.x.add(r * self.stride + i)) };
        }
    }
}

/// `acc` + the products of one block: see the law in the module above.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn add_block<L: Lanes, F: BlockFormat>(acc: L::F, w: &Unpacked<L>, x: &Activations) -> L::F {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        match F::ZERO {
            0 => add_block_of::<L, F, 0>(acc, w, x),
            4 => add_block_of::<L, F, 4>(acc, w, x),
            8 => add_block_of::<L, F, 8>(acc, w, x),
            16 => add_block_of::<L, F, 16>(acc, w, x),
            32 => add_block_of::<L, F, 32>(acc, w, x),
            _ => add_block_of::<L, F, 128>(acc, w, x),
        }
    }
}

/// As [`add_block`], the format's zero as a constant.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn add_block_of<L: Lanes, F: BlockFormat, const ZERO: i32>(acc: L::F, w: &Unpacked<L>, x: &Activations) -> L::F {
    let word = |g: usize| i32::from_le_bytes(std::array::from_fn(|i| x.codes[4 * g + i] as u8));
    // SAFETY: the caller promises the instruction set.
    unsafe {
        let (mut first, mut second) = if F::SUB == 1 {
            (times_zero::<L, ZERO>(L::splat(x.minus_sum)), L::splat(0))
        } else {
            (times_zero::<L, ZERO>(L::splat(x.minus_first)), times_zero::<L, ZERO>(L::splat(x.minus_second)))
        };
        for g in 0..4 {
            first = dot_codes::<L, ZERO>(first, w.codes[g], word(g));
            second = dot_codes::<L, ZERO>(second, w.codes[g + 4], word(g + 4));
        }
        let mut sum = if F::SUB == 1 {
            L::mul(L::to_f(L::add(first, second)), w.scale[0])
        } else {
            L::fma(L::to_f(second), w.scale[1], L::mul(L::to_f(first), w.scale[0]))
        };
        if F::MIN {
            if F::SUB == 1 {
                sum = L::fma(w.minus_min[0], L::to_f(L::splat(x.minus_sum)), sum);
            } else {
                sum = L::fma(w.minus_min[0], L::to_f(L::splat(x.minus_first)), sum);
                sum = L::fma(w.minus_min[1], L::to_f(L::splat(x.minus_second)), sum);
            }
        }
        L::fma(sum, L::splat_f(x.scale), acc)
    }
}
