//! Rotary position settings as checkpoints give them, and the frequencies that they stand for.

use std::f64::consts::PI;

use memwall_kernels::rope::Pairing;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;

/// Rotary positions of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RopeConfig {
    /// Base θ of the frequencies.
    #[serde(default = "default_theta")]
    pub theta: f64,
    /// Channels of a head that are turned; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary_dim: Option<usize>,
    /// Channels 2i and 2i + 1 are a pair, rather than i and i + rotary_dim / 2.
    #[serde(default)]
    pub interleaved: bool,
    /// How positions beyond the trained context are reached.
    #[serde(default)]
    pub scaling: RopeScaling,
    /// The checkpoint has a tensor that divides each frequency (`rope_freqs.weight`).
    #[serde(default)]
    pub frequency_factors: bool,
}

fn default_theta() -> f64 {
    10_000.0
}

/// How frequencies are changed to reach longer contexts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// They are not.
    #[default]
    None,
    /// All divided by `factor`.
    Linear {
        /// How many times longer.
        factor: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, between by a ramp (Llama 3.1).
    Llama3 {
        /// How many times longer.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context that the model was trained on.
        original: usize,
    },
    /// YaRN (2023): interpolation by parts, and an attention factor.
    Yarn {
        /// How many times longer.
        factor: f64,
        /// The context that the model was trained on.
        original: usize,
        /// Turns above which a pair keeps its frequency.
        beta_fast: f64,
        /// Turns below which it is divided.
        beta_slow: f64,
        /// Factor of cosines and sines; 0.1 ln(factor) + 1 if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
    },
}

impl RopeScaling {
    fn check(&self, key: &str) -> Result<(), ConfigError> {
        let wrong = |name: &str, problem: String| Err(ConfigError::at(format!("{key}.{name}"), problem));
        let (factor, original, low, high) = match *self {
            RopeScaling::None => return Ok(()),
            RopeScaling::Linear { factor } => (factor, 1, None, None),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => (
                factor,
                original,
                Some(("low_freq_factor", low_freq_factor)),
                Some(("high_freq_factor", high_freq_factor)),
            ),
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, .. } => {
                (factor, original, Some(("beta_slow", beta_slow)), Some(("beta_fast", beta_fast)))
            }
        };
        if !(factor > 0.0 && factor.is_finite()) {
            return wrong("factor", format!("is {factor}, a number above 0 is needed"));
        }
        if original == 0 {
            return wrong("original", "is 0, the context of the training is needed".into());
        }
        let (Some((low_name, low)), Some((high_name, high))) = (low, high) else { return Ok(()) };
        if !(low > 0.0 && low < high && high.is_finite()) {
            return wrong(low_name, format!("is {low}, a number above 0 and below {high_name} {high} is needed"));
        }
        Ok(())
    }
}

impl Default for RopeConfig {
    fn default() -> RopeConfig {
        RopeConfig {
            theta: 10_000.0,
            rotary_dim: None,
            interleaved: false,
            scaling: RopeScaling::None,
            frequency_factors: false,
        }
    }
}

impl RopeConfig {
    /// Checks the settings for heads of `head_dim`.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str, head_dim: usize) -> Result<(), ConfigError> {
        let rotary = self.rotary_dim.unwrap_or(head_dim);
        if rotary == 0 || rotary > head_dim || !rotary.is_multiple_of(2) {
            let problem = format!("is {rotary}, an even number up to head_dim {head_dim} is needed");
            return Err(ConfigError::at(format!("{key}.rotary_dim"), problem));
        }
        if !(self.theta > 0.0 && self.theta.is_finite()) {
            return Err(ConfigError::at(
                format!("{key}.theta"),
                format!("is {}, a number above 0 is needed", self.theta),
            ));
        }
        self.scaling.check(&format!("{key}.scaling"))
    }

    /// Which channels make a pair.
    pub fn pairing(&self) -> Pairing {
        if self.interleaved { Pairing::Interleaved } else { Pairing::HalfSplit }
    }

    /// Radians a position, for each pair of a head of `head_dim`.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        let rotary = self.rotary_dim.unwrap_or(head_dim);
        let plain = (0..rotary / 2).map(|i| self.theta.powf(-2.0 * i as f64 / rotary as f64));
        match self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => plain
                .map(|f| {
                    let turns = original as f64 * f / (2.0 * PI);
                    let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                    keep * f + (1.0 - keep) * f / factor
                })
                .collect(),
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, .. } => {
                // The pair that makes `turns` turns over the original context.
                let pair =
                    |turns: f64| rotary as f64 * (original as f64 / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let low = pair(beta_fast).floor().max(0.0);
                let high = pair(beta_slow).ceil().min(rotary as f64 - 1.0);
                let span = if high > low { high - low } else { 0.001 };
                plain
                    .enumerate()
                    .map(|(i, f)| {
                        let divide = ((i as f64 - low) / span).clamp(0.0, 1.0);
                        f * (1.0 - divide) + f / factor * divide
                    })
                    .collect()
            }
        }
    }

    /// Factor of cosines and sines.
    pub fn magnitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { factor, attention_factor, .. } => {
                attention_factor.unwrap_or_else(|| yarn_magnitude(factor))
            }
            _ => 1.0,
        }
    }
}

/// YaRN's factor of cosines and sines for contexts that are `factor` times longer.
pub(crate) fn yarn_magnitude(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192 };
        let rope = RopeConfig { theta: 500_000.0, scaling, ..Default::default() };
        let plain = RopeConfig { theta: 500_000.0, ..Default::default() };
        let (a, b) = (rope.inverse_frequencies(128), plain.inverse_frequencies(128));
        assert_eq!(a[0], b[0]);
        assert!((a[63] - b[63] / 8.0).abs() < 1e-18);
        assert!(a.windows(2).all(|w| w[0] > w[1]));
    }

    #[test]
    fn wrong_settings_name_their_key() {
        let rope = RopeConfig { rotary_dim: Some(7), ..Default::default() };
        assert_eq!(rope.check("a.rope", 8).expect_err("odd").key, "a.rope.rotary_dim");
    }
}
