//! Q3_K: 256 values in 16 sub-blocks of 16, 3-bit codes, 6-bit signed scales; 3.4375 bits a value.
//!
//! Value = `(d · (sc_j - 32)) · (q - 4)`. The low two bits of the codes lie as in Q2_K; bit `i / 32` of byte `i % 32` of
//! `hmask` is bit 2 of value `i`.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::rounding::nearest_even;
use super::{Block, alone, coordinate_search, set_bits, sixteen_lanes};
use crate::{Dtype, F16Le};

/// 256 values.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ3_K {
    /// Top bits.
    pub hmask: [u8; 32],
    /// Low two bits.
    pub qs: [u8; 64],
    /// Sixteen 6-bit scales: see [`BlockQ3_K::scales`].
    pub packed_scales: [u8; 12],
    /// Unit of the scales.
    pub d: F16Le,
}
const _: () = assert!(size_of::<BlockQ3_K>() == Dtype::Q3_K.block_bytes());

impl BlockQ3_K {
    /// The scales of each 16 values, -32..32.
    ///
    /// Scale `j` has its low four bits in byte `j % 8`, in the half `j / 8`, and its top two in bits `2 (j / 4)` of byte
    /// `8 + j % 4`.
    #[inline(always)]
    pub fn scales(&self) -> [i8; 16] {
        let b = &self.packed_scales;
        std::array::from_fn(|j| {
            let low = b[j % 8] >> (j / 8 * 4) & 15;
            let high = b[8 + j % 4] >> (j / 4 * 2) & 3;
            (low | high << 4) as i8 - 32
        })
    }
}

impl Block for BlockQ3_K {
    const DTYPE: Dtype = Dtype::Q3_K;
    const LARGEST_CODE: u32 = 7;
    // No proof: the worst of a search by hill climbing was 0.290.
    const ERROR_BOUND: (f32, f32) = (0.4, 32.0 * 4.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        let low = self.qs[index / 128 * 32 + index % 32] >> (index / 32 % 4 * 2) & 3;
        u32::from(low | (self.hmask[index % 32] >> (index / 32) & 1) << 2)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_bits(&mut self.qs[index / 128 * 32 + index % 32], index / 32 % 4 * 2, 2, code);
        set_bits(&mut self.hmask[index % 32], index / 32, 1, code >> 2);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ3_K]) {
    for (x, block) in values.as_chunks::<256>().0.iter().zip(blocks) {
        *block = encode_block(alone(x));
    }
}

#[inline(always)]
fn encode_block(x: &[f32; 256]) -> BlockQ3_K {
    let fit = coordinate_search::fit(&sixteen_lanes(x), 4.0);
    let top_scale = fit.scale.iter().fold(0.0f32, |top, &s| if s.abs() > top.abs() { s } else { top });
    let mut block = BlockQ3_K::zeroed();
    if top_scale != 0.0 {
        let inverse = -32.0 / top_scale;
        block.d = F16Le::from_f32(1.0 / inverse);
        for (j, scale) in fit.scale.iter().enumerate() {
            let l = (nearest_even(inverse * scale).clamp(-32, 31) + 32) as u8;
            block.packed_scales[j % 8] |= (l & 15) << (j / 8 * 4);
            block.packed_scales[8 + j % 4] |= (l >> 4) << (j / 4 * 2);
        }
    }
    let scales = block.scales();
    let mut codes = [0u8; 256];
    for (s, (sub, q)) in x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
        let scale = block.d.to_f32() * f32::from(scales[s]);
        for (i, (q, v)) in q.iter_mut().zip(sub).enumerate() {
            *q = if scale == 0.0 {
                // Every code decodes to zero; the one of the fit is stored.
                fit.code(s, i)
            } else {
                (nearest_even(v / scale).clamp(-4, 3) + 4) as u8
            };
        }
    }
    for (j, q) in codes.as_chunks::<32>().0.iter().enumerate() {
        for (l, q) in q.iter().enumerate() {
            block.qs[j / 4 * 32 + l] |= (q & 3) << (j % 4 * 2);
            block.hmask[l] |= (q >> 2) << j;
        }
    }
    block
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ3_K], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<256>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        let scales = block.scales();
        for (j, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(scales[j]);
            let low = &block.qs[j / 8 * 32 + j % 2 * 16..][..16];
            let high = &block.hmask[j % 2 * 16..][..16];
            for ((v, l), h) in y.iter_mut().zip(low).zip(high) {
                let q = l >> (j / 2 % 4 * 2) & 3 | (h >> (j / 2) & 1) << 2;
                *v = scale * f32::from(q as i8 - 4);
            }
        }
    }
}
