//! Q3_K: 256 values in 16 sub-blocks of 16, 3-bit codes, 6-bit signed scales; 3.4375 bits a value.
//!
//! Value = `(d · (sc_j - 32)) · (q - 4)`. The low two bits of the codes lie as in Q2_K; bit `i / 32` of byte `i % 32` of
//! `hmask` is bit 2 of value `i`.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::{Block, Encode, alone, set_bits};
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
    const CODE_BITS: u32 = 3;
    const ERROR_BOUND: (f32, f32) = (f32::INFINITY, f32::INFINITY);
    const ENCODE: Option<Encode<Self>> = None;

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
