//! The scale of a sub-block without a minimum, by weighted least squares over trial grids.
//!
//! A sub-block x is stored as `scale · l` with integers `-top ≤ l < top`; the weight of a value is its square. Trial
//! inverse scales are `-(top + k/10) / (the value of largest magnitude)`, k = -9..=9; each gives codes l, whose best scale
//! is `Σ w l x / Σ w l²`. A trial is kept if `(Σ w l x)² / Σ w l²`, by which it lowers the error, is strictly greater.
//!
//! Sub-blocks lie in lanes as in the affine search, with the same property.

use super::rounding::nearest_even;

/// The smallest magnitude that is not taken for zero.
pub const TINY: f32 = 1e-15;

/// The fit of every sub-block: value = `scale · l`.
pub struct SymmetricFit<const N: usize> {
    /// Scales, of either sign; 0 for a sub-block without a magnitude above [`TINY`].
    pub scale: [f32; N],
    inverse: [f32; N],
    zero: [bool; N],
    top: i32,
}

impl<const N: usize> SymmetricFit<N> {
    /// The code (0..2·top) that the kept trial gave to value `x` of sub-block `s`; 0 where the scale is 0.
    pub fn code(&self, s: usize, x: f32) -> u8 {
        if self.zero[s] {
            return 0;
        }
        (nearest_even(self.inverse[s] * x).clamp(-self.top, self.top - 1) + self.top) as u8
    }
}

/// Fits `N` sub-blocks of `M` values with codes of `2·top` levels.
#[inline(always)]
pub fn fit<const N: usize, const M: usize>(x: &[[f32; N]; M], top: i32) -> SymmetricFit<N> {
    let (mut amax, mut max) = ([0.0f32; N], [0.0f32; N]);
    for row in x {
        for s in 0..N {
            let larger = row[s].abs() > amax[s];
            amax[s] = if larger { row[s].abs() } else { amax[s] };
            max[s] = if larger { row[s] } else { max[s] };
        }
    }
    let mut scale = [0.0; N];
    let mut best = [0.0; N];
    let mut inverse = [0.0; N];
    for (first, k) in [0].into_iter().chain(-9..=-1).chain(1..=9).enumerate().map(|(n, k)| (n == 0, k)) {
        let mut trial = [0.0; N];
        for s in 0..N {
            trial[s] = -(top as f32 + 0.1 * k as f32) / max[s];
        }
        let (mut sum_lx, mut sum_l2) = ([0.0; N], [0.0; N]);
        for row in x {
            for s in 0..N {
                let l = nearest_even(trial[s] * row[s]).clamp(-top, top - 1) as f32;
                let w = row[s] * row[s];
                sum_lx[s] += w * row[s] * l;
                sum_l2[s] += w * l * l;
            }
        }
        for s in 0..N {
            if first || (sum_l2[s] > 0.0 && sum_lx[s] * sum_lx[s] > best[s] * sum_l2[s]) {
                scale[s] = if sum_l2[s] == 0.0 { 0.0 } else { sum_lx[s] / sum_l2[s] };
                best[s] = scale[s] * sum_lx[s];
                inverse[s] = trial[s];
            }
        }
    }
    let zero = amax.map(|a| a < TINY);
    for s in 0..N {
        scale[s] = if zero[s] { 0.0 } else { scale[s] };
    }
    SymmetricFit { scale, inverse, zero, top }
}
