//! F64: IEEE double precision, little-endian; encoding is exact, decoding rounds to the nearest f32, ties to even.

use crate::format::{Format, FormatError, check_shape};
use crate::{Dtype, Layout};

/// IEEE double precision.
pub struct F64;

impl Format for F64 {
    fn layout(&self) -> Layout {
        Dtype::F64.layout()
    }

    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        for (v, b) in values.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *b = f64::from(*v).to_le_bytes();
        }
        Ok(())
    }

    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        for (v, b) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *v = f64::from_le_bytes(*b) as f32;
        }
        Ok(())
    }

    scalar_codes!(u64);

    fn error_bound(&self, _amax: f32) -> f32 {
        0.0
    }
}
