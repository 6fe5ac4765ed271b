//! TQ1_0: 256 values of -d, 0 or d, five in a byte, one half-precision scale; 1.6875 bits a value.
//!
//! `d = max|x|`, trit `t = round(x / d) + 1` with ties away from zero, value `(t - 1) · d`. A byte is the fraction that its trits
//! are, the first the most significant: `ceil(t · 256 / 243)`, so that multiplying by 3 brings up the next trit in the bits above
//! the byte. Bytes 0..32 hold values 0..160 (trit `n` of byte `m`: value `m + 32 n`), bytes 32..48 values 160..240 (`m + 16 n`), and
//! `qh` the last 16 (`m + 4 n`), four a byte. Made for weights that have three values: others lose most of what they say.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::extremes::magnitude;
use super::rounding::{nearest_away, reciprocal};
use super::{Block, HALF_ULP, alone};
use crate::{Dtype, F16Le};

/// 256 values: five trits a byte, then four a byte, then the scale.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct BlockTQ1_0 {
    /// Five trits a byte.
    pub qs: [u8; 48],
    /// Four trits a byte.
    pub qh: [u8; 4],
    /// Scale.
    pub d: F16Le,
}
const _: () = assert!(size_of::<BlockTQ1_0>() == Dtype::TQ1_0.block_bytes());

const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// Trit `n` of a byte.
#[inline(always)]
fn trit(byte: u8, n: usize) -> u8 {
    ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as u8
}

/// The byte of five trits, the first the most significant.
#[inline(always)]
fn pack(trits: [u8; 5]) -> u8 {
    let [a, b, c, d, e] = trits.map(u16::from);
    (((((a * 3 + b) * 3 + c) * 3 + d) * 3 + e) * 256).div_ceil(243) as u8
}

impl BlockTQ1_0 {
    /// The byte that holds value `index`, and which of its trits.
    fn place(&mut self, index: usize) -> (&mut u8, usize) {
        match index {
            0..160 => (&mut self.qs[index % 32], index / 32),
            160..240 => (&mut self.qs[32 + index % 16], (index - 160) / 16),
            _ => (&mut self.qh[index % 4], (index - 240) / 4),
        }
    }
}

impl Block for BlockTQ1_0 {
    const DTYPE: Dtype = Dtype::TQ1_0;
    const LARGEST_CODE: u32 = 2;
    // Half a step of amax.
    const ERROR_BOUND: (f32, f32) = (0.5 + HALF_ULP, 1.0);

    fn encode(values: &[f32], blocks: &mut [Self]) {
        encode(values, blocks);
    }

    fn decode(blocks: &[Self], values: &mut [f32]) {
        decode(blocks, values);
    }

    fn code(&self, index: usize) -> u32 {
        let mut block = *self;
        let (byte, n) = block.place(index);
        u32::from(trit(*byte, n))
    }

    /// 13 of the 256 bytes are written by no encoder and decode as others do: a code that is there already changes nothing.
    fn set_code(&mut self, index: usize, code: u32) {
        let (byte, n) = self.place(index);
        let mut trits = std::array::from_fn(|i| trit(*byte, i));
        if u32::from(trits[n]) != code {
            trits[n] = code as u8;
            *byte = pack(trits);
        }
    }

    fn halves(&self) -> impl Iterator<Item = F16Le> {
        [self.d].into_iter()
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], blocks: &mut [BlockTQ1_0]) {
    for (x, block) in values.as_chunks::<256>().0.iter().zip(blocks) {
        let x = alone(x);
        let d = magnitude(x);
        let inverse = reciprocal(d);
        block.d = F16Le::from_f32(d);
        let trit = |i: usize| (nearest_away(x[i] * inverse) + 1) as u8;
        let (first, second) = block.qs.split_at_mut(32);
        for (m, q) in first.iter_mut().enumerate() {
            *q = pack([trit(m), trit(m + 32), trit(m + 64), trit(m + 96), trit(m + 128)]);
        }
        for (m, q) in second.iter_mut().enumerate() {
            *q = pack([trit(m + 160), trit(m + 176), trit(m + 192), trit(m + 208), trit(m + 224)]);
        }
        for (m, q) in block.qh.iter_mut().enumerate() {
            *q = pack([trit(m + 240), trit(m + 244), trit(m + 248), trit(m + 252), 0]);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(blocks: &[BlockTQ1_0], values: &mut [f32]) {
    for (block, y) in blocks.iter().zip(values.as_chunks_mut::<256>().0) {
        let block = alone(block);
        let d = block.d.to_f32();
        let (first, rest) = y.split_at_mut(160);
        let (second, last) = rest.split_at_mut(80);
        let value = |byte: u8, n: usize| f32::from(trit(byte, n) as i8 - 1) * d;
        for (n, y) in first.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            y.iter_mut().zip(&block.qs).for_each(|(v, q)| *v = value(*q, n));
        }
        for (n, y) in second.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            y.iter_mut().zip(&block.qs[32..]).for_each(|(v, q)| *v = value(*q, n));
        }
        for (n, y) in last.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            y.iter_mut().zip(block.qh).for_each(|(v, q)| *v = value(q, n));
        }
    }
}
