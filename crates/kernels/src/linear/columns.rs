//! One vector of output columns for a few rows of x, straight from the stored weights: decoding.
//!
//! Lanes are weight rows; blocks are unpacked in registers and used at once.

use super::activations::Activations;
use super::block::{BlockFormat, Unpacked};
use super::lanes::{Lanes, Rows};
use super::prefetch::Prefetch;

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
    let bytes = L::LANES * F::DTYPE.block_bytes();
    // SAFETY: the caller promises the instruction set and the lengths.
    unsafe {
        let mut acc = [L::splat_f(0.0); R];
        for first in (0..blocks).step_by(F::STEP) {
            prefetch.bytes::<L>(bytes);
            F::unpack::<L>(rows, first, |i, w| {
                for (r, acc) in acc.iter_mut().enumerate() {
                    *acc = add_block::<L, F>(*acc, &w, &*x.add(r * stride + first + i));
                }
            });
        }
        acc
    }
}

/// `acc` + the products of one block: see the law in the module above.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn add_block<L: Lanes, F: BlockFormat>(acc: L::F, w: &Unpacked<L>, x: &Activations) -> L::F {
    let word = |g: usize| i32::from_le_bytes(std::array::from_fn(|i| x.codes[4 * g + i] as u8));
    // SAFETY: the caller promises the instruction set.
    unsafe {
        let (first_zero, second_zero) = if F::SUB == 1 {
            (-F::ZERO * x.sum, 0)
        } else {
            (-F::ZERO * x.first_sum, -F::ZERO * (x.sum - x.first_sum))
        };
        let (mut first, mut second) = (L::splat(first_zero), L::splat(second_zero));
        for g in 0..4 {
            first = if F::WIDE {
                L::dot::<true>(first, w.codes[g], word(g))
            } else {
                L::dot::<false>(first, w.codes[g], word(g))
            };
            second = if F::WIDE {
                L::dot::<true>(second, w.codes[g + 4], word(g + 4))
            } else {
                L::dot::<false>(second, w.codes[g + 4], word(g + 4))
            };
        }
        let mut sum = if F::SUB == 1 {
            L::mul(L::to_f(L::add(first, second)), w.scale[0])
        } else {
            L::fma(L::to_f(second), w.scale[1], L::mul(L::to_f(first), w.scale[0]))
        };
        if F::MIN {
            if F::SUB == 1 {
                sum = L::fma(w.min[0], L::splat_f(x.sum as f32), sum);
            } else {
                sum = L::fma(w.min[0], L::splat_f(x.first_sum as f32), sum);
                sum = L::fma(w.min[1], L::splat_f((x.sum - x.first_sum) as f32), sum);
            }
        }
        L::fma(sum, L::splat_f(x.scale), acc)
    }
}
