//! IQ4_XS: 256 values in 8 sub-blocks of 32, 4-bit codes into the levels of IQ4_NL, 6-bit scales; 4.25 bits a value.
//!
//! Value = `(d · (sc_j - 32)) · IQ4_LEVELS[q]`. Each sub-block takes 16 bytes of `qs`: byte `l` holds value `l` low and
//! value `l + 16` high.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::iq4_nl::IQ4_LEVELS;
use super::level_search::{self, nearest_code};
use super::rounding::{nearest_even, reciprocal};
use super::{Block, alone, set_nibble};
use crate::{Dtype, F16Le};

/// 256 values.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockIQ4_XS {
    /// Unit of the scales.
    pub d: F16Le,
    /// Little-endian; bits `2 j` are the top two bits of scale `j`.
    pub scales_h: [u8; 2],
    /// The low four bits of scale `j` are the half `j % 2` of byte `j / 2`.
    pub scales_l: [u8; 4],
    /// Codes.
    pub qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockIQ4_XS>() == Dtype::IQ4_XS.block_bytes());

impl BlockIQ4_XS {
    /// The scales of each 32 values, -32..32.
    #[inline(always)]
    pub fn scales(&self) -> [i8; 8] {
        std::array::from_fn(|j| {
            let low = self.scales_l[j / 2] >> (j % 2 * 4) & 15;
            let high = self.scales_h[j / 4] >> (j % 4 * 2) & 3;
            (low | high << 4) as i8 - 32
        })
    }
}

impl Block for BlockIQ4_XS {
    const DTYPE: Dtype = Dtype::IQ4_XS;
    const LARGEST_CODE: u32 = 15;
    // No proof: the worst of a search by hill climbing was 0.161.
    const ERROR_BOUND: (f32, f32) = (0.25, 32.0 * 127.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        u32::from(self.qs[index / 32 * 16 + index % 16] >> (index / 16 % 2 * 4) & 15)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        set_nibble(&mut self.qs[index / 32 * 16 + index % 16], index / 16 % 2 == 1, code);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockIQ4_XS]) {
    for (x, block) in values.as_chunks::<256>().0.iter().zip(blocks) {
        *block = encode_block(alone(x));
    }
}

/// The sub-blocks' scales are rounded to 6 bits of `d = -(the scale of largest magnitude) / 32`, and the codes chosen under
/// them with the single-precision `d`.
#[inline(always)]
fn encode_block(x: &[f32; 256]) -> BlockIQ4_XS {
    let mut lanes = [[0.0; 8]; 32];
    for (s, sub) in x.as_chunks::<32>().0.iter().enumerate() {
        for (i, v) in sub.iter().enumerate() {
            lanes[i][s] = *v;
        }
    }
    let scales = level_search::fit(&lanes);
    let top_scale = scales.iter().fold(0.0f32, |top, &s| if s.abs() > top.abs() { s } else { top });
    let d = -top_scale / 32.0;
    let inverse = reciprocal(d);
    let mut block = BlockIQ4_XS::zeroed();
    block.d = F16Le::from_f32(d);
    for (j, ((x, qs), scale)) in
        x.as_chunks::<32>().0.iter().zip(block.qs.as_chunks_mut::<16>().0).zip(scales).enumerate()
    {
        let l = nearest_even(inverse * scale).clamp(-32, 31);
        let inverse = reciprocal(d * l as f32);
        let codes = x.map(|v| nearest_code(inverse * v));
        for (i, q) in qs.iter_mut().enumerate() {
            *q = codes[i] | codes[i + 16] << 4;
        }
        let l = (l + 32) as u8;
        block.scales_l[j / 2] |= (l & 15) << (j % 2 * 4);
        block.scales_h[j / 4] |= (l >> 4) << (j % 4 * 2);
    }
    block
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockIQ4_XS], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<256>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        let scales = block.scales();
        for (j, (q, y)) in block.qs.as_chunks::<16>().0.iter().zip(y.as_chunks_mut::<32>().0).enumerate() {
            let scale = d * f32::from(scales[j]);
            let (low, high) = y.split_at_mut(16);
            for ((l, h), q) in low.iter_mut().zip(high).zip(q) {
                *l = scale * f32::from(IQ4_LEVELS[usize::from(q & 15)]);
                *h = scale * f32::from(IQ4_LEVELS[usize::from(q >> 4)]);
            }
        }
    }
}
