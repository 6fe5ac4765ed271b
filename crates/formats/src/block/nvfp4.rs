//! NVFP4 as GGUF stores it: 64 values in 4 sub-blocks of 16, E2M1 codes, E4M3 scales without sign; 4.5 bits a value.
//!
//! `d_s = UE4M3(max|x| / 6)`, value `LEVELS[q] · d_s / 2`. Byte `8 s + j` holds value `16 s + j` low and `16 s + j + 8` high.
//! There is no scale of the whole tensor in the block: scales below 2^-6 have fewer bits, below 2^-10 none.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::e2m1::{LEVELS, nearest};
use super::extremes::magnitude;
use super::{Block, alone, set_nibble};
use crate::{Dtype, F16Le};

/// 64 values: scales of each 16, then two codes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockNVFP4 {
    /// Scales of sub-blocks, E4M3 without sign.
    pub d: [u8; 4],
    /// Codes: byte `8 s + j` holds value `16 s + j` low, value `16 s + j + 8` high.
    pub qs: [u8; 32],
}
const _: () = assert!(size_of::<BlockNVFP4>() == Dtype::NVFP4.block_bytes());

impl Block for BlockNVFP4 {
    const DTYPE: Dtype = Dtype::NVFP4;
    const LARGEST_CODE: u32 = 15;
    // Half the gap between the two largest levels, at a value of five scales. The rounding of a scale below 2^-6, times the
    // largest code: 6 · 2^-10.
    const ERROR_BOUND: (f32, f32) = (0.2, 6.0 * 32768.0);
    const REACH: f32 = 448.0 * 6.0;

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        u32::from(self.qs[index / 16 * 8 + index % 8] >> (index % 16 / 8 * 4) & 15)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_nibble(&mut self.qs[index / 16 * 8 + index % 8], index % 16 >= 8, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [].into_iter()
    }
}

/// The scale nearest to `v`, ties up, as the published encoder rounds it: from 256 on it is 448.
#[inline(always)]
fn encode_scale(v: f32) -> u8 {
    let bits = v.to_bits();
    let exponent = (bits >> 23) as i32 - 120;
    if exponent <= 0 {
        return ((v * 512.0 + 0.5) as u8).min(7);
    }
    // A carry of the rounding runs into the exponent as it must.
    let rounded = ((bits >> 20) - (120 << 3)) + (bits >> 19 & 1);
    if rounded >= 15 << 3 { 0x7e } else { rounded as u8 }
}

/// Half the scale. The NaN of E4M3 means 0.
#[inline(always)]
fn half_scale(code: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(code >> 3 & 15), u32::from(code & 7));
    match code {
        0x7f => 0.0,
        _ if exponent == 0 => mantissa as f32 / 1024.0,
        _ => f32::from_bits((exponent + 119) << 23 | mantissa << 20),
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockNVFP4]) {
    for (x, block) in values.as_chunks::<64>().0.iter().zip(blocks) {
        let x = alone(x);
        let subs = x.as_chunks::<16>().0.iter().zip(block.qs.as_chunks_mut::<8>().0).zip(&mut block.d);
        for ((x, qs), scale) in subs {
            *scale = encode_scale(magnitude(x) / 6.0);
            let d = half_scale(*scale);
            for (j, q) in qs.iter_mut().enumerate() {
                *q = nearest(x[j], d) | nearest(x[j + 8], d) << 4;
            }
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockNVFP4], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<64>().0) {
        let block = alone(block);
        let subs = y.as_chunks_mut::<16>().0.iter_mut().zip(block.qs.as_chunks::<8>().0).zip(block.d);
        for ((y, qs), scale) in subs {
            let d = half_scale(scale);
            let (low, high) = y.split_at_mut(8);
            for ((l, h), q) in low.iter_mut().zip(high).zip(qs) {
                *l = f32::from(LEVELS[usize::from(q & 15)]) * d;
                *h = f32::from(LEVELS[usize::from(q >> 4)]) * d;
            }
        }
    }
}
