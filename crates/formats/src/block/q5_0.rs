//! Q5_0: 32 values, 5-bit codes, one half-precision scale; 5.5 bits a value.
//!
//! `d = (the value of largest magnitude) / -16`, `q = min(31, trunc(x/d + 16.5))`, value `(q - 16) · d`. Byte `j` of
//! `qs` holds the low 4 bits of value `j` low and of value `j + 16` high; bit `i` of `qh` is bit 4 of value `i`.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::extremes::signed_max;
use super::rounding::{floor, reciprocal};
use super::{Block, HALF_ULP, alone, set_bits, set_nibble};
use crate::{Dtype, F16Le};

/// 32 values: scale, fifth bits, then the low four bits, two codes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_0 {
    /// Scale, of either sign.
    pub d: F16Le,
    /// Bit `i % 8` of byte `i / 8`: bit 4 of value `i`.
    pub qh: [u8; 4],
    /// Low bits: byte `j` holds value `j` low, value `j + 16` high.
    pub qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_0>() == Dtype::Q5_0.block_bytes());

impl Block for BlockQ5_0 {
    const DTYPE: Dtype = Dtype::Q5_0;
    const LARGEST_CODE: u32 = 31;
    // A value equal and opposite to the largest is clipped by one step of amax/16.
    const ERROR_BOUND: (f32, f32) = (1.0 / 16.0 + HALF_ULP, 16.0);

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
        [self.d].into_iter()
    }
}

pub(super) fn five_bits(qh: &[u8; 4], qs: &[u8; 16], index: usize) -> u32 {
    let low = qs[index % 16] >> (index / 16 * 4) & 15;
    u32::from(low | (qh[index / 8] >> (index % 8) & 1) << 4)
}

pub(super) fn set_five_bits(qh: &mut [u8; 4], qs: &mut [u8; 16], index: usize, code: u32) {
    set_nibble(&mut qs[index % 16], index >= 16, code);
    set_bits(&mut qh[index / 8], index % 8, 1, code >> 4);
}

/// Packs 32 five-bit codes.
#[inline(always)]
pub(super) fn pack_five_bits(codes: &[u8; 32]) -> ([u8; 4], [u8; 16]) {
    let mut high = 0;
    for (i, &c) in codes.iter().enumerate() {
        high |= u32::from(c >> 4 & 1) << i;
    }
    (high.to_le_bytes(), std::array::from_fn(|j| codes[j] & 15 | codes[j + 16] << 4))
}

/// The 32 codes of a block.
#[inline(always)]
pub(super) fn unpack_five_bits(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(qh);
    let mut codes = [0; 32];
    for j in 0..16 {
        codes[j] = qs[j] & 15 | ((high >> j & 1) << 4) as u8;
        codes[j + 16] = qs[j] >> 4 | ((high >> (j + 16) & 1) << 4) as u8;
    }
    codes
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ5_0]) {
    for (x, block) in values.as_chunks::<32>().0.iter().zip(blocks) {
        let x = alone(x);
        let d = signed_max(x) / -16.0;
        let inverse = reciprocal(d);
        block.d = F16Le::from_f32(d);
        let mut codes = [0; 32];
        for (c, v) in codes.iter_mut().zip(x) {
            *c = floor(v * inverse + 16.5).min(31) as u8;
        }
        (block.qh, block.qs) = pack_five_bits(&codes);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ5_0], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<32>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        for (v, c) in y.iter_mut().zip(unpack_five_bits(block.qh, &block.qs)) {
            *v = f32::from(c as i8 - 16) * d;
        }
    }
}
