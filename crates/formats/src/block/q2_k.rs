//! Q2_K: 256 values in 16 sub-blocks of 16, 2-bit codes, 4-bit scales and minima; 2.625 bits a value.
//!
//! Value = `(d · (scales_j % 16)) · q - (dmin · (scales_j / 16))`. Each 128 values take 32 bytes of `qs`: value
//! `32 n + l` lies in bits `2 n` of byte `l`.

use bytemuck::{Pod, Zeroable};
use multiversion::multiversion;

use super::{Block, Encode, alone, set_bits};
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
    const CODE_BITS: u32 = 2;
    const ERROR_BOUND: (f32, f32) = (f32::INFINITY, f32::INFINITY);
    const ENCODE: Option<Encode<Self>> = None;

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
