//! Between f32 and the 16-bit floats, rounded to nearest, ties to even.

use crate::Pool;
use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_rows};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

macro_rules! cast {
    ($half:ty, $to:ident, $from:ident, $name:literal) => {
        #[doc = concat!("Rounds f32 to ", $name, ".")]
        ///
        /// # Panics
        /// If the lengths differ.
        pub fn $to(pool: &Pool, x: &[f32], y: &mut [$half]) {
            expect_len("y", y.len(), x.len());
            let y = Disjoint::new(y);
            for_rows(pool, x.len(), 1, |range| {
                // SAFETY: ranges of tasks do not overlap.
                unsafe { y.part(range.clone()) }.convert_from_f32_slice(&x[range]);
            });
        }

        #[doc = concat!("Widens ", $name, " to f32, exactly.")]
        ///
        /// # Panics
        /// If the lengths differ.
        pub fn $from(pool: &Pool, x: &[$half], y: &mut [f32]) {
            expect_len("y", y.len(), x.len());
            let y = Disjoint::new(y);
            for_rows(pool, x.len(), 1, |range| {
                // SAFETY: ranges of tasks do not overlap.
                x[range.clone()].convert_to_f32_slice(unsafe { y.part(range) });
            });
        }
    };
}
cast!(bf16, f32_to_bf16, bf16_to_f32, "bf16");
cast!(f16, f32_to_f16, f16_to_f32, "f16");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::values;

    #[test]
    fn every_half_survives_the_way_to_f32_and_back() {
        let pool = Pool::new(2);
        let codes: Vec<u16> = (0..=u16::MAX).collect();
        let mut wide = vec![0.0; codes.len()];
        let b: Vec<bf16> = codes.iter().map(|&c| bf16::from_bits(c)).collect();
        let mut back = vec![bf16::ZERO; b.len()];
        bf16_to_f32(&pool, &b, &mut wide);
        f32_to_bf16(&pool, &wide, &mut back);
        assert!(b.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
        let h: Vec<f16> = codes.iter().map(|&c| f16::from_bits(c)).collect();
        let mut back = vec![f16::ZERO; h.len()];
        f16_to_f32(&pool, &h, &mut wide);
        f32_to_f16(&pool, &wide, &mut back);
        assert!(h.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
    }

    #[test]
    fn rounding_is_to_the_nearest_and_ties_go_to_even() {
        let pool = Pool::new(1);
        let x: Vec<f32> = values::<f32>(1000, 1).into_iter().chain([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0]).collect();
        let mut y = vec![bf16::ZERO; x.len()];
        f32_to_bf16(&pool, &x, &mut y);
        for (&x, y) in x.iter().zip(&y) {
            let below = f32::from_bits(x.to_bits() & 0xffff_0000);
            let above = f32::from_bits((x.to_bits() & 0xffff_0000) + 0x1_0000);
            let (down, up) = ((x as f64 - below as f64).abs(), (above as f64 - x as f64).abs());
            let even = if below.to_bits() >> 16 & 1 == 0 { below } else { above };
            let expected = if down < up {
                below
            } else if up < down {
                above
            } else {
                even
            };
            assert_eq!(y.to_f32(), expected, "{x}");
        }
    }
}
