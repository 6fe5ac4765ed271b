//! One vector of output columns for a few rows of x, straight from the stored weights: decoding.
//!
//! Lanes are weight rows; blocks are unpacked in registers and used at once.

use super::activations::Activations;
use super::block::{
    BlockFormat, End, FLOAT, INTEGER, NONE, Sink, Unpacked, add_scaled, dot_codes, min_words, minus_sums, sum_of,
    times_zero,
};
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
        let (acc, none) = ([L::splat_f(0.0); R], [L::splat(0); R]);
        let mut sums = Sums::<L, F, R> { acc, dots: none, x, stride, prefetch, bytes, format: PhantomData };
        for first in (0..blocks).step_by(F::STEP) {
            F::unpack::<L>(rows, first, &mut sums);
            sums.x = sums.x.add(F::STEP);
        }
        sums.acc
    }
}

/// Outputs so far, what the stored block in work adds, and the activations that meet it.
struct Sums<'a, L: Lanes, F, const R: usize> {
    acc: [L::F; R],
    /// Sums of products of codes, times the scales of sub-blocks: integers, or the bits of f32 where the scales are floats.
    dots: [L::V; R],
    x: *const Activations,
    stride: usize,
    prefetch: &'a mut Prefetch,
    /// To ask for with each part: as many as it has.
    bytes: usize,
    format: PhantomData<F>,
}

impl<L: Lanes, F: BlockFormat, const R: usize> Sink<L> for Sums<'_, L, F, R> {
    #[inline(always)]
    unsafe fn part(&mut self, i: usize, w: Unpacked<L>) {
        // SAFETY: the maker of this promises the instruction set and the lengths.
        unsafe {
            self.prefetch.bytes::<L>(self.bytes);
            for r in 0..R {
                let x = &*self.x.add(r * self.stride + i);
                let [first, second] = dots::<L, F>(&w, x);
                self.dots[r] = match F::SUB {
                    1 => add::<L, F>(self.dots[r], L::add(first, second), w.scale[0]),
                    _ => add::<L, F>(add::<L, F>(self.dots[r], first, w.scale[0]), second, w.scale[1]),
                };
            }
        }
    }

    #[inline(always)]
    unsafe fn end(&mut self, end: End<L>) {
        for r in 0..R {
            // SAFETY: the maker of this promises the instruction set and the lengths.
            unsafe {
                let x = self.x.add(r * self.stride);
                let sum = match F::SCALES {
                    FLOAT => sum_of::<L, FLOAT>(self.dots[r]),
                    _ => sum_of::<L, INTEGER>(self.dots[r]),
                };
                let mut sum = L::mul(sum, end.d);
                if F::MIN {
                    let words = min_words(F::STEP, F::SUB, F::MIN);
                    let mut mins = L::splat(if words == 0 { (*x).minus_sum } else { 0 });
                    for (j, &pair) in end.mins.iter().enumerate().take(words) {
                        let minus = if F::SUB == 1 { minus_sums::<1>(x, j) } else { minus_sums::<2>(x, j) };
                        mins = L::dot_halves(mins, pair, minus);
                    }
                    sum = L::fma(L::to_f(mins), end.minus_min, sum);
                }
                self.acc[r] = L::fma(sum, L::splat_f((*x).scale), self.acc[r]);
                self.dots[r] = L::splat(0);
            }
        }
    }
}

/// [`add_scaled`] of a format.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn add<L: Lanes, F: BlockFormat>(sum: L::V, dot: L::V, scale: L::V) -> L::V {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        match F::SCALES {
            NONE => add_scaled::<L, NONE>(sum, dot, scale),
            INTEGER => add_scaled::<L, INTEGER>(sum, dot, scale),
            _ => add_scaled::<L, FLOAT>(sum, dot, scale),
        }
    }
}

/// Products of the codes of one part and of x, of both halves.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn dots<L: Lanes, F: BlockFormat>(w: &Unpacked<L>, x: &Activations) -> [L::V; 2] {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        match F::ZERO {
            0 => dots_of::<L, F, 0>(w, x),
            1 => dots_of::<L, F, 1>(w, x),
            4 => dots_of::<L, F, 4>(w, x),
            8 => dots_of::<L, F, 8>(w, x),
            16 => dots_of::<L, F, 16>(w, x),
            32 => dots_of::<L, F, 32>(w, x),
            _ => dots_of::<L, F, 128>(w, x),
        }
    }
}

/// As [`dots`], the format's zero as a constant.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn dots_of<L: Lanes, F: BlockFormat, const ZERO: i32>(w: &Unpacked<L>, x: &Activations) -> [L::V; 2] {
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
        [first, second]
    }
}
