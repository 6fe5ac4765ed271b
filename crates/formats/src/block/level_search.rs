//! The scale of a sub-block whose levels are a table, by weighted least squares over trial grids.
//!
//! A sub-block x is stored as `d · level`; the weight of a value is its square. Trials are the inverse scales
//! `-levels[0] / max` and `(k + levels[0]) / max`, k = -7..=7, `max` being the value of largest magnitude; each gives the
//! nearest levels q, whose best scale is `Σ w q x / Σ w q²`. A trial is kept if `(Σ w q x)² / Σ w q²` is strictly greater.
//!
//! Sub-blocks lie in lanes as in the affine search, with the same property.

use super::iq4_nl::IQ4_LEVELS;
use super::symmetric_search::TINY;

/// The scales of `N` sub-blocks of `M` values; 0 for a sub-block without a magnitude above [`TINY`].
#[inline(always)]
pub fn fit<const N: usize, const M: usize>(x: &[[f32; N]; M]) -> [f32; N] {
    let (mut amax, mut max) = ([0.0f32; N], [0.0f32; N]);
    for row in x {
        for s in 0..N {
            let larger = row[s].abs() > amax[s];
            amax[s] = if larger { row[s].abs() } else { amax[s] };
            max[s] = if larger { row[s] } else { max[s] };
        }
    }
    let first = f32::from(IQ4_LEVELS[0]);
    let mut scale = [0.0; N];
    let mut best = [0.0; N];
    for trial in -8..=7 {
        let mut inverse = [0.0; N];
        for s in 0..N {
            inverse[s] = if trial == -8 { 1.0 / (-max[s] / first) } else { (trial as f32 + first) / max[s] };
        }
        let (mut sum_qx, mut sum_q2) = ([0.0; N], [0.0; N]);
        for row in x {
            for s in 0..N {
                let q = level(inverse[s] * row[s]);
                let w = row[s] * row[s];
                sum_qx[s] += w * q * row[s];
                sum_q2[s] += w * q * q;
            }
        }
        for s in 0..N {
            let kept = trial == -8 || sum_qx[s] * sum_qx[s] > best[s] * sum_q2[s];
            if sum_q2[s] > 0.0 && kept {
                scale[s] = sum_qx[s] / sum_q2[s];
                best[s] = scale[s] * sum_qx[s];
            }
        }
    }
    for s in 0..N {
        scale[s] = if amax[s] < TINY { 0.0 } else { scale[s] };
    }
    scale
}

/// The code of the level nearest to `v`, the upper one of two.
#[inline(always)]
pub fn nearest_code(v: f32) -> u8 {
    let mut code = 0;
    for pair in IQ4_LEVELS.windows(2) {
        code += u8::from(2.0 * v >= f32::from(pair[0]) + f32::from(pair[1]));
    }
    code
}

/// The level nearest to `v`, the upper one of two.
#[inline(always)]
fn level(v: f32) -> f32 {
    let mut level = f32::from(IQ4_LEVELS[0]);
    for pair in IQ4_LEVELS.windows(2) {
        let (below, above) = (f32::from(pair[0]), f32::from(pair[1]));
        level = if 2.0 * v >= below + above { above } else { level };
    }
    level
}
