//! Q4_0: 32 values, 4-bit codes, one half-precision scale; 4.5 bits a value.
//!
//! `d = (the value of largest magnitude) / -8`, so that value has code 0 and `d` can be negative;
//! `q = min(15, trunc(x/d + 8.5))`, value `(q - 8) · d`. Byte `j` holds value `j` low and value `j + 16` high.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::extremes::signed_max;
use super::rounding::{floor, reciprocal};
use super::{Block, HALF_ULP, alone, set_nibble};
use crate::{Dtype, F16Le};

/// 32 values: scale, then two codes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_0 {
    /// Scale, of either sign.
    pub d: F16Le,
    /// Codes: byte `j` holds value `j` low, value `j + 16` high.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_0>() == Dtype::Q4_0.block_bytes());

impl Block for BlockQ4_0 {
    const DTYPE: Dtype = Dtype::Q4_0;
    const LARGEST_CODE: u32 = 15;
    // A value equal and opposite to the largest is clipped by one step of amax/8.
    const ERROR_BOUND: (f32, f32) = (1.0 / 8.0 + HALF_ULP, 8.0);

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
fn encode(values: &[f32], blocks: &mut [BlockQ4_0]) {
    for (x, block) in values.as_chunks::<32>().0.iter().zip(blocks) {
        let x = alone(x);
        let d = signed_max(x) / -8.0;
        let inverse = reciprocal(d);
        block.d = F16Le::from_f32(d);
        let code = |v: f32| floor(v * inverse + 8.5).min(15) as u8;
        for (j, q) in block.qs.iter_mut().enumerate() {
            *q = code(x[j]) | code(x[j + 16]) << 4;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ4_0], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<32>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        let (low, high) = y.split_at_mut(16);
        for ((l, h), q) in low.iter_mut().zip(high).zip(block.qs) {
            *l = f32::from((q & 15) as i8 - 8) * d;
            *h = f32::from((q >> 4) as i8 - 8) * d;
        }
    }
}
