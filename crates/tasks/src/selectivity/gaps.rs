//! What stands between the symbols of a string.

use crate::check::Check;
use crate::philox::Philox;
use crate::task::ConfigError;
use serde::{Deserialize, Serialize};

/// What a gap is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filler {
    /// The blank.
    Blank,
    /// Symbols that cannot follow the state before the gap.
    Ungrammatical,
}

/// Gaps behind symbols.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gaps {
    /// The fewest steps of a gap.
    pub low: usize,
    /// The most steps. A length is drawn uniformly between both and rounded, so these two come half as often as others.
    pub high: usize,
    /// What it is made of.
    pub filler: Filler,
    /// The probability of a gap behind a symbol.
    #[serde(default = "always")]
    pub probability: f64,
    /// Symbols of a sequence that have no gap, from the first.
    #[serde(default)]
    pub start: usize,
}

fn always() -> f64 {
    1.0
}

impl Gaps {
    /// Blanks behind every symbol, `low` to `high` of them.
    pub fn blanks(low: usize, high: usize) -> Gaps {
        Gaps { low, high, filler: Filler::Blank, probability: 1.0, start: 0 }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let check = Check("selectivity");
        check
            .that(self.low <= self.high, "gaps.low", self.low, || format!("it must not exceed high ({})", self.high))?;
        check.that(self.high <= 1 << 16, "gaps.high", self.high, || format!("at most {}", 1 << 16))?;
        let p = self.probability;
        check.that((0.0..=1.0).contains(&p), "gaps.probability", p, || "it must be from 0 to 1".into())
    }

    /// The steps behind element `index`.
    pub(super) fn steps(&self, index: usize, rng: &mut Philox) -> usize {
        if index < self.start || rng.unit() > self.probability {
            return 0;
        }
        // Numbers of (0, 1]: the middle between two steps goes up.
        (self.low as f64 + rng.unit() * (self.high - self.low) as f64).round() as usize
    }

    /// The probability of each number of steps behind an element, from 0.
    pub(super) fn distribution(&self, index: usize) -> Vec<f64> {
        let mut p = vec![0.0; self.high + 1];
        if index < self.start {
            p[0] = 1.0;
            return p;
        }
        p[0] = 1.0 - self.probability;
        let width = (self.high - self.low) as f64;
        for (n, p) in p.iter_mut().enumerate().skip(self.low) {
            *p += self.probability
                * match n == self.low || n == self.high {
                    _ if self.low == self.high => 1.0,
                    true => 0.5 / width,
                    false => 1.0 / width,
                };
        }
        p
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_come_as_often_as_said() {
        const DRAWS: usize = 40_000;
        for gaps in [
            Gaps::blanks(1, 10),
            Gaps::blanks(3, 3),
            Gaps { probability: 0.1, start: 2, ..Gaps::blanks(1, 1) },
            Gaps { probability: 0.5, ..Gaps::blanks(0, 2) },
        ] {
            gaps.check().unwrap();
            for index in [0, 5] {
                let expected = gaps.distribution(index);
                assert!((expected.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                let mut rng = Philox::new(7, index as u64);
                let mut counts = vec![0.0; expected.len()];
                for _ in 0..DRAWS {
                    counts[gaps.steps(index, &mut rng)] += 1.0;
                }
                for (found, p) in counts.iter().zip(&expected) {
                    let sigma = f64::sqrt(p * (1.0 - p) / DRAWS as f64);
                    let found = found / DRAWS as f64;
                    assert!((found - p).abs() <= 4.0 * sigma, "{gaps:?} {index}: {found} instead of {p}");
                }
            }
        }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        let error = |g: Gaps| g.check().unwrap_err().to_string();
        assert!(error(Gaps::blanks(3, 2)).contains("gaps.low = 3"));
        assert!(error(Gaps { probability: 1.5, ..Gaps::blanks(1, 2) }).contains("gaps.probability = 1.5"));
        assert!(error(Gaps::blanks(1, 1 << 20)).contains("gaps.high"));
    }
}
