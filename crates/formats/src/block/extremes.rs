//! Extremes of a block, in forms that vectorize and still give what a loop from the first value to the last would.

/// The largest magnitude; a NaN counts as the largest.
#[inline(always)]
pub fn magnitude(x: &[f32]) -> f32 {
    // Bits of non-negative floats are ordered as they are.
    f32::from_bits(x.iter().fold(0, |m, v| m.max(v.to_bits() & 0x7fff_ffff)))
}

/// The first value of largest magnitude; 0 if all are zero.
#[inline(always)]
pub fn signed_max(x: &[f32; 32]) -> f32 {
    let amax = magnitude(x);
    let positive = x.iter().fold(false, |any, &v| any | (v == amax));
    let negative = x.iter().fold(false, |any, &v| any | (v == -amax));
    match (positive, negative) {
        (_, false) => amax,
        (false, true) => -amax,
        (true, true) if amax == 0.0 => 0.0,
        (true, true) => x.iter().copied().find(|v| v.abs() == amax).unwrap_or(amax),
    }
}

/// The smallest and the largest value; of two zeros of unlike sign the first is meant.
#[inline(always)]
pub fn min_max(x: &[f32; 32]) -> (f32, f32) {
    let rows = x.as_chunks::<8>().0;
    let (mut low, mut high) = (rows[0], rows[0]);
    for row in &rows[1..] {
        for s in 0..8 {
            low[s] = if row[s] < low[s] { row[s] } else { low[s] };
            high[s] = if row[s] > high[s] { row[s] } else { high[s] };
        }
    }
    let mut min = low.iter().fold(low[0], |m, &v| if v < m { v } else { m });
    let mut max = high.iter().fold(high[0], |m, &v| if v > m { v } else { m });
    if min == 0.0 {
        // The sign of the zero is stored.
        min = x.iter().copied().find(|&v| v == 0.0).unwrap_or(min);
        max = if max == 0.0 { min } else { max };
    }
    (min, max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_those_of_a_loop_in_order() {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 33
        };
        let levels = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1e-40, -3.0, 3.0];
        for block in 0..200_000 {
            // Few levels, and in some blocks only zeros, so that ties of every kind occur.
            let n = if block % 3 == 0 { 2 } else { 3 + block as u64 % 7 };
            let x: [f32; 32] = std::array::from_fn(|_| levels[(next() % n) as usize]);
            let (mut amax, mut signed, mut min, mut max) = (0f32, 0f32, f32::MAX, f32::MIN);
            for v in x {
                if v.abs() > amax {
                    (amax, signed) = (v.abs(), v);
                }
                min = if v < min { v } else { min };
                max = if v > max { v } else { max };
            }
            let bits = |v: f32| v.to_bits();
            assert_eq!(bits(magnitude(&x)), bits(amax), "{x:?}");
            assert_eq!(bits(signed_max(&x)), bits(signed), "{x:?}");
            assert_eq!(bits(min_max(&x).0), bits(min), "{x:?}");
            assert_eq!(bits(min_max(&x).1 - min_max(&x).0), bits(max - min), "{x:?}");
        }
    }
}
