//! Activations as the kernels read them: int8 codes for block formats, pairs of bf16 for BF16.
//!
//! A block is as long as a stored block of the weights that it meets, 32 or 256 values:
//! `scale = amax / 127`, `code = round_to_even(x · (127 / amax))`, so codes are in -127..=127.
//! Where a whole row shares one scale, as in BitNet, `amax` is the row's.
//! A block with an infinity or a NaN gets the scale NaN, so every output that it reaches is NaN. A
//! block whose `127 / amax` is no finite number (amax below about 4e-37) becomes zeros.

use crate::Isa;

/// 32 activations of one row, a part of a block.
#[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct Activations {
    /// Codes in order, in -127..=127.
    pub codes: [i8; 32],
    /// Value of one step of a code, the same in all parts of a block.
    pub scale: f32,
    /// Minus the sum of the codes.
    pub minus_sum: i32,
    /// Minus the sum of the first 16 codes.
    pub minus_first: i32,
    /// Minus the sum of the last 16 codes.
    pub minus_second: i32,
    /// Minus the sums of the first and the last 16 codes.
    pub minus_halves: [i16; 2],
    /// In every second part of a block, from the first on: minus the sums of its codes and of the next part's.
    pub minus_pair: [i16; 2],
}

/// Values in a part of a block of activations.
pub(super) const PART: usize = 32;

const _: () = assert!(size_of::<Activations>() == 56);

/// The bits of the largest magnitude, which order as magnitudes do, with infinities and NaNs on top.
pub(super) fn greatest(x: &[f32]) -> u32 {
    x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff))
}

/// Quantizes `x`, whole blocks of `parts` parts, into as many [`Activations`] as there are parts: by the largest magnitude of
/// each block, or by the one whose bits are `given`.
pub(super) fn quantize(isa: Isa, x: &[f32], parts: usize, given: Option<u32>, to: &mut [Activations]) {
    debug_assert_eq!(x.len(), to.len() * PART);
    debug_assert!(to.len().is_multiple_of(parts));
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: the caller names an instruction set only if the processor has it.
        Isa::Avx512 => return unsafe { avx512(x, parts, given, to) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { avx2(x, parts, given, to) },
        Isa::Portable => {}
    }
    let _ = isa;
    body(x, parts, given, to);
}

/// [`body`] with intrinsics.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512(x: &[f32], parts: usize, given: Option<u32>, to: &mut [Activations]) {
    use std::arch::x86_64::*;
    for (x, to) in x.chunks_exact(parts * PART).zip(to.chunks_exact_mut(parts)) {
        let mut greatest = _mm512_setzero_si512();
        for x in x.as_chunks::<16>().0 {
            // SAFETY: the 16 values.
            let v = unsafe { _mm512_loadu_ps(x.as_ptr()) };
            let magnitude = _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fff_ffff));
            greatest = _mm512_max_epu32(greatest, magnitude);
        }
        let (inverse, scale) = steps(given.unwrap_or(_mm512_reduce_max_epu32(greatest)));
        let code = |v| {
            let product = _mm512_mul_ps(v, _mm512_set1_ps(inverse));
            let rounded = _mm512_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(product);
            // A block with an infinity or a NaN has no codes.
            if inverse == 0.0 { _mm512_setzero_si512() } else { rounded }
        };
        for (x, to) in x.as_chunks::<PART>().0.iter().zip(&mut *to) {
            // SAFETY: 16 values from 0 and from 16 of the 32.
            let (a, b) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
            let (a, b) = (code(a), code(b));
            let (minus_first, minus_second) = (-_mm512_reduce_add_epi32(a), -_mm512_reduce_add_epi32(b));
            // SAFETY: 16 bytes at 0 and at 16 of the 32.
            unsafe {
                _mm_storeu_si128(to.codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a));
                _mm_storeu_si128(to.codes.as_mut_ptr().add(16).cast(), _mm512_cvtepi32_epi8(b));
            }
            to.sums(scale, minus_first, minus_second);
        }
        pairs(to);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(x: &[f32], parts: usize, given: Option<u32>, to: &mut [Activations]) {
    body(x, parts, given, to);
}

/// The factor from values to codes, and the value of one step, for the bits of a block's largest magnitude.
#[inline(always)]
fn steps(amax_bits: u32) -> (f32, f32) {
    const INFINITY_BITS: u32 = 0x7f80_0000;
    let amax = f32::from_bits(amax_bits);
    let inverse = 127.0 / amax;
    if amax_bits >= INFINITY_BITS {
        (0.0, f32::NAN)
    } else if inverse.is_finite() {
        (inverse, amax / 127.0)
    } else {
        (0.0, 0.0)
    }
}

#[inline(always)]
fn body(x: &[f32], parts: usize, given: Option<u32>, to: &mut [Activations]) {
    for (x, to) in x.chunks_exact(parts * PART).zip(to.chunks_exact_mut(parts)) {
        let (inverse, scale) = steps(given.unwrap_or_else(|| greatest(x)));
        for (x, to) in x.as_chunks::<PART>().0.iter().zip(&mut *to) {
            let mut whole = [0i32; PART];
            for (code, v) in whole.iter_mut().zip(x) {
                let rounded = (v * inverse).round_ties_even();
                // SAFETY: |v| ≤ amax, so the product is at most 127 and a rounding error, or 0; NaN was dealt with.
                *code = if inverse == 0.0 { 0 } else { unsafe { rounded.to_int_unchecked::<i32>() } };
            }
            let (first, second) = whole.split_at(PART / 2);
            let (minus_first, minus_second) = (-first.iter().sum::<i32>(), -second.iter().sum::<i32>());
            for (code, whole) in to.codes.iter_mut().zip(whole) {
                *code = whole as i8;
            }
            to.sums(scale, minus_first, minus_second);
        }
        pairs(to);
    }
}

