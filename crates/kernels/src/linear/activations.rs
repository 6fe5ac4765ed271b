//! Activations as the kernels read them: int8 blocks of 32 for block formats, pairs of bf16 for BF16.
//!
//! Block: `scale = amax / 127`, `code = round_to_even(x · (127 / amax))`, so codes are in -127..=127.
//! A block with an infinity or a NaN gets the scale NaN, so every output that it reaches is NaN. A
//! block whose `127 / amax` is no finite number (amax below about 4e-37) becomes zeros.

use crate::Isa;

/// 32 activations of one row.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(16))]
pub(super) struct Activations {
    /// Codes in order, in -127..=127.
    pub codes: [i8; 32],
    /// Value of one step of a code.
    pub scale: f32,
    /// Sum of the codes.
    pub sum: i32,
    /// Sum of the first 16 codes.
    pub first_sum: i32,
    /// Keeps the size a multiple of the alignment.
    pub padding: u32,
}

/// Values in a block of activations.
pub(super) const BLOCK: usize = 32;

const _: () = assert!(size_of::<Activations>() == 48);

/// Quantizes `x`, whole blocks, into as many [`Activations`].
pub(super) fn quantize(isa: Isa, x: &[f32], blocks: &mut [Activations]) {
    debug_assert_eq!(x.len(), blocks.len() * BLOCK);
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: the caller names an instruction set only if the processor has it.
        Isa::Avx512 => return unsafe { avx512(x, blocks) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { avx2(x, blocks) },
        Isa::Portable => {}
    }
    let _ = isa;
    body(x, blocks);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512(x: &[f32], blocks: &mut [Activations]) {
    body(x, blocks);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(x: &[f32], blocks: &mut [Activations]) {
    body(x, blocks);
}

#[inline(always)]
fn body(x: &[f32], blocks: &mut [Activations]) {
    const INFINITY_BITS: u32 = 0x7f80_0000;
    for (x, block) in x.as_chunks::<BLOCK>().0.iter().zip(blocks) {
        // Bits of a magnitude order as the magnitude does, with infinities and NaNs on top.
        let amax_bits = x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff));
        let amax = f32::from_bits(amax_bits);
        let mut inverse = 127.0 / amax;
        let mut scale = amax / 127.0;
        if amax_bits >= INFINITY_BITS {
            (inverse, scale) = (0.0, f32::NAN);
        } else if !inverse.is_finite() {
            (inverse, scale) = (0.0, 0.0);
        }
        let mut codes = [0i8; BLOCK];
        if inverse != 0.0 {
            for (code, v) in codes.iter_mut().zip(x) {
                // SAFETY: |v| ≤ amax, finite, so the product is at most 127 and a rounding error.
                *code = unsafe { (v * inverse).round_ties_even().to_int_unchecked::<i32>() } as i8;
            }
        }
        let sum_of = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum::<i32>();
        let first_sum = sum_of(&codes[..16]);
        let sum = first_sum + sum_of(&codes[16..]);
        *block = Activations { codes, scale, sum, first_sum, padding: 0 };
    }
}

/// Rounds rows of `k` values to bf16 and joins neighbours, the earlier in the low half; an odd last
/// value is joined with 0. `pairs` has `k.div_ceil(2)` words a row.
pub(super) fn pair_bf16(x: &[f32], k: usize, pairs: &mut [u32]) {
    let word = |v: f32| u32::from(half::bf16::from_f32(v).to_bits());
    for (x, pairs) in x.chunks_exact(k).zip(pairs.chunks_exact_mut(k.div_ceil(2))) {
        for (x, pair) in x.chunks(2).zip(pairs) {
            *pair = word(x[0]) | x.get(1).map_or(0, |&v| word(v)) << 16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(x: [f32; BLOCK]) -> Activations {
        let mut block = [Activations { codes: [1; 32], scale: 1.0, sum: 1, first_sum: 1, padding: 1 }];
        quantize(Isa::detect(), &x, &mut block);
        block[0]
    }

    #[test]
    fn codes_are_the_nearest_and_symmetric() {
        let x: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 * 1.7).sin() * 3.0);
        let b = one(x);
        let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (c, v) in b.codes.iter().zip(x) {
            assert!((f32::from(*c) * b.scale - v).abs() <= amax / 127.0 * 0.500_01);
        }
        assert_eq!(b.sum, b.codes.iter().map(|&c| i32::from(c)).sum::<i32>());
        assert_eq!(one(x.map(|v| -v)).codes, b.codes.map(|c| -c));
    }

    #[test]
    fn a_value_that_is_not_finite_makes_the_scale_nan() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; BLOCK];
            x[17] = bad;
            assert!(one(x).scale.is_nan());
        }
    }

    #[test]
    fn zero_tiny_and_huge_blocks_stay_finite() {
        for v in [0.0, -0.0, f32::MIN_POSITIVE, 1e-45, 3e-37, f32::MAX, -f32::MAX] {
            let b = one([v; BLOCK]);
            assert!(b.scale.is_finite(), "{v}");
            let (v, back) = (f64::from(v), f64::from(b.codes[0]) * f64::from(b.scale));
            assert!((back - v).abs() <= v.abs() * 1e-6 || v.abs() < 4e-37, "{v} became {back}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_blocks() {
        let x: Vec<f32> = (0..32 * 64).map(|i: i32| ((i * 7919 % 1013) as f32 - 506.0) * 0.37).collect();
        let zero = Activations { codes: [0; 32], scale: 0.0, sum: 0, first_sum: 0, padding: 0 };
        let (mut a, mut b) = ([zero; 64], [zero; 64]);
        quantize(Isa::Portable, &x, &mut a);
        for isa in [Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect()) {
            quantize(isa, &x, &mut b);
            assert_eq!(a, b, "{isa:?}");
        }
    }
}
