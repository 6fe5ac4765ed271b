//! Random values of the distributions that claims measure on.

use memwall_tasks::Philox;

/// A value of the standard normal distribution (Box and Muller).
pub(crate) fn normal(rng: &mut Philox) -> f64 {
    (-2.0 * rng.unit().ln()).sqrt() * (2.0 * std::f64::consts::PI * rng.unit()).cos()
}

/// A value of the Laplace distribution of scale 1, whose variance is 2.
pub(crate) fn laplace(rng: &mut Philox) -> f64 {
    let magnitude = -rng.unit().ln();
    if rng.bits() & 1 == 0 { magnitude } else { -magnitude }
}

/// A value of Student's t distribution with `freedom` degrees of freedom.
pub(crate) fn student_t(rng: &mut Philox, freedom: u32) -> f64 {
    let z = normal(rng);
    let chi_square: f64 = (0..freedom).map(|_| normal(rng).powi(2)).sum();
    z / (chi_square / f64::from(freedom)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variances_and_tails_are_those_of_the_distributions() {
        let n = 200_000;
        let moments = |draw: &dyn Fn(&mut Philox) -> f64| {
            let mut rng = Philox::new(5, 0);
            let x: Vec<f64> = (0..n).map(|_| draw(&mut rng)).collect();
            let mean = |f: &dyn Fn(f64) -> f64| x.iter().map(|&x| f(x)).sum::<f64>() / n as f64;
            (mean(&|x| x), mean(&|x| x * x), mean(&f64::abs))
        };
        // Mean, variance, mean magnitude.
        for (name, got, want) in [
            ("normal", moments(&normal), (0.0, 1.0, (2.0 / std::f64::consts::PI).sqrt())),
            ("laplace", moments(&laplace), (0.0, 2.0, 1.0)),
            ("t of 8", moments(&|rng| student_t(rng, 8)), (0.0, 8.0 / 6.0, 0.8839)),
        ] {
            assert!((got.0 - want.0).abs() < 0.01, "{name}: mean {}", got.0);
            assert!((got.1 - want.1).abs() < 0.03, "{name}: variance {}", got.1);
            assert!((got.2 - want.2).abs() < 0.01, "{name}: mean magnitude {}", got.2);
        }
    }
}
