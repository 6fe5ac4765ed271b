//! Q4_1: 32 values, 4-bit codes, half-precision scale and minimum; 5 bits a value.
//!
//! `d = (max - min) / 15`, `q = min(15, trunc((x - min)/d + 0.5))`, value `q · d + m`. Byte `j` holds value `j` low and
//! value `j + 16` high.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::extremes::min_max;
use super::rounding::{floor, reciprocal};
use super::{Block, HALF_ULP, alone, set_nibble};
use crate::{Dtype, F16Le};

/// 32 values: scale, minimum, then two codes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_1 {
    /// Scale, not negative.
    pub d: F16Le,
    /// Minimum.
    pub m: F16Le,
    /// Codes: byte `j` holds value `j` low, value `j + 16` high.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_1>() == Dtype::Q4_1.block_bytes());

impl Block for BlockQ4_1 {
    const DTYPE: Dtype = Dtype::Q4_1;
    const LARGEST_CODE: u32 = 15;
    // Half a step of at most 2 amax/15, the rounding of 15 d and of m to halves.
    const ERROR_BOUND: (f32, f32) = (1.0 / 15.0 + 3.0 * HALF_ULP, 16.0);

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
        [self.d, self.m].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ4_1]) {
    for (x, block) in values.as_chunks::<32>().0.iter().zip(blocks) {
        let x = alone(x);
        let (min, max) = min_max(x);
        let d = (max - min) / 15.0;
        let inverse = reciprocal(d);
        block.d = F16Le::from_f32(d);
        block.m = F16Le::from_f32(min);
        let code = |v: f32| floor((v - min) * inverse + 0.5).min(15) as u8;
        for (j, q) in block.qs.iter_mut().enumerate() {
            *q = code(x[j]) | code(x[j + 16]) << 4;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ4_1], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<32>().0) {
        let block = alone(block);
        let (d, m) = (block.d.to_f32(), block.m.to_f32());
        let (low, high) = y.split_at_mut(16);
        for ((l, h), q) in low.iter_mut().zip(high).zip(block.qs) {
            *l = f32::from(q & 15) * d + m;
            *h = f32::from(q >> 4) * d + m;
        }
    }
}
