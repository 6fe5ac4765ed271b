//! Block formats: values that share scales. One file a format: the struct as it lies in a file, its size beside it,
//! and encode and decode as the definition of the format.

mod affine_search;
mod coordinate_search;
mod e2m1;
mod extremes;
mod fp6;
mod iq4_nl;
mod iq4_xs;
mod k_scales;
mod level_search;
mod mxfp4;
mod nvfp4;
mod q1_0;
mod q2_0;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod rounding;
mod symmetric_search;
mod tq1_0;
mod tq2_0;

use std::marker::PhantomData;

use bytemuck::Pod;
use extremes::magnitude;
use multiversion::multiversion;

use crate::format::{Format, FormatError, check_shape};
use crate::{Dtype, F16Le, Layout};

pub use fp6::{BlockFP6, E3M2_VALUES};
pub use iq4_nl::{BlockIQ4_NL, IQ4_LEVELS};
pub use iq4_xs::BlockIQ4_XS;
pub use k_scales::KScales;
pub use mxfp4::BlockMXFP4;
pub use nvfp4::BlockNVFP4;
pub use q1_0::BlockQ1_0;
pub use q2_0::BlockQ2_0;
pub use q2_k::BlockQ2_K;
pub use q3_k::BlockQ3_K;
pub use q4_0::BlockQ4_0;
pub use q4_1::BlockQ4_1;
pub use q4_k::BlockQ4_K;
pub use q5_0::BlockQ5_0;
pub use q5_1::BlockQ5_1;
pub use q5_k::BlockQ5_K;
pub use q6_k::BlockQ6_K;
pub use q8_0::BlockQ8_0;
pub use tq1_0::BlockTQ1_0;
pub use tq2_0::BlockTQ2_0;

/// A block as it lies in a file, alignment 1: mapped bytes can be cast to a slice of them.
pub trait Block: Pod + Send + Sync {
    /// The type that it stores; its length and size are those of the struct.
    const DTYPE: Dtype;
    /// The largest code.
    const LARGEST_CODE: u32;
    /// `a` and `b` of the error bound `a · amax + b · 2^-25`: see [`Format::error_bound`]. The second term is the rounding of
    /// subnormal scales.
    const ERROR_BOUND: (f32, f32);
    /// The largest magnitude that is encoded: what is beyond has a scale that the format does not have. For most formats the
    /// largest half, times the largest scale of 128, times the largest code of 32; up to there the sums of the encoders stay
    /// finite.
    const REACH: f32 = 65504.0 * 4096.0;

    /// Encodes `blocks.len()` whole blocks of values of magnitude up to [`Block::REACH`].
    fn encode(values: &[f32], blocks: &mut [Self]);
    /// Decodes blocks into as many values.
    fn decode(blocks: &[Self], values: &mut [f32]);
    /// The code of value `index`.
    fn code(&self, index: usize) -> u32;
    /// Replaces the code of value `index`.
    fn set_code(&mut self, index: usize, code: u32);
    /// The half-precision scales (and minima), if it has any, which must be finite for the block to be.
    fn halves(&self) -> impl Iterator<Item = F16Le>;
}

/// The [`Format`] of a block struct.
pub struct Blocks<B>(PhantomData<B>);

impl<B> Blocks<B> {
    pub(crate) const NEW: Self = Blocks(PhantomData);
}

impl<B: Block> Format for Blocks<B> {
    fn layout(&self) -> Layout {
        B::DTYPE.layout()
    }

    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        let dtype = B::DTYPE;
        check_shape(&dtype.layout(), cols, values.len(), bytes.len())?;
        let blocks: &mut [B] = bytemuck::cast_slice_mut(bytes);
        // Pieces that stay in the first cache level between the check and the encoder.
        let piece = PIECE_VALUES / dtype.block_len();
        for (p, (x, y)) in values.chunks(piece * dtype.block_len()).zip(blocks.chunks_mut(piece)).enumerate() {
            let first = p * piece * dtype.block_len();
            let overflow = |at: usize| {
                let col = at % cols / dtype.block_len() * dtype.block_len();
                let block = &values[at / cols * cols + col..][..dtype.block_len()];
                FormatError::ScaleOverflow { format: dtype.layout(), row: at / cols, col, amax: magnitude(block) }
            };
            if within(x, B::REACH) {
                B::encode(x, y);
            } else if let Some(i) = x.iter().position(|v| !v.is_finite()) {
                let at = first + i;
                let (row, col, value) = (at / cols, at % cols, values[at]);
                return Err(FormatError::NotFinite { format: dtype.layout(), row, col, value });
            } else {
                return Err(overflow(first + x.iter().position(|v| v.abs() > B::REACH).unwrap_or(0)));
            }
            if let Some(b) = y.iter().position(|block| !block.halves().all(F16Le::is_finite)) {
                return Err(overflow(first + b * dtype.block_len()));
            }
        }
        Ok(())
    }

    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        B::decode(bytemuck::cast_slice(bytes), values);
        Ok(())
    }

    fn code(&self, block: &[u8], index: usize) -> u64 {
        u64::from(bytemuck::from_bytes::<B>(block).code(index))
    }

    fn set_code(&self, block: &mut [u8], index: usize, code: u64) {
        bytemuck::from_bytes_mut::<B>(block).set_code(index, code as u32);
    }

    fn largest_code(&self) -> u64 {
        u64::from(B::LARGEST_CODE)
    }

    fn error_bound(&self, amax: f32) -> f32 {
        let (relative, absolute) = B::ERROR_BOUND;
        if amax > B::REACH { f32::INFINITY } else { relative * amax + absolute * HALF_SUBNORMAL }
    }
}

/// Largest relative error of a number rounded to a normal half.
const HALF_ULP: f32 = 1.0 / 2048.0;
/// Largest error of a number rounded to a subnormal half: 2^-25.
const HALF_SUBNORMAL: f32 = 1.0 / (1u32 << 25) as f32;

const PIECE_VALUES: usize = 2048;

/// Whether all magnitudes are at most `reach`. NaN and infinity are beyond any.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn within(x: &[f32], reach: f32) -> bool {
    magnitude(x) <= reach
}

/// Hides where a block lies, so that the compiler vectorizes within blocks. Left alone it unrolls the loop over a block and
/// vectorizes the loop over blocks, with a gather for every byte: three times slower.
#[inline(always)]
fn alone<T: ?Sized>(block: &T) -> &T {
    std::hint::black_box(block)
}

/// The sixteen sub-blocks of sixteen values as lanes: `[i][s]` is value `i` of sub-block `s`.
#[inline(always)]
fn sixteen_lanes(x: &[f32; 256]) -> [[f32; 16]; 16] {
    let mut lanes = [[0.0; 16]; 16];
    for (s, sub) in x.as_chunks::<16>().0.iter().enumerate() {
        for (i, v) in sub.iter().enumerate() {
            lanes[i][s] = *v;
        }
    }
    lanes
}

/// Sets the 4-bit field `high` (0 or 1) of a byte.
#[inline]
fn set_nibble(byte: &mut u8, high: bool, code: u32) {
    let shift = if high { 4 } else { 0 };
    *byte = *byte & !(15 << shift) | (code as u8 & 15) << shift;
}

/// Sets bits `shift..shift + width` of a byte.
#[inline]
fn set_bits(byte: &mut u8, shift: usize, width: usize, code: u32) {
    let mask = (1u8 << width) - 1;
    *byte = *byte & !(mask << shift) | (code as u8 & mask) << shift;
}
