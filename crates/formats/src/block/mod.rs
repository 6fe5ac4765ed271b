//! Block formats: values that share scales. One file a format: the struct as it lies in a file, its size beside it,
//! and encode and decode as the definition of the format.

mod affine_search;
mod extremes;
mod iq4_nl;
mod iq4_xs;
mod k_scales;
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

use std::marker::PhantomData;

use bytemuck::Pod;

use crate::format::{Format, FormatError, check_shape};
use crate::{Dtype, F16Le};

pub use iq4_nl::{BlockIQ4_NL, IQ4_LEVELS};
pub use iq4_xs::BlockIQ4_XS;
pub use k_scales::KScales;
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

/// Encodes `blocks.len()` whole blocks of finite values.
pub type Encode<B> = fn(values: &[f32], blocks: &mut [B]);

/// A block as it lies in a file, alignment 1: mapped bytes can be cast to a slice of them.
pub trait Block: Pod + Send + Sync {
    /// The type that it stores; its length and size are those of the struct.
    const DTYPE: Dtype;
    /// Bits of a code.
    const CODE_BITS: u32;
    /// See [`Format::error_bound`]; infinite for a format that is read, never written.
    const ERROR_BOUND: f32;
    /// The encoder; `None` for a format that is read, never written.
    const ENCODE: Option<Encode<Self>>;

    /// Decodes blocks into as many values.
    fn decode(blocks: &[Self], values: &mut [f32]);
    /// The code of value `index`.
    fn code(&self, index: usize) -> u32;
    /// Replaces the code of value `index`.
    fn set_code(&mut self, index: usize, code: u32);
    /// The half-precision scales (and minima), which must be finite for the block to be.
    fn halves(&self) -> impl Iterator<Item = F16Le>;
}

/// The [`Format`] of a block struct.
pub struct Blocks<B>(PhantomData<B>);

impl<B> Blocks<B> {
    pub(crate) const NEW: Self = Blocks(PhantomData);
}

impl<B: Block> Format for Blocks<B> {
    fn dtype(&self) -> Dtype {
        B::DTYPE
    }

    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        let dtype = B::DTYPE;
        let encode = B::ENCODE.ok_or(FormatError::ReadOnly { dtype })?;
        check_shape(dtype, cols, values.len(), bytes.len())?;
        let blocks: &mut [B] = bytemuck::cast_slice_mut(bytes);
        // Pieces that stay in the first cache level between the check and the encoder.
        let piece = PIECE_VALUES / dtype.block_len();
        for (p, (x, y)) in values.chunks(piece * dtype.block_len()).zip(blocks.chunks_mut(piece)).enumerate() {
            let first = p * piece * dtype.block_len();
            if !all_finite(x) {
                let at = first + x.iter().position(|v| !v.is_finite()).unwrap_or(0);
                return Err(FormatError::NotFinite { dtype, row: at / cols, col: at % cols, value: values[at] });
            }
            encode(x, y);
            if let Some(b) = y.iter().position(|block| !block.halves().all(F16Le::is_finite)) {
                let at = first + b * dtype.block_len();
                let amax = values[at..at + dtype.block_len()].iter().fold(0f32, |m, v| m.max(v.abs()));
                return Err(FormatError::ScaleOverflow { dtype, row: at / cols, col: at % cols, amax });
            }
        }
        Ok(())
    }

    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        check_shape(B::DTYPE, cols, values.len(), bytes.len())?;
        B::decode(bytemuck::cast_slice(bytes), values);
        Ok(())
    }

    fn code(&self, block: &[u8], index: usize) -> u64 {
        u64::from(bytemuck::from_bytes::<B>(block).code(index))
    }

    fn set_code(&self, block: &mut [u8], index: usize, code: u64) {
        bytemuck::from_bytes_mut::<B>(block).set_code(index, code as u32);
    }

    fn code_bits(&self) -> u32 {
        B::CODE_BITS
    }

    fn error_bound(&self) -> f32 {
        B::ERROR_BOUND
    }

    fn can_encode(&self) -> bool {
        B::ENCODE.is_some()
    }
}

const PIECE_VALUES: usize = 2048;

fn all_finite(x: &[f32]) -> bool {
    // The largest exponent field is that of infinities and NaNs.
    x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)) < 0x7f80_0000
}

/// Hides where a block lies, so that the compiler vectorizes within blocks. Left alone it unrolls the loop over a block and
/// vectorizes the loop over blocks, with a gather for every byte: three times slower.
#[inline(always)]
fn alone<T: ?Sized>(block: &T) -> &T {
    std::hint::black_box(block)
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
