//! Q5_K: 256 values in 8 sub-blocks of 32, 5-bit codes, 6-bit scales and minima; 5.5 bits a value.
//!
//! Value = `(d · sc_j) · q - (dmin · m_j)`. The low four bits lie as in Q4_K; bit `j` of byte `l` of `qh` is bit 4 of
//! value `l` of sub-block `j`.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::affine_search::AffineSearch;
use super::k_scales::{AffineBlock, encode_affine};
use super::{Block, KScales, alone, set_bits, set_nibble};
use crate::{Dtype, F16Le};

/// 256 values.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ5_K {
    /// Unit of the scales.
    pub d: F16Le,
    /// Unit of the minima.
    pub dmin: F16Le,
    /// Scales and minima of the sub-blocks.
    pub scales: KScales,
    /// Fifth bits.
    pub qh: [u8; 32],
    /// Low four bits.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ5_K>() == Dtype::Q5_K.block_bytes());

const SEARCH: AffineSearch = AffineSearch { max_code: 31, first: -0.5, step: 0.1, steps: 15, absolute: false };

impl Block for BlockQ5_K {
    const DTYPE: Dtype = Dtype::Q5_K;
    const LARGEST_CODE: u32 = 31;
    // No proof: the worst of a search by hill climbing was 0.075.
    const ERROR_BOUND: (f32, f32) = (0.12, 63.0 * 32.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        let low = self.qs[index / 64 * 32 + index % 32] >> (index / 32 % 2 * 4) & 15;
        u32::from(low | (self.qh[index % 32] >> (index / 32) & 1) << 4)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_nibble(&mut self.qs[index / 64 * 32 + index % 32], index / 32 % 2 == 1, code);
        set_bits(&mut self.qh[index % 32], index / 32, 1, code >> 4);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d, self.dmin].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ5_K]) {
    let (x, last_x) = values.as_chunks::<256>().0.as_chunks::<2>();
    let (pairs, last) = blocks.as_chunks_mut::<2>();
    for (x, pair) in x.iter().zip(pairs) {
        let x = alone(x);
        encode_affine::<2, 16>([&x[0], &x[1]], &SEARCH, |k, block| pair[k] = pack(block));
    }
    for (x, last) in last_x.iter().zip(last) {
        encode_affine::<1, 8>([x], &SEARCH, |_, block| *last = pack(block));
    }
}

#[inline(always)]
fn pack((d, dmin, scales, codes): AffineBlock) -> BlockQ5_K {
    let (mut qs, mut qh) = ([0; 128], [0; 32]);
    for (j, codes) in codes.as_chunks::<64>().0.iter().enumerate() {
        for l in 0..32 {
            let (low, high) = (codes[l], codes[l + 32]);
            qs[32 * j + l] = low & 15 | high << 4;
            qh[l] |= (low >> 4 | high >> 4 << 1) << (2 * j);
        }
    }
    BlockQ5_K { d, dmin, scales, qh, qs }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ5_K], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<256>().0) {
        let block = alone(block);
        let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
        let (scales, mins) = block.scales.unpack();
        for (j, (q, y)) in block.qs.as_chunks::<32>().0.iter().zip(y.as_chunks_mut::<64>().0).enumerate() {
            let (low, high) = y.split_at_mut(32);
            let (scale, min) = (d * f32::from(scales[2 * j]), dmin * f32::from(mins[2 * j]));
            for ((v, q), h) in low.iter_mut().zip(q).zip(&block.qh) {
                *v = scale * f32::from(q & 15 | (h >> (2 * j) & 1) << 4) - min;
            }
            let (scale, min) = (d * f32::from(scales[2 * j + 1]), dmin * f32::from(mins[2 * j + 1]));
            for ((v, q), h) in high.iter_mut().zip(q).zip(&block.qh) {
                *v = scale * f32::from(q >> 4 | (h >> (2 * j + 1) & 1) << 4) - min;
            }
        }
    }
}
