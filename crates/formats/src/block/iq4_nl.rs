//! IQ4_NL: 32 values, 4-bit codes into a table of uneven levels, one half-precision scale; 4.5 bits a value.
//!
//! Value = `d · IQ4_LEVELS[q]`. Byte `j` holds value `j` low and value `j + 16` high.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::level_search::{self, nearest_code};
use super::rounding::reciprocal;
use super::{Block, alone, set_nibble};
use crate::{Dtype, F16Le};

/// The levels of IQ4_NL and IQ4_XS, dense around zero as weights are.
pub const IQ4_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 values: scale, then two codes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ4_NL {
    /// Scale, of either sign.
    pub d: F16Le,
    /// Codes: byte `j` holds value `j` low, value `j + 16` high.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockIQ4_NL>() == Dtype::IQ4_NL.block_bytes());

impl Block for BlockIQ4_NL {
    const DTYPE: Dtype = Dtype::IQ4_NL;
    const LARGEST_CODE: u32 = 15;
    // No proof: the worst of a search by hill climbing was 0.146.
    const ERROR_BOUND: (f32, f32) = (0.2, 127.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        u32::from(self.qs[index % 16] >> (index / 16 * 4) & 15)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_nibble(&mut self.qs[index % 16], index >= 16, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockIQ4_NL]) {
    // Eight blocks are searched at once; the last lanes may be empty.
    for (x, blocks) in values.chunks(256).zip(blocks.chunks_mut(8)) {
        let x = alone(x);
        let mut lanes = [[0.0; 8]; 32];
        for (s, sub) in x.as_chunks::<32>().0.iter().enumerate() {
            for (i, v) in sub.iter().enumerate() {
                lanes[i][s] = *v;
            }
        }
        let scales = level_search::fit(&lanes);
        for ((block, x), d) in blocks.iter_mut().zip(x.as_chunks::<32>().0).zip(scales) {
            let inverse = reciprocal(d);
            block.d = F16Le::from_f32(d);
            let codes = x.map(|v| nearest_code(inverse * v));
            for (j, q) in block.qs.iter_mut().enumerate() {
                *q = codes[j] | codes[j + 16] << 4;
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockIQ4_NL], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<32>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        let (low, high) = y.split_at_mut(16);
        for ((l, h), q) in low.iter_mut().zip(high).zip(block.qs) {
            *l = d * f32::from(IQ4_LEVELS[usize::from(q & 15)]);
            *h = d * f32::from(IQ4_LEVELS[usize::from(q >> 4)]);
        }
    }
}
