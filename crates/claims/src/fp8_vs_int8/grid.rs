//! The values that a format of eight bits has under a range, the error that they leave, and the range of least error.

use memwall_formats::element::{Element, Float};
use memwall_formats::scaled;
use memwall_formats::{Format, FormatError};

use crate::Error;

/// A format of eight bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Eight {
    /// Integers -127 to 127 in steps of a 127th of the range; the one more negative level that there is biases (claim 31).
    Int8,
    /// All codes finite, so many bits of mantissa.
    Paper(u32),
}

/// In the order of the published table.
pub(super) const ALL: [(Eight, &str); 5] = [
    (Eight::Int8, "INT8"),
    (Eight::Paper(5), "E2M5"),
    (Eight::Paper(4), "E3M4"),
    (Eight::Paper(3), "E4M3"),
    (Eight::Paper(2), "E5M2"),
];
pub(super) const E4M3: usize = 3;

/// Candidate ranges, as shares of the largest magnitude.
const CANDIDATES: usize = 111;

impl Eight {
    /// All values under a range of ±`range`, ascending.
    pub(super) fn values(self, range: f64) -> Vec<f64> {
        let mut values: Vec<f64> = match self {
            Eight::Int8 => (-127..=127).map(|q| f64::from(q) * range / 127.0).collect(),
            Eight::Paper(mantissa) => {
                let float = Float::paper(7 - mantissa, mantissa);
                let scale = range / f64::from(float.max());
                (0..=255).map(|code| f64::from(float.decode(code)) * scale).collect()
            }
        };
        values.sort_by(f64::total_cmp);
        // The two zeros are one value.
        values.dedup_by(|a, b| a == b);
        values
    }

    /// The encoder under a range of ±`range`.
    ///
    /// # Errors
    /// A range that is not positive and finite.
    pub(super) fn format(self, range: f32) -> Result<Box<dyn Format>, Error> {
        Ok(match self {
            Eight::Int8 => Box::new(scaled::int_by_tensor(8, 1, range).map_err(Error::experiment)?),
            Eight::Paper(mantissa) => {
                Box::new(scaled::paper_fp8_by_tensor(mantissa, 1, range).map_err(Error::experiment)?)
            }
        })
    }

    /// What comes back of values that are clipped to ±`range` first, as the published quantizer does.
    ///
    /// # Errors
    /// A range that is not positive and finite, values that are not finite.
    pub(super) fn back(self, range: f32, x: &[f32]) -> Result<Vec<f32>, Error> {
        let format = self.format(range)?;
        let clipped: Vec<f32> = x.iter().map(|x| if x.is_nan() { *x } else { x.clamp(-range, range) }).collect();
        store(&*format, &clipped).map_err(Error::experiment)
    }
}

fn store(format: &dyn Format, x: &[f32]) -> Result<Vec<f32>, FormatError> {
    let mut bytes = vec![0; x.len() * format.layout().block_bytes];
    format.encode(x.len().max(1), x, &mut bytes)?;
    let mut y = vec![0.0; x.len()];
    format.decode(x.len().max(1), &bytes, &mut y)?;
    Ok(y)
}

/// `∫ (x - q(x))² f` over all x, where `moments` gives the partial moments of f: each value takes what is nearer to it
/// than to any other, the outer ones all that is beyond them.
pub(super) fn expected_error(values: &[f64], moments: impl Fn(f64) -> [f64; 3]) -> f64 {
    let mut low = moments(f64::NEG_INFINITY);
    let mut sum = 0.0;
    for (i, g) in values.iter().enumerate() {
        let edge = values.get(i + 1).map_or(f64::INFINITY, |next| 0.5 * (g + next));
        let high = moments(edge);
        let [m0, m1, m2] = [0, 1, 2].map(|k| high[k] - low[k]);
        sum += m2 - 2.0 * g * m1 + g * g * m0;
        low = high;
    }
    sum
}

