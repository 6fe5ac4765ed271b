//! Q2_0: 64 values of -d, 0 or d, 2-bit codes, one half-precision scale; 2.25 bits a value.
//!
//! `d = max|x|`, `q = round(x / d) + 1` with ties away from zero, value `(q - 1) · d`. Value `i` is bits `2 (i % 4)` of byte `i / 4`.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::extremes::magnitude;
use super::rounding::{nearest_away, reciprocal};
use super::{Block, HALF_ULP, alone, set_bits};
use crate::{Dtype, F16Le};

/// 64 values: scale, then four codes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2_0 {
    /// Scale.
    pub d: F16Le,
    /// Codes: value `i` is bits `2 (i % 4)` of byte `i / 4`.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ2_0>() == Dtype::Q2_0.block_bytes());

impl Block for BlockQ2_0 {
    const DTYPE: Dtype = Dtype::Q2_0;
    // Code 3 is never written and decodes to 2 d.
    const LARGEST_CODE: u32 = 3;
    // Half a step of amax.
    const ERROR_BOUND: (f32, f32) = (0.5 + HALF_ULP, 1.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        u32::from(self.qs[index / 4] >> (index % 4 * 2) & 3)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_bits(&mut self.qs[index / 4], index % 4 * 2, 2, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ2_0]) {
    for (x, block) in values.as_chunks::<64>().0.iter().zip(blocks) {
        let x = alone(x);
        let d = magnitude(x);
        let inverse = reciprocal(d);
        block.d = F16Le::from_f32(d);
        for (x, q) in x.as_chunks::<4>().0.iter().zip(&mut block.qs) {
            let code = |i: usize| ((nearest_away(x[i] * inverse) + 1) as u8) << (2 * i);
            *q = code(0) | code(1) | code(2) | code(3);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ2_0], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<64>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        for (y, q) in y.as_chunks_mut::<4>().0.iter_mut().zip(block.qs) {
            for (i, v) in y.iter_mut().enumerate() {
                *v = f32::from((q >> (2 * i) & 3) as i8 - 1) * d;
            }
        }
    }
}
