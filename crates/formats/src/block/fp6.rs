//! FP6: 64 values, E3M2 codes as a plane of two bits and a plane of four, one half-precision scale; 6.25 bits a value.
//!
//! `d = max|x| / 28`, rounded to a half; value `±E3M2 · d`, to nearest with ties to even. A code's sign and upper exponent bit lie in
//! the plane of two bits, its other four bits in the plane of four, so that both are read in whole words. Codes `2 p` and `2 p + 1`
//! are a pair: field `p % 4` of the low half and of the high half of word `p / 4` of the plane of four, and field `p % 8` of both
//! halves of word `p / 8` of the plane of two. Two shifts, two masks and an or give a pair of indices, one in each half of a word.
//!
//! The type is memwall's own: neither GGUF nor OCP has one. Source of format and planes: "ZeroQuant(4+2)" (arXiv 2312.08583) and
//! FP6-LLM (arXiv 2401.14112), whose scale is one a row: the method `row` of `quantize` stores that one in every block.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::extremes::magnitude;
use super::{Block, HALF_ULP, alone, set_bits, set_nibble};
use crate::{Dtype, F16Le};

/// 64 values: scale, upper two bits of the codes, lower four.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockFP6 {
    /// Scale.
    pub d: F16Le,
    /// Sign and upper exponent bit: four words of eight pairs.
    pub high: [u8; 16],
    /// The other bits: eight words of four pairs.
    pub low: [u8; 32],
}
const _: () = assert!(size_of::<BlockFP6>() == Dtype::FP6.block_bytes());

/// The largest magnitude of E3M2.
const MOST: f32 = 28.0;

/// The value of each code of E3M2: sign, three bits of exponent, two of mantissa.
pub const E3M2_VALUES: [f32; 64] = {
    let mut values = [0.0; 64];
    let mut code = 0;
    while code < 64 {
        let (exponent, mantissa) = (code >> 2 & 7, code & 3);
        let sixteenths = if exponent == 0 { mantissa } else { (4 + mantissa) << (exponent - 1) };
        let magnitude = sixteenths as f32 / 16.0;
        values[code] = if code < 32 { magnitude } else { -magnitude };
        code += 1;
    }
    values
};

/// Byte and shift of code `index` in the plane of two bits, and in the plane of four.
#[inline(always)]
const fn places(index: usize) -> [(usize, usize); 2] {
    let (pair, half) = (index / 2, index % 2);
    [(pair / 8 * 4 + 2 * half + pair % 8 / 4, pair % 4 * 2), (pair / 4 * 4 + 2 * half + pair % 4 / 2, pair % 2 * 4)]
}

impl Block for BlockFP6 {
    const DTYPE: Dtype = Dtype::FP6;
    const LARGEST_CODE: u32 = 63;
    // Half a step of 4 at 28 steps, and the rounding of the scale, by which the largest value may be clipped.
    const ERROR_BOUND: (f32, f32) = (1.0 / 14.0 + HALF_ULP, MOST);
    const REACH: f32 = 65504.0 * MOST;

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        let [(byte, shift), (low_byte, low_shift)] = places(index);
        u32::from(self.high[byte] >> shift & 3) << 4 | u32::from(self.low[low_byte] >> low_shift & 15)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        let [(byte, shift), (low_byte, low_shift)] = places(index);
        set_bits(&mut self.high[byte], shift, 2, code >> 4 & 3);
        set_nibble(&mut self.low[low_byte], low_shift > 0, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

/// The code of E3M2 nearest to `x`, ties to even, saturated.
#[inline(always)]
fn nearest(x: f32) -> u8 {
    let a = x.abs().min(MOST);
    let bits = a.to_bits();
    // Two bits of mantissa stay; the exponent of 0.25 becomes 1.
    let normal = ((bits + 0x000f_ffff + (bits >> 21 & 1)) >> 21).wrapping_sub(124 << 2);
    let subnormal = (a * 16.0).round_ties_even() as u32;
    let magnitude = if a < 0.25 { subnormal } else { normal };
    (magnitude | x.to_bits() >> 31 << 5) as u8
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockFP6]) {
    for (x, block) in values.as_chunks::<64>().0.iter().zip(blocks) {
        let x = alone(x);
        *block = BlockFP6 { d: F16Le::from_f32(magnitude(x) / MOST), ..BlockFP6::zeroed() };
        let d = block.d.to_f32();
        if d == 0.0 {
            continue;
        }
        let codes = x.map(|x| nearest(x / d));
        for (i, code) in codes.into_iter().enumerate() {
            let [(byte, shift), (low_byte, low_shift)] = places(i);
            block.high[byte] |= code >> 4 << shift;
            block.low[low_byte] |= (code & 15) << low_shift;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockFP6], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<64>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        for (i, y) in y.iter_mut().enumerate() {
            *y = E3M2_VALUES[block.code(i) as usize] * d;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::{E3M2, Element, Rounding};

    #[test]
    fn codes_and_values_are_those_of_the_element() {
        for code in 0..64u8 {
            assert_eq!(E3M2_VALUES[usize::from(code)].to_bits(), E3M2.decode(code).to_bits(), "{code}");
            assert_eq!(nearest(E3M2.decode(code)), code);
        }
        // Every 64th float of either sign from the smallest to far beyond the largest.
        for bits in (0..=0x4300_0000u32).step_by(64).flat_map(|b| [b, b | 1 << 31]) {
            let x = f32::from_bits(bits);
            assert_eq!(nearest(x), E3M2.encode(x, Rounding::HalfEven, true), "{x}");
        }
    }

    #[test]
    fn midpoints_go_to_the_even_code() {
        for code in 0..31u8 {
            let middle = (E3M2.decode(code) + E3M2.decode(code + 1)) / 2.0;
            assert_eq!(nearest(middle), code + code % 2, "{middle}");
        }
    }
}
