//! F16: IEEE half precision, little-endian; to nearest, ties to even, overflow (from 65520) to infinity, NaN stays NaN.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::format::{Format, FormatError, check_shape};
use crate::{Dtype, Layout};

/// IEEE half precision.
pub struct F16;

impl Format for F16 {
    fn layout(&self) -> Layout {
        Dtype::F16.layout()
    }

    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        let mut piece = [f16::ZERO; PIECE];
        for (x, y) in values.chunks(PIECE).zip(bytes.chunks_mut(2 * PIECE)) {
            let piece = &mut piece[..x.len()];
            piece.convert_from_f32_slice(x);
            y.copy_from_slice(bytemuck::cast_slice(piece));
        }
        Ok(())
    }

    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        let mut piece = [f16::ZERO; PIECE];
        for (x, y) in values.chunks_mut(PIECE).zip(bytes.chunks(2 * PIECE)) {
            let piece = &mut piece[..x.len()];
            bytemuck::cast_slice_mut(piece).copy_from_slice(y);
            piece.convert_to_f32_slice(x);
        }
        Ok(())
    }

    scalar_codes!(u16);

    fn error_bound(&self, amax: f32) -> f32 {
        // Half a unit in the last of 11 bits; half a subnormal step; infinite where the value becomes infinite.
        if amax < 65520.0 { amax / 2048.0 + 1.0 / (1u32 << 25) as f32 } else { f32::INFINITY }
    }
}

/// Values that pass through an aligned buffer at once: the bytes may begin anywhere.
const PIECE: usize = 256;
