//! Distributions: samples, and partial moments in closed form.

use memwall_kernels::Real;
use memwall_tasks::Philox;

use crate::random::{laplace, normal, student_t};

/// A distribution of the published table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Distribution {
    /// On -1..=1.
    Uniform,
    /// Standard.
    Gaussian,
    /// Of scale 1.
    Laplace,
    /// Student's t; closed forms are those of an even number of degrees of freedom from 4 on.
    StudentT(u32),
    /// Standard normal, one value in a thousand so many times as large.
    Outliers(f64),
}

impl Distribution {
    /// Draws `n` values.
    pub(super) fn draw(self, seed: u64, n: usize) -> Vec<f32> {
        let mut rng = Philox::new(seed, 21);
        let one = |rng: &mut Philox| match self {
            Distribution::Uniform => 2.0 * rng.unit() - 1.0,
            Distribution::Gaussian => normal(rng),
            Distribution::Laplace => laplace(rng),
            Distribution::StudentT(freedom) => student_t(rng, freedom),
            Distribution::Outliers(times) => {
                let x = normal(rng);
                if rng.below(1000) == 0 { times * x } else { x }
            }
        };
        (0..n).map(|_| one(&mut rng) as f32).collect()
    }

    /// `∫ f`, `∫ t f` and `∫ t² f` from -∞ to `x`; `None` where there is no closed form here.
    pub(super) fn moments(self, x: f64) -> Option<[f64; 3]> {
        match self {
            Distribution::Uniform => {
                let x = x.clamp(-1.0, 1.0);
                Some([0.5 * (x + 1.0), 0.25 * (x * x - 1.0), (x.powi(3) + 1.0) / 6.0])
            }
            Distribution::Gaussian => {
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let below = 0.5 * (1.0 + Real::erf(x * std::f64::consts::FRAC_1_SQRT_2));
                let product = if x.is_finite() { x * density } else { 0.0 };
                Some([below, -density, below - product])
            }
            Distribution::Laplace if x.is_infinite() => Some(if x < 0.0 { [0.0; 3] } else { [1.0, 0.0, 2.0] }),
            Distribution::Laplace => {
                let e = 0.5 * (-x.abs()).exp();
                Some(match x < 0.0 {
                    true => [e, (x - 1.0) * e, (x * x - 2.0 * x + 2.0) * e],
                    false => [1.0 - e, -(x + 1.0) * e, 2.0 - (x * x + 2.0 * x + 2.0) * e],
                })
            }
            Distribution::StudentT(freedom) if freedom >= 4 && freedom.is_multiple_of(2) => {
                let n = f64::from(freedom);
                let below = below_t(freedom, x);
                let power = if x.is_finite() { (1.0 + x * x / n).powf(-0.5 * (n - 1.0)) } else { 0.0 };
                let first = -peak_t(freedom) * n / (n - 1.0) * power;
                // t² f is a multiple of the density with two degrees less, less the density itself.
                let narrower = below_t(freedom - 2, x * ((n - 2.0) / n).sqrt());
                Some([below, first, n * ((n - 1.0) / (n - 2.0) * narrower - below)])
            }
            _ => None,
        }
    }
}

/// Student's distribution function for an even number of degrees of freedom.
fn below_t(freedom: u32, x: f64) -> f64 {
    let n = f64::from(freedom);
    let angle = (x / n.sqrt()).atan();
    let (mut term, mut sum) = (1.0, 1.0);
    for j in 1..freedom / 2 {
        term *= f64::from(2 * j - 1) / f64::from(2 * j) * angle.cos().powi(2);
        sum += term;
    }
    0.5 * (1.0 + angle.sin() * sum)
}

/// Student's density at 0 for an even number of degrees of freedom.
fn peak_t(freedom: u32) -> f64 {
    let two = 1.0 / 8f64.sqrt();
    (4..=freedom).step_by(2).fold(two, |peak, n| {
        let n = f64::from(n);
        peak * (n - 1.0) / (n - 2.0) * ((n - 2.0) / n).sqrt()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_forms_are_the_moments_of_samples() {
        for d in [Distribution::Uniform, Distribution::Gaussian, Distribution::Laplace, Distribution::StudentT(8)] {
            let x = d.draw(7, 400_000);
            for at in [-1.7, -0.4, 0.0, 0.3, 2.1] {
                let below = x.iter().filter(|x| f64::from(**x) <= at).map(|x| f64::from(*x));
                let sums = below.fold([0.0; 3], |s, x| [s[0] + 1.0, s[1] + x, s[2] + x * x]);
                for (power, sum) in sums.into_iter().enumerate() {
                    let (got, want) = (d.moments(at).unwrap()[power], sum / x.len() as f64);
                    assert!((got - want).abs() < 0.01, "{d:?} below {at}, power {power}: {got}, sampled {want}");
                }
            }
        }
    }

    #[test]
    fn whole_moments_are_those_of_the_book() {
        for (d, variance) in [
            (Distribution::Uniform, 1.0 / 3.0),
            (Distribution::Gaussian, 1.0),
            (Distribution::Laplace, 2.0),
            (Distribution::StudentT(8), 8.0 / 6.0),
        ] {
            let low = d.moments(f64::NEG_INFINITY).unwrap();
            let high = d.moments(f64::INFINITY).unwrap();
            let all: Vec<f64> = high.iter().zip(low).map(|(h, l)| h - l).collect();
            assert!((all[0] - 1.0).abs() < 1e-12 && all[1].abs() < 1e-12, "{d:?}: {all:?}");
            assert!((all[2] - variance).abs() < 1e-9, "{d:?}: {all:?}");
        }
        assert_eq!(Distribution::StudentT(3).moments(0.0), None);
    }
}
