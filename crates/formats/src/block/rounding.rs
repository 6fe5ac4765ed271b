//! The two roundings of the block encoders, in forms that vectorize.

/// 1/d, or 0 if d is zero or so small that 1/d is infinite: the half-precision scale is zero then, and so is every value.
#[inline(always)]
pub fn reciprocal(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The integer nearest to `v`, ties to even, by adding 1.5 · 2^23 and reading the mantissa; exact for |v| ≤ 4194303.
///
/// Beyond that range the low 23 bits of the sum are returned, as the published encoders do: their trial scales can reach
/// it, and the trial then loses.
#[inline(always)]
pub fn nearest_even(v: f32) -> i32 {
    ((v + 12_582_912.0).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// [`nearest_even`] as a float, without leaving the float registers.
#[inline(always)]
pub fn nearest_even_f32(v: f32) -> f32 {
    // The low 23 bits under the exponent of 2^23 are 2^23 and their value.
    f32::from_bits((v + 12_582_912.0).to_bits() & 0x007f_ffff | 0x4b00_0000) - 12_582_912.0
}

/// The integer nearest to `v`, ties away from zero, for |v| ≤ 4194303. `v + 0.5` would be inexact just below one half, and
/// conversions by `as` saturate, which does not vectorize.
#[inline(always)]
pub fn nearest_away(v: f32) -> i32 {
    let beyond = v - nearest_even_f32(v);
    nearest_even(v) + i32::from((beyond == 0.5) & (v > 0.0)) - i32::from((beyond == -0.5) & (v < 0.0))
}

/// The largest integer that is not above `v`, for |v| ≤ 4194303.
#[inline(always)]
pub fn floor(v: f32) -> i32 {
    nearest_even(v) - i32::from(nearest_even_f32(v) > v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_roundings_equal_the_standard_library_where_they_must() {
        let mut checked = 0;
        for i in -4_000_000..4_000_000 {
            for v in [i as f32 / 8.0, (i as f32 / 8.0).next_up(), (i as f32 / 8.0).next_down()] {
                assert_eq!(nearest_even(v), v.round_ties_even() as i32, "{v}");
                assert_eq!(nearest_away(v), v.round() as i32, "{v}");
                assert_eq!(floor(v), v.floor() as i32, "{v}");
                checked += 1;
            }
        }
        assert_eq!(checked, 24_000_000);
    }

    #[test]
    fn both_forms_of_the_even_rounding_agree_on_every_float() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let v = f32::from_bits(u32::from(high) << 16 | low);
                assert_eq!(nearest_even(v) as f32, nearest_even_f32(v), "{v}");
            }
        }
    }
}
