//! Signal to noise of a block as a function of its crest factor κ = max |x| / rms, for Gaussian values.
//!
//! The scale that is stored is ρ times the ideal one: 1.5 on average for powers of two, 1.05 for E4M3. With t in units of
//! the rms, φ and Φ the normal density and distribution:
//!
//! | | noise over signal |
//! |---|---|
//! | integers of Q positive steps | (ρκ)² / (12 Q²) |
//! | floats | a w + β (ρκ)² p + z |
//!
//! a = 1 / (24 · 2^2M); β = 2^(2(1 - B - M)) / (12 Qmax²); values below t0 = (ρκ / Qmax) 2^(-B-M) become zero and
//! lose z = 2Φ(t0) - 1 - 2 t0 φ(t0); those below t1 = (ρκ / Qmax) 2^(1-B) are subnormal, a share p = 2(Φ(t1) - Φ(t0));
//! the rest has energy w = 2(t1 φ(t1) + 1 - Φ(t1)). Scales in E4M3 map the largest value of the block of k exactly:
//! integers lose 1 - 1/k of their noise, floats κ²/k of w.

use memwall_kernels::Real;

/// Mean ratio of a power of two to the ideal scale below it.
const POWER: f64 = 1.5;
/// As above, of a scale in E4M3.
const E4M3_SCALE: f64 = 1.05;
/// Values of a block with such a scale.
const NV_BLOCK: f64 = 16.0;

/// A format of the study.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Theory {
    /// MXINT of so many bits, whose formula counts 2^(b-1) positive steps.
    MxIntPaper(u32),
    /// MXINT of so many bits, with the 2^(b-1) - 1 positive steps that a symmetric code has.
    MxIntExact(u32),
    /// MXFP: mantissa bits, bias, largest value.
    MxFp(i32, i32, f64),
    /// NVINT4.
    NvInt4,
    /// NVFP4.
    NvFp4,
}

pub(super) const MXFP8: Theory = Theory::MxFp(3, 7, 448.0);
pub(super) const MXFP6: Theory = Theory::MxFp(3, 1, 7.5);
pub(super) const MXFP4: Theory = Theory::MxFp(1, 1, 6.0);

fn density(t: f64) -> f64 {
    (-0.5 * t * t).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn distribution(t: f64) -> f64 {
    0.5 * (1.0 + Real::erf(t * std::f64::consts::FRAC_1_SQRT_2))
}

/// Noise over signal of floats; `top` of the signal is exact.
fn float_noise(mantissa: i32, bias: i32, largest: f64, reach: f64, top: f64) -> f64 {
    let a = 1.0 / (24.0 * 4f64.powi(mantissa));
    let beta = 4f64.powi(1 - bias - mantissa) / (12.0 * largest * largest);
    let (t0, t1) = (reach / largest * 2f64.powi(-bias - mantissa), reach / largest * 2f64.powi(1 - bias));
    let subnormal = 2.0 * (distribution(t1) - distribution(t0));
    let zero = 2.0 * distribution(t0) - 1.0 - 2.0 * t0 * density(t0);
    let normal = 2.0 * (t1 * density(t1) + 1.0 - distribution(t1));
    a * (normal - top).max(0.0) + beta * reach * reach * subnormal + zero
}

impl Theory {
    /// Signal to quantization noise in dB at crest factor `kappa`.
    pub(super) fn qsnr(self, kappa: f64) -> f64 {
        let decibel = |noise: f64| -10.0 * noise.log10();
        match self {
            // The constants as they are published, to two digits.
            Theory::MxIntPaper(bits) => 10.8 + 6.02 * f64::from(bits - 1) - 20.0 * (POWER * kappa).log10(),
            Theory::MxIntExact(bits) => {
                let steps = 2f64.powi(bits as i32 - 1) - 1.0;
                decibel((POWER * kappa / steps).powi(2) / 12.0)
            }
            Theory::MxFp(mantissa, bias, largest) => decibel(float_noise(mantissa, bias, largest, POWER * kappa, 0.0)),
            Theory::NvInt4 => {
                let reach = E4M3_SCALE * kappa;
                decibel(reach * reach / (12.0 * 64.0) * (1.0 - 1.0 / NV_BLOCK))
            }
            Theory::NvFp4 => decibel(float_noise(1, 1, 6.0, E4M3_SCALE * kappa, kappa * kappa / NV_BLOCK)),
        }
    }
}

/// The crest factor in 1..20 at which `falling` goes below `other`, by bisection.
pub(super) fn crossing(falling: Theory, other: Theory) -> f64 {
    let (mut low, mut high) = (1.0, 20.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if falling.qsnr(middle) > other.qsnr(middle) { low = middle } else { high = middle }
    }
    low
}

/// Integers, floats, the crest factor at which they cross, and the ratio there.
const CROSSINGS: [(Theory, Theory, f64, f64); 4] = [
    (Theory::MxIntPaper(8), MXFP8, 7.548, 31.86),
    (Theory::MxIntPaper(6), MXFP6, 1.960, 31.53),
    (Theory::MxIntPaper(4), MXFP4, 2.042, 19.14),
    (Theory::NvInt4, Theory::NvFp4, 2.391, 21.14),
];

/// Crest factor, and dB of the four pairs of [`CROSSINGS`] there.
const TABLE: [(f64, [[f64; 2]; 4]); 3] = [
    (2.0, [[43.40, 31.86], [31.36, 31.52], [19.32, 19.18], [22.69, 20.76]]),
    (3.0, [[39.88, 31.86], [27.84, 30.81], [15.80, 18.01], [19.17, 21.88]]),
    (6.0, [[33.86, 31.86], [21.82, 27.22], [9.78, 13.39], [13.15, 17.91]]),
];

/// Distances in dB from every entry of the published table, and from the ratios at the crossings.
pub(super) fn table_distances() -> Vec<f64> {
    let entries = TABLE.iter().flat_map(|(kappa, rows)| {
        let pairs = rows.iter().zip(&CROSSINGS);
        pairs.flat_map(move |([int, fp], (of_int, of_fp, ..))| {
            [(of_int.qsnr(*kappa) - int).abs(), (of_fp.qsnr(*kappa) - fp).abs()]
        })
    });
    let at_crossings = CROSSINGS.iter().map(|(_, fp, kappa, db)| (fp.qsnr(*kappa) - db).abs());
    entries.chain(at_crossings).collect()
}

/// Distances of the crest factors at which integers and floats cross.
pub(super) fn crossing_distances() -> Vec<f64> {
    CROSSINGS.iter().map(|(int, fp, kappa, _)| (crossing(*int, *fp) - kappa).abs()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_table_and_crossings_come_out() {
        for (i, d) in table_distances().iter().enumerate() {
            assert!(*d <= 0.01, "entry {i}: {d} dB");
        }
        for (i, d) in crossing_distances().iter().enumerate() {
            assert!(*d <= 0.005, "crossing {i}: {d}");
        }
    }

    #[test]
    fn one_step_less_costs_more_the_fewer_there_are() {
        let cost = |bits| Theory::MxIntPaper(bits).qsnr(2.0) - Theory::MxIntExact(bits).qsnr(2.0);
        assert!((cost(4) - 1.16).abs() < 0.02 && cost(8).abs() < 0.08, "{} {}", cost(4), cost(8));
        // With seven steps the two formats of four bits meet below the crest factors of nearly all blocks.
        assert!((crossing(Theory::MxIntExact(4), MXFP4) - 1.735).abs() < 0.01);
    }
}
