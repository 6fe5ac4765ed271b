//! Q2_K: 256 values in 16 sub-blocks of 16, 2-bit codes, 4-bit scales and minima; 2.625 bits a value.
//!
//! Value = `(d · (scales_j % 16)) · q - (dmin · (scales_j / 16))`. Each 128 values take 32 bytes of `qs`: value
//! `32 n + l` lies in bits `2 n` of byte `l`.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::affine_search::AffineSearch;
use super::rounding::nearest_even;
use super::{Block, alone, set_bits, sixteen_lanes};
use crate::{Dtype, F16Le};

/// 256 values.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ2_K {
    /// Scale (low half) and minimum (high half) of each 16 values.
    pub scales: [u8; 16],
    /// Codes.
    pub qs: [u8; 64],
    /// Unit of the scales.
    pub d: F16Le,
    /// Unit of the minima.
    pub dmin: F16Le,
}
const _: () = assert!(size_of::<BlockQ2_K>() == Dtype::Q2_K.block_bytes());

impl Block for BlockQ2_K {
    const DTYPE: Dtype = Dtype::Q2_K;
    const LARGEST_CODE: u32 = 3;
    // No proof: the worst of a search by hill climbing was 0.736.
    const ERROR_BOUND: (f32, f32) = (1.0, 15.0 * 4.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        u32::from(self.qs[index / 128 * 32 + index % 32] >> (index / 32 % 4 * 2) & 3)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_bits(&mut self.qs[index / 128 * 32 + index % 32], index / 32 % 4 * 2, 2, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d, self.dmin].into_iter()
    }
}

/// Weights are magnitudes, and the error is the mean of magnitudes.
const SEARCH: AffineSearch = AffineSearch { max_code: 3, first: -0.5, step: 0.1, steps: 15, absolute: true };

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ2_K]) {
    for (x, block) in values.as_chunks::<256>().0.iter().zip(blocks) {
        *block = encode_block(alone(x));
    }
}

#[inline(always)]
fn encode_block(x: &[f32; 256]) -> BlockQ2_K {
    let lanes = sixteen_lanes(x);
    let fit = SEARCH.fit(&lanes, &lanes.map(|row| row.map(f32::abs)));
    let (scales, d) = four_bits(&fit.scale);
    let (mins, dmin) = four_bits(&fit.offset);
    let mut codes = [0; 256];
    for (s, (sub, q)) in x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
        let scale = d.to_f32() * f32::from(scales[s]);
        let offset = dmin.to_f32() * f32::from(mins[s]);
        for (q, v) in q.iter_mut().zip(sub) {
            *q = if scale == 0.0 {
                // Every code decodes to the minimum; the one of the fit is stored.
                fit.code(s, *v)
            } else {
                nearest_even((v + offset) / scale).clamp(0, 3) as u8
            };
        }
    }
    let mut qs = [0; 64];
    for (qs, q) in qs.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<128>().0) {
        for l in 0..32 {
            qs[l] = q[l] | q[l + 32] << 2 | q[l + 64] << 4 | q[l + 96] << 6;
        }
    }
    BlockQ2_K { scales: std::array::from_fn(|s| scales[s] | mins[s] << 4), qs, d, dmin }
}

/// Sixteen values that are not negative, as 4-bit multiples of a half.
#[inline(always)]
fn four_bits(values: &[f32; 16]) -> ([u8; 16], F16Le) {
    let largest = values.iter().fold(0.0, |m, &v| if v > m { v } else { m });
    let inverse = if largest > 0.0 { 15.0 / largest } else { 0.0 };
    (values.map(|v| nearest_even(inverse * v) as u8), F16Le::from_f32(largest / 15.0))
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ2_K], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<256>().0) {
        let block = alone(block);
        let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
        for (j, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(block.scales[j] & 15);
            let min = dmin * f32::from(block.scales[j] >> 4);
            let q = alone(&block.qs[j / 8 * 32 + j % 2 * 16..][..16]);
            for (v, q) in y.iter_mut().zip(q) {
                *v = scale * f32::from(q >> (j / 2 % 4 * 2) & 3) - min;
            }
        }
    }
}