/// `E[q(x)²]` and `E[x q(x)]`.
pub(super) fn expected_products(values: &[f64], moments: impl Fn(f64) -> [f64; 3]) -> (f64, f64) {
    let mut low = moments(f64::NEG_INFINITY);
    let (mut square, mut cross) = (0.0, 0.0);
    for (i, g) in values.iter().enumerate() {
        let high = moments(values.get(i + 1).map_or(f64::INFINITY, |next| 0.5 * (g + next)));
        square += g * g * (high[0] - low[0]);
        cross += g * (high[1] - low[1]);
        low = high;
    }
    (square, cross)
}

/// Partial moments of a sample.
pub(super) struct Sample {
    sorted: Vec<f64>,
    /// Sums of the first i values, and of their squares.
    sums: Vec<[f64; 2]>,
}

impl Sample {
    /// Of at least one value, all finite.
    ///
    /// # Errors
    /// No value, or one that is not finite.
    pub(super) fn new(x: &[f32]) -> Result<Sample, Error> {
        if x.is_empty() {
            return Err(Error::experiment("a range cannot be set: the tensor is empty"));
        }
        if let Some(i) = x.iter().position(|x| !x.is_finite()) {
            return Err(Error::experiment(format!("a range cannot be set: value {i} is {}", x[i])));
        }
        let mut sorted: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        sorted.sort_by(f64::total_cmp);
        let mut sums = vec![[0.0; 2]];
        let mut sum = [0.0; 2];
        for x in &sorted {
            sum = [sum[0] + x, sum[1] + x * x];
            sums.push(sum);
        }
        Ok(Sample { sorted, sums })
    }

    fn moments(&self, x: f64) -> [f64; 3] {
        let n = self.sorted.len() as f64;
        let below = self.sorted.partition_point(|value| *value <= x);
        [below as f64 / n, self.sums[below][0] / n, self.sums[below][1] / n]
    }

    /// The largest magnitude.
    pub(super) fn largest(&self) -> f64 {
        self.sorted[0].abs().max(self.sorted[self.sorted.len() - 1].abs())
    }

    /// The range of least mean square error among 111 from 0.1 to 1.2 of the largest magnitude.
    pub(super) fn best_range(&self, format: Eight) -> f64 {
        let candidate = |i: usize| self.largest() * (0.1 + 1.1 * i as f64 / (CANDIDATES - 1) as f64);
        let error = |range: f64| expected_error(&format.values(range), |x| self.moments(x));
        let errors = (0..CANDIDATES).map(|i| (error(candidate(i)), candidate(i)));
        errors.min_by(|a, b| a.0.total_cmp(&b.0)).map_or(self.largest(), |(_, range)| range)
    }
}

/// `10 log10(Σ x² / Σ (x - y)²)`.
pub(super) fn decibel(x: &[f32], y: &[f32]) -> f64 {
    memwall_formats::error::ErrorStatistics::of(x, y).sqnr_db()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_sample_by_its_moments_is_that_of_its_encoder() {
        let x: Vec<f32> = (0..5000).map(|i| ((i * 7919 % 5000) as f32 / 700.0 - 3.6).powi(3)).collect();
        let sample = Sample::new(&x).unwrap();
        for (format, name) in ALL {
            let range = sample.best_range(format) as f32;
            let y = format.back(range, &x).unwrap();
            let direct = x.iter().zip(&y).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>() / x.len() as f64;
            let by_moments = expected_error(&format.values(f64::from(range)), |x| sample.moments(x));
            assert!((direct / by_moments - 1.0).abs() < 1e-3, "{name}: {direct} and {by_moments}");
        }
    }

    #[test]
    fn nothing_and_what_is_no_number_have_no_range() {
        for x in [&[][..], &[1.0, f32::NAN], &[f32::INFINITY]] {
            assert!(Sample::new(x).is_err());
        }
    }
}
