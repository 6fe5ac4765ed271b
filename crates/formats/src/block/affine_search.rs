//! The scale and minimum of a sub-block, by weighted least squares over trial grids.
//!
//! A sub-block x with weights w is stored as `scale · l + min` with integers `0 ≤ l ≤ max_code` and `min ≤ 0`. The first
//! fit is the plain grid from min to max. Then each trial inverse scale `(first + step·k + max_code) / (max - min)` gives
//! codes l; with these fixed the best (scale, min) solve
//!
//! ```text
//! | Σ w l²   Σ w l | |scale|   | Σ w l x |
//! | Σ w l    Σ w   | | min | = | Σ w x   |
//! ```
//!
//! and are kept if the weighted error is strictly less. A kept minimum is the one that later trials start from.
//!
//! All sub-blocks of a block are searched at once, one a lane: `x[i][s]` is value `i` of sub-block `s`. Each lane adds
//! its terms in the order of `i`, so the result does not depend on the width of the vectors.

use super::rounding::{nearest_even, nearest_even_f32};

/// Which trial grids are searched, and by which error.
#[derive(Clone, Copy)]
pub struct AffineSearch {
    /// The largest code.
    pub max_code: i32,
    /// Offset of the first trial from `max_code` steps.
    pub first: f32,
    /// Distance of trials.
    pub step: f32,
    /// Trials after the first.
    pub steps: i32,
    /// Error measured as |difference| rather than its square.
    pub absolute: bool,
}

/// The fit of every sub-block: value = `scale · l - offset`.
pub struct AffineFit<const N: usize> {
    /// Scales, not negative.
    pub scale: [f32; N],
    /// Minima with their sign changed, not negative.
    pub offset: [f32; N],
    inverse: [f32; N],
    base: [f32; N],
    max_code: i32,
}

impl<const N: usize> AffineFit<N> {
    /// The code that the kept trial gave to value `x` of sub-block `s`.
    pub fn code(&self, s: usize, x: f32) -> u8 {
        nearest_even(self.inverse[s] * (x - self.base[s])).clamp(0, self.max_code) as u8
    }
}

impl AffineSearch {
    /// Fits `N` sub-blocks of `M` values.
    #[inline(always)]
    pub fn fit<const N: usize, const M: usize>(&self, x: &[[f32; N]; M], w: &[[f32; N]; M]) -> AffineFit<N> {
        let (mut min, mut max) = (x[0], x[0]);
        let mut sum_w = w[0];
        let mut sum_x = [0.0; N];
        for s in 0..N {
            sum_x[s] = w[0][s] * x[0][s];
        }
        for i in 1..M {
            for s in 0..N {
                let (v, weight) = (x[i][s], w[i][s]);
                min[s] = if v < min[s] { v } else { min[s] };
                max[s] = if v > max[s] { v } else { max[s] };
                sum_w[s] += weight;
                sum_x[s] += weight * v;
            }
        }
        let top = self.max_code as f32;
        let (mut inverse, mut scale) = ([0.0; N], [0.0; N]);
        for s in 0..N {
            min[s] = if min[s] > 0.0 { 0.0 } else { min[s] };
            inverse[s] = top / (max[s] - min[s]);
            scale[s] = 1.0 / inverse[s];
        }
        let (flat_min, mut base) = (min, min);
        let mut best = [0.0; N];
        for i in 0..M {
            for s in 0..N {
                let l = clamp(nearest_even_f32(inverse[s] * (x[i][s] - min[s])), top);
                best[s] += w[i][s] * self.distance(scale[s] * l + min[s] - x[i][s]);
            }
        }
        let mut codes = [[0.0f32; N]; M];
        for trial in 0..=self.steps {
            let mut trial_inverse = [0.0; N];
            for s in 0..N {
                trial_inverse[s] = (self.first + self.step * trial as f32 + top) / (max[s] - min[s]);
            }
            let (mut sum_l, mut sum_l2, mut sum_xl) = ([0.0; N], [0.0; N], [0.0; N]);
            for i in 0..M {
                for s in 0..N {
                    let l = clamp(nearest_even_f32(trial_inverse[s] * (x[i][s] - min[s])), top);
                    codes[i][s] = l;
                    let wl = w[i][s] * l;
                    sum_l[s] += wl;
                    sum_l2[s] += wl * l;
                    sum_xl[s] += wl * x[i][s];
                }
            }
            let (mut trial_scale, mut trial_min, mut solvable) = ([0.0; N], [0.0; N], [false; N]);
            for s in 0..N {
                let determinant = sum_w[s] * sum_l2[s] - sum_l[s] * sum_l[s];
                solvable[s] = determinant > 0.0;
                let m = (sum_l2[s] * sum_x[s] - sum_l[s] * sum_xl[s]) / determinant;
                let a = (sum_w[s] * sum_xl[s] - sum_x[s] * sum_l[s]) / determinant;
                trial_min[s] = if m > 0.0 { 0.0 } else { m };
                trial_scale[s] = if m > 0.0 { sum_xl[s] / sum_l2[s] } else { a };
            }
            let mut error = [0.0; N];
            for i in 0..M {
                for s in 0..N {
                    error[s] += w[i][s] * self.distance(trial_scale[s] * codes[i][s] + trial_min[s] - x[i][s]);
                }
            }
            for s in 0..N {
                if solvable[s] && error[s] < best[s] {
                    best[s] = error[s];
                    inverse[s] = trial_inverse[s];
                    base[s] = min[s];
                    scale[s] = trial_scale[s];
                    min[s] = trial_min[s];
                }
            }
        }
        for s in 0..N {
            if max[s] == flat_min[s] {
                // Nothing to fit: a constant at or below zero (a constant above zero has max > min = 0).
                (scale[s], inverse[s], min[s]) = (0.0, 0.0, flat_min[s]);
            }
        }
        AffineFit { scale, offset: min.map(|m| -m), inverse, base, max_code: self.max_code }
    }

    #[inline(always)]
    fn distance(&self, difference: f32) -> f32 {
        if self.absolute { difference.abs() } else { difference * difference }
    }
}

#[inline(always)]
fn clamp(l: f32, top: f32) -> f32 {
    let l = if l > 0.0 { l } else { 0.0 };
    if l < top { l } else { top }
}
