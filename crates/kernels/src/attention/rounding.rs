//! Operands of the products rounded to bf16, where [`Compute::Bf16`] asks for it.
//!
//! Products of two rounded operands are exact in f32, and sums are as in f32: what bf16 hardware
//! computes up to the rounding of its sums.

use super::Attention;
use crate::Real;
use crate::gemm::Compute;

/// Rounds f32 to the nearest bf16, ties to even, if `a` computes in bf16; f64 stays as it is.
#[inline(always)]
pub(super) fn round_operands<T: Real>(a: &Attention, x: &mut [T]) {
    if a.compute == Compute::F32 {
        return;
    }
    for x in T::as_f32_mut(x).into_iter().flatten() {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
        *x = if x.is_nan() { *x } else { f32::from_bits(rounded) };
    }
}
