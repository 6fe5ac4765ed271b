//! The scale of a sub-block of few levels, by coordinate descent on its codes.
//!
//! A sub-block x is stored as `scale · l` with integers `-top ≤ l < top`; the weight of a value is its square. From the
//! codes under `-top / (the value of largest magnitude)`, each code in turn is set to the one nearest under the best scale of
//! the others, `Σ w l² / Σ w l x` without it, if that raises `(Σ w l x)² / Σ w l²`; five passes at most. A pass without a
//! change would be followed by passes without a change, so every lane makes all five.
//!
//! Sub-blocks lie in lanes as in the affine search, with the same property.

use super::rounding::nearest_even_f32;
use super::symmetric_search::TINY;

/// The fit of every sub-block: value = `scale · l`.
pub struct CoordinateFit<const N: usize, const M: usize> {
    /// Scales, of either sign; 0 for a sub-block without a magnitude above [`TINY`].
    pub scale: [f32; N],
    codes: [[f32; N]; M],
    zero: [bool; N],
    top: f32,
}

impl<const N: usize, const M: usize> CoordinateFit<N, M> {
    /// The code (0..2·top) of value `i` of sub-block `s`; 0 where the scale is 0 for want of a magnitude.
    pub fn code(&self, s: usize, i: usize) -> u8 {
        if self.zero[s] { 0 } else { (self.codes[i][s] + self.top) as u8 }
    }
}

/// Fits `N` sub-blocks of `M` values with codes of `2·top` levels.
#[inline(always)]
pub fn fit<const N: usize, const M: usize>(x: &[[f32; N]; M], top: f32) -> CoordinateFit<N, M> {
    let clamp = |l: f32| {
        let l = if l > -top { l } else { -top };
        if l < top - 1.0 { l } else { top - 1.0 }
    };
    let (mut amax, mut max) = ([0.0f32; N], [0.0f32; N]);
    for row in x {
        for s in 0..N {
            let larger = row[s].abs() > amax[s];
            amax[s] = if larger { row[s].abs() } else { amax[s] };
            max[s] = if larger { row[s] } else { max[s] };
        }
    }
    let mut inverse = [0.0; N];
    for s in 0..N {
        inverse[s] = -top / max[s];
    }
    let mut codes = [[0.0f32; N]; M];
    let (mut sum_lx, mut sum_l2) = ([0.0f32; N], [0.0f32; N]);
    for (codes, row) in codes.iter_mut().zip(x) {
        for s in 0..N {
            let l = clamp(nearest_even_f32(inverse[s] * row[s]));
            let w = row[s] * row[s];
            codes[s] = l;
            sum_lx[s] += w * row[s] * l;
            sum_l2[s] += w * l * l;
        }
    }
    for _ in 0..5 {
        for (codes, row) in codes.iter_mut().zip(x) {
            for s in 0..N {
                let (v, l) = (row[s], codes[s]);
                let w = v * v;
                let without_lx = sum_lx[s] - w * v * l;
                let without_l2 = sum_l2[s] - w * l * l;
                let new = clamp(nearest_even_f32(v * without_l2 / without_lx));
                let lx = without_lx + w * v * new;
                let l2 = without_l2 + w * new * new;
                let better =
                    without_lx > 0.0 && new != l && l2 > 0.0 && lx * lx * sum_l2[s] > sum_lx[s] * sum_lx[s] * l2;
                codes[s] = if better { new } else { l };
                sum_lx[s] = if better { lx } else { sum_lx[s] };
                sum_l2[s] = if better { l2 } else { sum_l2[s] };
            }
        }
    }
    let zero = amax.map(|a| a < TINY);
    let mut scale = [0.0; N];
    for s in 0..N {
        scale[s] = if sum_l2[s] > 0.0 && !zero[s] { sum_lx[s] / sum_l2[s] } else { 0.0 };
    }
    CoordinateFit { scale, codes, zero, top }
}
