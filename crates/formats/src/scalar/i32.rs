//! I32: 32-bit integers, little-endian. Encoding takes integers only; decoding rounds to the nearest f32.

use crate::format::{Format, FormatError, check_shape};
use crate::{Dtype, Layout};

/// 32-bit integers.
pub struct I32;

impl Format for I32 {
    fn layout(&self) -> Layout {
        Dtype::I32.layout()
    }

    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        for (i, (&value, b)) in values.iter().zip(bytes.as_chunks_mut::<4>().0).enumerate() {
            if value as i64 as f32 != value || i32::try_from(value as i64).is_err() {
                return Err(FormatError::NotAnInteger { row: i / cols, col: i % cols, value });
            }
            *b = (value as i32).to_le_bytes();
        }
        Ok(())
    }

    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        for (v, b) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *v = i32::from_le_bytes(*b) as f32;
        }
        Ok(())
    }

    scalar_codes!(u32);

    fn error_bound(&self, _amax: f32) -> f32 {
        0.0
    }
}
