//! BF16: the upper half of an f32, little-endian; to nearest, ties to even, overflow to infinity, NaN stays NaN.

use multiversion::multiversion;

use crate::format::{Format, FormatError, check_shape};
use crate::{Dtype, Layout};

/// Brain floating point: 8 exponent, 7 mantissa bits.
pub struct BF16;

impl Format for BF16 {
    fn layout(&self) -> Layout {
        Dtype::BF16.layout()
    }

    fn encode(&self, cols: usize, values: &[f32], bytes: &mut [u8]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        encode(values, bytes.as_chunks_mut().0);
        Ok(())
    }

    fn decode(&self, cols: usize, bytes: &[u8], values: &mut [f32]) -> Result<(), FormatError> {
        check_shape(&self.layout(), cols, values.len(), bytes.len())?;
        decode(bytes.as_chunks().0, values);
        Ok(())
    }

    scalar_codes!(u16);

    fn error_bound(&self, amax: f32) -> f32 {
        // Half a unit in the last of 8 bits; half a subnormal step; infinite where the value becomes infinite.
        if amax < 255.5 * 2f32.powi(120) { amax / 256.0 + f32::from_bits(0x8000) } else { f32::INFINITY }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn encode(values: &[f32], codes: &mut [[u8; 2]]) {
    for (v, c) in values.iter().zip(codes) {
        let bits = v.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        // Rounding could carry a NaN into infinity: it is cut instead, and made quiet.
        let nan = bits >> 16 | 0x40;
        *c = (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded } as u16).to_le_bytes();
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl", "x86_64+avx2"))]
fn decode(codes: &[[u8; 2]], values: &mut [f32]) {
    for (v, c) in values.iter_mut().zip(codes) {
        *v = f32::from_bits(u32::from(u16::from_le_bytes(*c)) << 16);
    }
}
