//! Q4_K: 256 values in 8 sub-blocks of 32, 4-bit codes, 6-bit scales and minima; 4.5 bits a value.
//!
//! Value = `(d · sc_j) · q - (dmin · m_j)`. Each 64 values take 32 bytes of `qs`: byte `l` holds value `l` low and value
//! `l + 32` high.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::affine_search::AffineSearch;
use super::k_scales::{AffineBlock, encode_affine};
use super::{Block, KScales, alone, set_nibble};
use crate::{Dtype, F16Le};

/// 256 values.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ4_K {
    /// Unit of the scales.
    pub d: F16Le,
    /// Unit of the minima.
    pub dmin: F16Le,
    /// Scales and minima of the sub-blocks.
    pub scales: KScales,
    /// Codes.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ4_K>() == Dtype::Q4_K.block_bytes());

const SEARCH: AffineSearch = AffineSearch { max_code: 15, first: -1.0, step: 0.1, steps: 20, absolute: false };

impl Block for BlockQ4_K {
    const DTYPE: Dtype = Dtype::Q4_K;
    const LARGEST_CODE: u32 = 15;
    // No proof: the worst of a search by hill climbing was 0.144.
    const ERROR_BOUND: (f32, f32) = (0.2, 63.0 * 16.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        u32::from(self.qs[index / 64 * 32 + index % 32] >> (index / 32 % 2 * 4) & 15)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_nibble(&mut self.qs[index / 64 * 32 + index % 32], index / 32 % 2 == 1, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d, self.dmin].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ4_K]) {
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
fn pack((d, dmin, scales, codes): AffineBlock) -> BlockQ4_K {
    let mut qs = [0; 128];
    for (q, codes) in qs.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
        for (l, q) in q.iter_mut().enumerate() {
            *q = codes[l] | codes[l + 32] << 4;
        }
    }
    BlockQ4_K { d, dmin, scales, qs }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ4_K], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<256>().0) {
        let block = alone(block);
        let (d, dmin) = (block.d.to_f32(), block.dmin.to_f32());
        let (scales, mins) = block.scales.unpack();
        for (j, (q, y)) in block.qs.as_chunks::<32>().0.iter().zip(y.as_chunks_mut::<64>().0).enumerate() {
            let (low, high) = y.split_at_mut(32);
            let (low_scale, low_min) = (d * f32::from(scales[2 * j]), dmin * f32::from(mins[2 * j]));
            let (high_scale, high_min) = (d * f32::from(scales[2 * j + 1]), dmin * f32::from(mins[2 * j + 1]));
            for ((l, h), q) in low.iter_mut().zip(high).zip(q) {
                *l = low_scale * f32::from(q & 15) - low_min;
                *h = high_scale * f32::from(q >> 4) - high_min;
            }
        }
    }
}
