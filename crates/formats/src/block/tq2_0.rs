//! TQ2_0: 256 values of -d, 0 or d, 2-bit codes, one half-precision scale; 2.0625 bits a value.
//!
//! `d = max|x|`, `q = round(x / d) + 1` with ties away from zero, value `(q - 1) · d`. Byte `32 h + m` holds values
//! `128 h + 32 n + m` in bits `2 n`. Made for weights that have three values: others lose most of what they say.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::extremes::magnitude;
use super::rounding::{nearest_away, reciprocal};
use super::{Block, HALF_ULP, alone, set_bits};
use crate::{Dtype, F16Le};

/// 256 values: four codes a byte, then the scale.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTQ2_0 {
    /// Codes: byte `32 h + m` holds values `128 h + 32 n + m` in bits `2 n`.
    pub qs: [u8; 64],
    /// Scale.
    pub d: F16Le,
}
const _: () = assert!(size_of::<BlockTQ2_0>() == Dtype::TQ2_0.block_bytes());

impl Block for BlockTQ2_0 {
    const DTYPE: Dtype = Dtype::TQ2_0;
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
        u32::from(self.qs[index / 128 * 32 + index % 32] >> (index % 128 / 32 * 2) & 3)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_bits(&mut self.qs[index / 128 * 32 + index % 32], index % 128 / 32 * 2, 2, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockTQ2_0]) {
    for (x, block) in values.as_chunks::<256>().0.iter().zip(blocks) {
        let x = alone(x);
        let d = magnitude(x);
        let inverse = reciprocal(d);
        block.d = F16Le::from_f32(d);
        for (x, qs) in x.as_chunks::<128>().0.iter().zip(block.qs.as_chunks_mut::<32>().0) {
            for (m, q) in qs.iter_mut().enumerate() {
                let code = |n: usize| ((nearest_away(x[32 * n + m] * inverse) + 1) as u8) << (2 * n);
                *q = code(0) | code(1) | code(2) | code(3);
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockTQ2_0], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<256>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        for (y, qs) in y.as_chunks_mut::<128>().0.iter_mut().zip(block.qs.as_chunks::<32>().0) {
            for (n, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                for (v, q) in y.iter_mut().zip(qs) {
                    *v = f32::from((q >> (2 * n) & 3) as i8 - 1) * d;
                }
            }
        }
    }
}
