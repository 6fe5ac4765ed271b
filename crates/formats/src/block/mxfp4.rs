//! MXFP4: 32 values, E2M1 codes, one power of two as scale; 4.25 bits a value. (GGUF's order of the codes; OCP defines none.)
//!
//! `e = floor(log2 max|x|) - 2 + 127`, value `LEVELS[q] · 2^(e - 128)`. Byte `j` holds value `j` low and value `j + 16` high.
//! The largest value of a block lies between 4 and 8 steps and the largest code means 6: it may be clipped by a quarter.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::e2m1::{LEVELS, nearest};
use super::extremes::magnitude;
use super::{Block, alone, set_nibble};
use crate::{Dtype, F16Le};

/// 32 values: scale, then two codes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockMXFP4 {
    /// Scale `2^(e - 127)`.
    pub e: u8,
    /// Codes: byte `j` holds value `j` low, value `j + 16` high.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockMXFP4>() == Dtype::MXFP4.block_bytes());

impl Block for BlockMXFP4 {
    const DTYPE: Dtype = Dtype::MXFP4;
    const LARGEST_CODE: u32 = 15;
    // A value of eight steps is clipped to six. Below the smallest scale, half a step of 2^-128.
    const ERROR_BOUND: (f32, f32) = (0.25, 1.0 / (1u128 << 104) as f32);
    const REACH: f32 = f32::MAX;

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
        [].into_iter()
    }
}

/// The largest integer not above log2 of a positive number rounded to f32: what the published encoder computes. Just below a
/// power of two the logarithm rounds up to it.
#[inline(always)]
fn floor_log2(amax: f32) -> i32 {
    let bits = amax.to_bits();
    // A subnormal number is below the smallest scale in any case.
    let exponent = (bits >> 23) as i32 - 127;
    // Units in the last place from here to the next power of two; a unit is 2^-24/ln 2 of the logarithm there.
    let missing = (0x0080_0000 - (bits & 0x007f_ffff)) as f32;
    let next = (exponent + 1) as f32;
    // Half the distance from the power's logarithm to the float below it.
    let below = if next > 0.0 { next - next.next_down() } else { next.next_down().abs() - next.abs() };
    let reaches = missing * (std::f32::consts::LOG2_E / (1 << 24) as f32) <= 0.5 * below;
    exponent + i32::from(reaches)
}

/// `2^(e - 128)`: half the scale.
#[inline(always)]
fn half_scale(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockMXFP4]) {
    for (x, block) in values.as_chunks::<32>().0.iter().zip(blocks) {
        let x = alone(x);
        let amax = magnitude(x);
        block.e = if amax > 0.0 { (floor_log2(amax) - 2 + 127).max(0) as u8 } else { 0 };
        let d = half_scale(block.e);
        for (j, q) in block.qs.iter_mut().enumerate() {
            *q = nearest(x[j], d) | nearest(x[j + 16], d) << 4;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockMXFP4], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<32>().0) {
        let block = alone(block);
        let d = half_scale(block.e);
        let (low, high) = y.split_at_mut(16);
        for ((l, h), q) in low.iter_mut().zip(high).zip(block.qs) {
            *l = f32::from(LEVELS[usize::from(q & 15)]) * d;
            *h = f32::from(LEVELS[usize::from(q >> 4)]) * d;
        }
    }
}
