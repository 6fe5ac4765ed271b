//! The learning rate over the steps: warm-up, then cosine.

/// Linear warm-up to `peak`, then half a cosine down to `last`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// The rate of the last step.
    pub last: f64,
    /// Steps until the highest.
    pub warm_up: u64,
    /// All steps.
    pub steps: u64,
}

impl Schedule {
    /// The rate of step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warm_up {
            return self.peak * (step + 1) as f64 / self.warm_up as f64;
        }
        let span = self.steps.saturating_sub(self.warm_up).max(1) as f64;
        let done = ((step - self.warm_up) as f64 / span).min(1.0);
        self.last + (self.peak - self.last) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_its_last() {
        let s = Schedule { peak: 1.0, last: 0.1, warm_up: 10, steps: 110 };
        assert!((s.rate(0) - 0.1).abs() < 1e-12 && (s.rate(9) - 1.0).abs() < 1e-12);
        assert!((s.rate(60) - 0.55).abs() < 1e-12 && (s.rate(110) - 0.1).abs() < 1e-12);
        assert_eq!(s.rate(1000), s.rate(110));
        assert!((10..109).all(|i| s.rate(i) >= s.rate(i + 1)));
    }
}
