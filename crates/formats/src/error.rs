//! How far stored values are from the originals: the figures that `quantize` prints for each tensor.

/// Sums over pairs of original and stored value. Made piece by piece: pieces merged in one order give one result.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorStatistics {
    values: u64,
    signal: f64,
    noise: f64,
    largest_value: f32,
    largest_error: f32,
}

impl ErrorStatistics {
    /// Of `original` and what it is stored as, value by value.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn of(original: &[f32], stored: &[f32]) -> Self {
        assert_eq!(original.len(), stored.len(), "originals and stored values come in pairs");
        // Eight sums at once: the order is fixed, and the loop vectorizes.
        let (mut signal, mut noise) = ([0f64; 8], [0f64; 8]);
        let (mut largest_value, mut largest_error) = ([0f32; 8], [0f32; 8]);
        for (x, y) in original.chunks(8).zip(stored.chunks(8)) {
            for (i, (x, y)) in x.iter().zip(y).enumerate() {
                let difference = f64::from(*x) - f64::from(*y);
                signal[i] += f64::from(*x) * f64::from(*x);
                noise[i] += difference * difference;
                largest_value[i] = largest_value[i].max(x.abs());
                largest_error[i] = largest_error[i].max(difference.abs() as f32);
            }
        }
        ErrorStatistics {
            values: original.len() as u64,
            signal: signal.iter().sum(),
            noise: noise.iter().sum(),
            largest_value: largest_value.into_iter().fold(0.0, f32::max),
            largest_error: largest_error.into_iter().fold(0.0, f32::max),
        }
    }

    /// Of both.
    pub fn merge(self, other: Self) -> Self {
        ErrorStatistics {
            values: self.values + other.values,
            signal: self.signal + other.signal,
            noise: self.noise + other.noise,
            largest_value: self.largest_value.max(other.largest_value),
            largest_error: self.largest_error.max(other.largest_error),
        }
    }

    /// Pairs counted.
    pub fn values(&self) -> u64 {
        self.values
    }

    /// Signal to quantization noise, `10 log10(Σx² / Σ(x - y)²)` in decibels; infinite without noise, NaN without values.
    pub fn sqnr_db(&self) -> f64 {
        match (self.values, self.noise) {
            (0, _) => f64::NAN,
            (_, 0.0) => f64::INFINITY,
            _ => 10.0 * (self.signal / self.noise).log10(),
        }
    }

    /// `sqrt(Σ(x - y)² / Σx²)`; 0 without noise.
    pub fn relative_rmse(&self) -> f64 {
        if self.noise == 0.0 { 0.0 } else { (self.noise / self.signal).sqrt() }
    }

    /// Largest |x| over the root mean square of x: 1 for a constant magnitude, about 4 for many normal values, more with
    /// outliers. NaN if all are zero.
    pub fn crest_factor(&self) -> f64 {
        f64::from(self.largest_value) / (self.signal / self.values as f64).sqrt()
    }

    /// Largest |x - y|.
    pub fn max_abs(&self) -> f32 {
        self.largest_error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_equal_those_worked_by_hand() {
        // Σx² = 25, Σ(x - y)² = 0.25, rms of x = 5/√2.
        let s = ErrorStatistics::of(&[3.0, -4.0], &[3.0, -3.5]);
        assert_eq!((s.values(), s.max_abs()), (2, 0.5));
        assert!((s.sqnr_db() - 20.0).abs() < 1e-12);
        assert!((s.relative_rmse() - 0.1).abs() < 1e-12);
        assert!((s.crest_factor() - 4.0 / (5.0 / 2f64.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn pieces_merged_equal_the_whole() {
        let x: Vec<f32> = (0..1000).map(|i| ((i * 37 % 101) as f32 - 50.0) / 8.0).collect();
        let y: Vec<f32> = x.iter().map(|v| v.round()).collect();
        let whole = ErrorStatistics::of(&x, &y);
        let merged = x
            .chunks(96)
            .zip(y.chunks(96))
            .map(|(x, y)| ErrorStatistics::of(x, y))
            .fold(ErrorStatistics::default(), ErrorStatistics::merge);
        // Multiples of 1/64 below 2^14: every sum is exact, whatever its order.
        assert_eq!(whole, merged);
        assert_eq!(ErrorStatistics::of(&x, &x).sqnr_db(), f64::INFINITY);
        assert_eq!(ErrorStatistics::of(&x, &x).relative_rmse(), 0.0);
        assert!(ErrorStatistics::default().sqnr_db().is_nan());
    }

    #[test]
    fn zeros_stored_as_something_have_no_signal() {
        let s = ErrorStatistics::of(&[0.0, 0.0], &[0.0, 0.5]);
        assert_eq!(s.sqnr_db(), f64::NEG_INFINITY);
        assert_eq!(s.relative_rmse(), f64::INFINITY);
    }
}