impl Activations {
    /// Sets all but the codes and the pair.
    #[inline(always)]
    fn sums(&mut self, scale: f32, minus_first: i32, minus_second: i32) {
        self.scale = scale;
        self.minus_sum = minus_first + minus_second;
        (self.minus_first, self.minus_second) = (minus_first, minus_second);
        self.minus_halves = [minus_first as i16, minus_second as i16];
        self.minus_pair = [0; 2];
    }
}

/// Sets the pairs of a block.
#[inline(always)]
fn pairs(block: &mut [Activations]) {
    for [one, next] in block.as_chunks_mut().0 {
        one.minus_pair = [one.minus_sum as i16, next.minus_sum as i16];
    }
}

/// Rounds a row to bf16 and joins neighbours, the earlier in the low half; an odd last value is joined with 0.
pub(super) fn pair_bf16(isa: Isa, x: &[f32], pairs: &mut [u32]) {
    debug_assert_eq!(pairs.len(), x.len().div_ceil(2));
    #[cfg(target_arch = "x86_64")]
    match isa {
        // SAFETY: the caller names an instruction set only if the processor has it.
        Isa::Avx512 => return unsafe { pair_avx512(x, pairs) },
        // SAFETY: as above.
        Isa::Avx2 => return unsafe { pair_avx2(x, pairs) },
        Isa::Portable => {}
    }
    let _ = isa;
    pair(x, pairs);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn pair_avx512(x: &[f32], pairs: &mut [u32]) {
    pair(x, pairs);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pair_avx2(x: &[f32], pairs: &mut [u32]) {
    pair(x, pairs);
}

#[inline(always)]
fn pair(x: &[f32], pairs: &mut [u32]) {
    // Half a unit, and one more if the last bit kept is set: to nearest, ties to even. NaNs keep their upper bits.
    let high = |v: f32| {
        let bits = v.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        (if v.is_nan() { bits | 0x40_0000 } else { rounded }) & 0xffff_0000
    };
    let (twos, odd) = x.as_chunks::<2>();
    for (x, pair) in twos.iter().zip(&mut *pairs) {
        *pair = high(x[0]) >> 16 | high(x[1]);
    }
    if let ([last], Some(pair)) = (odd, pairs.last_mut()) {
        *pair = high(*last) >> 16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(x: [f32; PART]) -> Activations {
        let mut block: [Activations; 1] = bytemuck::Zeroable::zeroed();
        quantize(Isa::detect(), &x, 1, None, &mut block);
        block[0]
    }

    #[test]
    fn codes_are_the_nearest_and_symmetric() {
        let x: [f32; PART] = std::array::from_fn(|i| (i as f32 * 1.7).sin() * 3.0);
        let b = one(x);
        let amax = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (c, v) in b.codes.iter().zip(x) {
            assert!((f32::from(*c) * b.scale - v).abs() <= amax / 127.0 * 0.500_01);
        }
        assert_eq!(-b.minus_sum, b.codes.iter().map(|&c| i32::from(c)).sum::<i32>());
        assert_eq!(b.minus_sum, b.minus_first + b.minus_second);
        assert_eq!(one(x.map(|v| -v)).codes, b.codes.map(|c| -c));
    }

    #[test]
    fn a_value_that_is_not_finite_makes_the_scale_nan() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; PART];
            x[17] = bad;
            assert!(one(x).scale.is_nan());
        }
    }

    #[test]
    fn zero_tiny_and_huge_blocks_stay_finite() {
        for v in [0.0, -0.0, f32::MIN_POSITIVE, 1e-45, 3e-37, f32::MAX, -f32::MAX] {
            let b = one([v; PART]);
            assert!(b.scale.is_finite(), "{v}");
            let (v, back) = (f64::from(v), f64::from(b.codes[0]) * f64::from(b.scale));
            assert!((back - v).abs() <= v.abs() * 1e-6 || v.abs() < 4e-37, "{v} became {back}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_blocks() {
        let mut x: Vec<f32> = (0..32 * 64).map(|i: i32| ((i * 7919 % 1013) as f32 - 506.0) * 0.37).collect();
        for (block, v) in [f32::NAN, f32::INFINITY, 1e-45, 3e-37, f32::MAX, 0.0, -0.0].into_iter().enumerate() {
            x[block * 32..(block + 1) * 32].fill(v);
        }
        let (mut a, mut b): ([Activations; 64], [Activations; 64]) = bytemuck::Zeroable::zeroed();
        for parts in [1, 8] {
            quantize(Isa::Portable, &x, parts, None, &mut a);
            for isa in [Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect()) {
                quantize(isa, &x, parts, None, &mut b);
                assert_eq!(bytemuck::bytes_of(&a), bytemuck::bytes_of(&b), "{isa:?} {parts}");
            }
        }
    }

    #[test]
    fn pairs_are_rounded_as_bf16_on_every_instruction_set() {
        let mut x: Vec<f32> = (0..5001u32).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b9))).collect();
        x[17] = f32::from_bits(0x3f80_8000);
        x[18] = f32::from_bits(0x3f81_8000);
        x[19] = f32::MAX;
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= Isa::detect()) {
            let mut pairs = vec![0; x.len().div_ceil(2)];
            pair_bf16(isa, &x, &mut pairs);
            for (i, &v) in x.iter().enumerate() {
                let half = (pairs[i / 2] >> (16 * (i % 2))) as u16;
                assert_eq!(half, half::bf16::from_f32(v).to_bits(), "{v}");
            }
            assert_eq!(pairs[2500] >> 16, 0);
        }
    }
}
