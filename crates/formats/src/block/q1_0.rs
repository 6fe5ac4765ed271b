//! Q1_0: 128 values of -d or d, 1-bit codes, one half-precision scale; 1.125 bits a value.
//!
//! `d` = mean |x|, summed in order, `q = 1` where `x >= 0`, value `(2 q - 1) · d`. Value `i` is bit `i % 8` of byte `i / 8`.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::{Block, HALF_ULP, alone, set_bits};
use crate::{Dtype, F16Le};

/// 128 values: scale, then eight codes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ1_0 {
    /// Scale.
    pub d: F16Le,
    /// Codes: value `i` is bit `i % 8` of byte `i / 8`.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ1_0>() == Dtype::Q1_0.block_bytes());

impl Block for BlockQ1_0 {
    const DTYPE: Dtype = Dtype::Q1_0;
    const LARGEST_CODE: u32 = 1;
    // A zero among values of one magnitude becomes nearly that magnitude.
    const ERROR_BOUND: (f32, f32) = (1.0 + HALF_ULP, 1.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        u32::from(self.qs[index / 8] >> (index % 8) & 1)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_bits(&mut self.qs[index / 8], index % 8, 1, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ1_0]) {
    for (x, block) in values.as_chunks::<128>().0.iter().zip(blocks) {
        let x = alone(x);
        block.d = F16Le::from_f32(x.iter().fold(0.0, |sum, v| sum + v.abs()) / 128.0);
        for (x, q) in x.as_chunks::<8>().0.iter().zip(&mut block.qs) {
            *q = x.iter().enumerate().fold(0, |bits, (i, v)| bits | u8::from(*v >= 0.0) << i);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ1_0], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<128>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        for (y, q) in y.as_chunks_mut::<8>().0.iter_mut().zip(block.qs) {
            for (i, v) in y.iter_mut().enumerate() {
                *v = if q >> i & 1 == 1 { d } else { -d };
            }
        }
    }
}
