//! Q5_1: 32 values, 5-bit codes, half-precision scale and minimum; 6 bits a value.
//!
//! `d = (max - min) / 31`, `q = min(31, trunc((x - min)/d + 0.5))`, value `q · d + m`. Codes lie as in Q5_0.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::extremes::min_max;
use super::q5_0::{five_bits, pack_five_bits, set_five_bits, unpack_five_bits};
use super::rounding::{floor, reciprocal};
use super::{Block, HALF_ULP, alone};
use crate::{Dtype, F16Le};

/// 32 values: scale, minimum, fifth bits, then the low four bits, two codes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_1 {
    /// Scale, not negative.
    pub d: F16Le,
    /// Minimum.
    pub m: F16Le,
    /// Bit `i % 8` of byte `i / 8`: bit 4 of value `i`.
    pub qh: [u8; 4],
    /// Low bits: byte `j` holds value `j` low, value `j + 16` high.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_1>() == Dtype::Q5_1.block_bytes());

impl Block for BlockQ5_1 {
    const DTYPE: Dtype = Dtype::Q5_1;
    const LARGEST_CODE: u32 = 31;
    // Half a step of at most 2 amax/31, the rounding of 31 d and of m to halves.
    const ERROR_BOUND: (f32, f32) = (1.0 / 31.0 + 3.0 * HALF_ULP, 32.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        five_bits(&self.qh, &self.qs, index)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_five_bits(&mut self.qh, &mut self.qs, index, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d, self.m].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ5_1]) {
    for (x, block) in values.as_chunks::<32>().0.iter().zip(blocks) {
        let x = alone(x);
        let (min, max) = min_max(x);
        let d = (max - min) / 31.0;
        let inverse = reciprocal(d);
        block.d = F16Le::from_f32(d);
        block.m = F16Le::from_f32(min);
        let mut codes = [0; 32];
        for (c, v) in codes.iter_mut().zip(x) {
            *c = floor((v - min) * inverse + 0.5).min(31) as u8;
        }
        (block.qh, block.qs) = pack_five_bits(&codes);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ5_1], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<32>().0) {
        let block = alone(block);
        let (d, m) = (block.d.to_f32(), block.m.to_f32());
        for (v, c) in y.iter_mut().zip(unpack_five_bits(block.qh, &block.qs)) {
            *v = f32::from(c) * d + m;
        }
    }
}
