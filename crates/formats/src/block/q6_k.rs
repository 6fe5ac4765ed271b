//! Q6_K: 256 values in 16 sub-blocks of 16, 6-bit codes, 8-bit scales; 6.5625 bits a value.
//!
//! Value = `(d · scales_j) · (q - 32)`. Each 128 values take 64 bytes of `ql` and 32 of `qh`: value `32 n + l` (n 0..4,
//! l 0..32) has its low four bits in byte `l + 32 (n % 2)` of `ql`, in the half `n / 2`, and its top two in bits `2 n` of
//! byte `l` of `qh`.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::rounding::nearest_even;
use super::symmetric_search::{self, TINY};
use super::{Block, alone, set_bits, set_nibble, sixteen_lanes};
use crate::{Dtype, F16Le};

/// 256 values.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockQ6_K {
    /// Low four bits.
    pub ql: [u8; 128],
    /// Top two bits.
    pub qh: [u8; 64],
    /// Scale of each 16 values.
    pub scales: [i8; 16],
    /// Unit of the scales.
    pub d: F16Le,
}
const _: () = assert!(size_of::<BlockQ6_K>() == Dtype::Q6_K.block_bytes());

impl Block for BlockQ6_K {
    const DTYPE: Dtype = Dtype::Q6_K;
    const LARGEST_CODE: u32 = 63;
    // No proof: the worst of a search by hill climbing was 0.026.
    const ERROR_BOUND: (f32, f32) = (0.04, 128.0 * 32.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        let (half, n, l) = (index / 128, index / 32 % 4, index % 32);
        let low = self.ql[64 * half + 32 * (n % 2) + l] >> (n / 2 * 4) & 15;
        u32::from(low | (self.qh[32 * half + l] >> (2 * n) & 3) << 4)
    }

    fn set_code(&mut self, index: usize, code: u32) {
        let (half, n, l) = (index / 128, index / 32 % 4, index % 32);
        set_nibble(&mut self.ql[64 * half + 32 * (n % 2) + l], n >= 2, code);
        set_bits(&mut self.qh[32 * half + l], 2 * n, 2, code >> 4);
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockQ6_K]) {
    for (x, block) in values.as_chunks::<256>().0.iter().zip(blocks) {
        let x = alone(x);
        *block = encode_block(x);
    }
}

#[inline(always)]
fn encode_block(x: &[f32; 256]) -> BlockQ6_K {
    let fit = symmetric_search::fit(&sixteen_lanes(x), 32);
    let top_scale = fit.scale.iter().fold(0.0f32, |top, &s| if s.abs() > top.abs() { s } else { top });
    let mut block = BlockQ6_K::zeroed();
    if top_scale.abs() < TINY {
        return block;
    }
    let inverse = -128.0 / top_scale;
    block.d = F16Le::from_f32(1.0 / inverse);
    block.scales = fit.scale.map(|s| nearest_even(inverse * s).min(127) as i8);

    let mut codes = [0u8; 256];
    for (s, (sub, q)) in x.as_chunks::<16>().0.iter().zip(codes.as_chunks_mut::<16>().0).enumerate() {
        let scale = block.d.to_f32() * f32::from(block.scales[s]);
        for (q, v) in q.iter_mut().zip(sub) {
            *q = if scale == 0.0 {
                // Every code decodes to zero; the one of the fit is stored.
                fit.code(s, *v)
            } else {
                (nearest_even(v / scale).clamp(-32, 31) + 32) as u8
            };
        }
    }
    let halves = block.ql.as_chunks_mut::<64>().0.iter_mut().zip(block.qh.as_chunks_mut::<32>().0);
    for ((ql, qh), q) in halves.zip(codes.as_chunks::<128>().0) {
        for l in 0..32 {
            let (a, b, c, d) = (q[l], q[l + 32], q[l + 64], q[l + 96]);
            ql[l] = a & 15 | c << 4;
            ql[l + 32] = b & 15 | d << 4;
            qh[l] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
    block
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockQ6_K], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<256>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        for (half, y) in y.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            let (ql, qh) = (&block.ql[64 * half..][..64], &block.qh[32 * half..][..32]);
            for (n, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let low = &ql[32 * (n % 2)..][..32];
                for (s, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                    let scale = d * f32::from(block.scales[8 * half + 2 * n + s]);
                    for (l, v) in y.iter_mut().enumerate() {
                        let (a, b) = (low[16 * s + l], qh[16 * s + l]);
                        let q = a >> (n / 2 * 4) & 15 | (b >> (2 * n) & 3) << 4;
                        *v = scale * f32::from(q as i8 - 32);
                    }
                }
            }
        }
    }
}
