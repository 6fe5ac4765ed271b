//! Q8_0: 32 values, 8-bit codes, one half-precision scale; 8.5 bits a value.
//!
//! `d = max|x| / 127`, `q = round(x / d)` with ties away from zero, value `q · d`. The codes are computed with the
//! single-precision `1/d`; only the stored scale is rounded to a half.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::extremes::magnitude;
use super::rounding::{nearest_away, reciprocal};
use super::{Block, HALF_ULP, alone};
use crate::{Dtype, F16Le};

/// 32 values: scale, then codes in order.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: F16Le,
    /// Codes, -127..=127 as encoded (-128 decodes too).
    pub qs: [i8; 32],
}
const _: () = assert!(size_of::<BlockQ8_0>() == Dtype::Q8_0.block_bytes());

impl Block for BlockQ8_0 {
    const DTYPE: Dtype = Dtype::Q8_0;
    const LARGEST_CODE: u32 = 255;
    // Half a step of amax/127, and the scale's rounding to a half at code 127.
    const ERROR_BOUND: (f32, f32) = (0.5 / 127.0 + HALF_ULP, 127.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        u32::from(self.qs[index] as u8)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        self.qs[index] = code as u8 as i8;
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ8_0]) {
    for (x, block) in values.as_chunks::<32>().0.iter().zip(blocks) {
        let x = alone(x);
        let d = magnitude(x) / 127.0;
        let inverse = reciprocal(d);
        block.d = F16Le::from_f32(d);
        for (q, v) in block.qs.iter_mut().zip(x) {
            *q = nearest_away(v * inverse) as i8;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ8_0], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<32>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        for (v, q) in y.iter_mut().zip(block.qs) {
            *v = f32::from(q) * d;
        }
    }
}
