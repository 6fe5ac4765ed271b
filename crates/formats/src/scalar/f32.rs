//! F32: IEEE single precision, little-endian; exact.

use crate::format::{Format, FormatError, check_shape};
use crate::{Dtype, Layout};

/// IEEE single precision.
pub struct F32;

impl Format for F32 {
    fn layout(&self) -> Layout {
        Dtype::F32.layout()
    }

    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        bytes.copy_from_slice(bytemuck::cast_slice(values));
        Ok(())
    }

    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        bytemuck::cast_slice_mut(values).copy_from_slice(bytes);
        Ok(())
    }

    scalar_codes!(u32);

    fn error_bound(&self, _amax: f32) -> f32 {
        0.0
    }
}
