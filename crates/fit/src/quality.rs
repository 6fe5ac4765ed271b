//! Quality tiers: how close a choice's numbers are to those of the model as stored, by what was measured.
//!
//! The measure is the mean KL divergence, in nats a token, from the model as stored (`memwall eval --reference`), the worst
//! of the models and texts in the book's page of this crate. A format's tier is where that figure lies.

use std::fmt;

use memwall_cache::KvFormat;
use memwall_formats::{Dtype, Mix};

use crate::WeightFormat;

/// How close a choice's numbers are to those of the model as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    /// Beyond [`Quality::Acceptable`].
    Degraded,
    /// Mean KL divergence up to 0.05.
    Acceptable,
    /// Up to 0.015.
    Good,
    /// Up to 0.0015.
    NearLossless,
    /// The formats of the file; keys and values in f16 or better.
    AsStored,
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Quality::AsStored => "as-stored",
            Quality::NearLossless => "near-lossless",
            Quality::Good => "good",
            Quality::Acceptable => "acceptable",
            Quality::Degraded => "degraded",
        })
    }
}

impl Quality {
    /// The tier of a mean KL divergence in nats a token.
    pub fn of_divergence(kl: f64) -> Quality {
        match kl {
            kl if kl <= 0.0015 => Quality::NearLossless,
            kl if kl <= 0.015 => Quality::Good,
            kl if kl <= 0.05 => Quality::Acceptable,
            _ => Quality::Degraded,
        }
    }

    /// The tier of weights in a format.
    pub fn of_weights(weights: WeightFormat) -> Quality {
        match weights {
            WeightFormat::AsStored => Quality::AsStored,
            WeightFormat::Mix(mix) => Quality::of_divergence(divergence(mix)),
        }
    }

    /// The tier of keys and values in a format.
    pub fn of_kv(kv: KvFormat) -> Quality {
        let of = |dtype| match dtype {
            Dtype::F32 | Dtype::F16 => Quality::AsStored,
            Dtype::BF16 => Quality::of_divergence(KV_BF16),
            _ => Quality::of_divergence(KV_Q8_0),
        };
        of(kv.k).min(of(kv.v))
    }
}

/// Mean KL divergence of keys and values in bf16 and in q8_0 from those in f32, the worst measured.
const KV_BF16: f64 = 0.000_074;
const KV_Q8_0: f64 = 0.001_232;

/// Mean KL divergence from the model as stored, the worst measured.
const fn divergence(mix: Mix) -> f64 {
    match mix {
        Mix::F32 => 0.0,
        Mix::F16 => 0.000_138,
        Mix::BF16 => 0.000_148,
        Mix::Q8_0 => 0.000_424,
        Mix::Q6_K => 0.000_746,
        Mix::Q5_K_M => 0.008_429,
        Mix::Q5_K_S | Mix::Q5_1 => 0.008_647,
        Mix::Q4_K_M => 0.010_145,
        Mix::Q4_K_S => 0.010_498,
        Mix::Q5_0 => 0.010_836,
        Mix::IQ4_NL | Mix::IQ4_XS => 0.031_449,
        Mix::Q3_K_L => 0.035_421,
        Mix::Q4_1 => 0.036_007,
        Mix::Q3_K_M => 0.036_722,
        Mix::Q4_0 | Mix::Q3_K_S => 0.043_121,
        Mix::Q2_K => 0.051_155,
        Mix::FP6 => 0.014_191,
        Mix::NVFP4 => 0.059_488,
        // In models without experts MXFP4_MOE is Q8_0: of experts it promises no more than MXFP4.
        Mix::MXFP4 | Mix::MXFP4_MOE => 0.077_466,
        Mix::Q1_0 => 1.322_950,
        Mix::Q2_0 => 2.377_587,
        Mix::TQ1_0 | Mix::TQ2_0 => 2.403_300,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_follow_the_measured_divergence() {
        let tier = |mix| Quality::of_weights(WeightFormat::Mix(mix));
        assert_eq!(Quality::of_weights(WeightFormat::AsStored), Quality::AsStored);
        for (mix, want) in [
            (Mix::Q8_0, Quality::NearLossless),
            (Mix::Q6_K, Quality::NearLossless),
            (Mix::Q4_K_M, Quality::Good),
            (Mix::Q3_K_M, Quality::Acceptable),
            (Mix::Q2_K, Quality::Degraded),
        ] {
            assert_eq!(tier(mix), want, "{}", mix.name());
        }
        assert!(Mix::ALL.iter().all(|&mix| divergence(mix) >= 0.0));
        assert!(Quality::Degraded < Quality::Good && Quality::Good < Quality::AsStored);
        assert_eq!(Quality::of_kv(KvFormat::both(Dtype::F16)), Quality::AsStored);
        assert_eq!(Quality::of_kv(KvFormat { k: Dtype::F16, v: Dtype::Q8_0 }), Quality::NearLossless);
        assert_eq!(Quality::of_divergence(f64::NAN), Quality::Degraded);
    }
}
