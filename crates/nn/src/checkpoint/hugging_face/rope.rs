//! Rotary positions in `config.json`: `rope_theta` and `rope_scaling`, or both in `rope_parameters`.

use serde_json::Value;

use super::super::CheckpointError;
use super::config_json::ConfigJson;
use crate::rope::{RopeConfig, RopeScaling};

/// What a family means by a configuration that does not say it.
#[derive(Clone, Copy)]
pub(super) struct Usual {
    /// θ.
    pub(super) theta: f64,
    /// The share of a head's channels that is turned; none where the family turns all of them, whatever is written.
    pub(super) share: Option<f64>,
}

/// Most families.
pub(super) const USUAL: Usual = Usual { theta: 10_000.0, share: None };

/// Reads them for heads of `head_dim` channels; pairs are channels i and i + half of those that are turned.
pub(super) fn read(
    config: &ConfigJson,
    max_context: usize,
    head_dim: usize,
    usual: Usual,
) -> Result<RopeConfig, CheckpointError> {
    let section = if config.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let key = |name: &str| format!("{section}.{name}");
    let theta = match config.find::<f64>(&key("rope_theta"))? {
        Some(theta) => theta,
        None => config.find("rope_theta")?.unwrap_or(usual.theta),
    };
    let rotary_dim = rotary_dim(config, &key("partial_rotary_factor"), head_dim, usual.share)?;
    Ok(RopeConfig { theta, rotary_dim, scaling: scaling(config, section, max_context)?, ..RopeConfig::default() })
}

/// The channels of a head that are turned, if not all of them; the key stands in the section or beside it.
fn rotary_dim(
    config: &ConfigJson,
    inside: &str,
    head_dim: usize,
    usual: Option<f64>,
) -> Result<Option<usize>, CheckpointError> {
    let mut found = None;
    for name in [inside, "partial_rotary_factor"] {
        let Some(share) = config.find::<f64>(name)? else { continue };
        if usual.is_none() && share != 1.0 {
            return Err(config.wrong(name, "turns a part of each head only; 1 is supported"));
        }
        if !(share > 0.0 && share <= 1.0) {
            return Err(config.wrong(name, format!("is {share}; a share above 0 and up to 1 is needed")));
        }
        found = found.or(Some(share));
    }
    let width = (head_dim as f64 * found.or(usual).unwrap_or(1.0)) as usize;
    Ok((width != head_dim).then_some(width))
}

fn scaling(config: &ConfigJson, section: &str, max_context: usize) -> Result<RopeScaling, CheckpointError> {
    if let Some(other) = config.get(section).filter(|value| !value.is_object()) {
        return Err(config.wrong(section, format!("is {other}; it should be an object")));
    }
    let key = |name: &str| format!("{section}.{name}");
    // Older files call it `type`; newer ones may have both.
    let older = config.find::<&str>(&key("type"))?;
    let kind = config.find::<&str>(&key("rope_type"))?.or(older).unwrap_or("default");
    let number = |name: &str| config.require::<f64>(&key(name));
    let original = || -> Result<usize, CheckpointError> {
        let inside = config.find::<usize>(&key("original_max_position_embeddings"))?;
        let beside = config.find::<usize>("original_max_position_embeddings")?;
        Ok(inside.or(beside).unwrap_or(max_context))
    };
    match kind {
        "default" | "none" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: number("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original: original()?,
        }),
        "yarn" => {
            config.only(&key("truncate"), &Value::Bool(true), "which leaves the range of the ramp unrounded")?;
            let factor = number("factor")?;
            let optional = |name: &str| config.find::<f64>(&key(name));
            let magnitude = |of: f64| if factor <= 1.0 { 1.0 } else { 0.1 * of * factor.ln() + 1.0 };
            let (given, mscale, all) =
                (optional("attention_factor")?, optional("mscale")?, optional("mscale_all_dim")?);
            let attention_factor = match (given, mscale, all) {
                (Some(given), ..) => Some(given),
                (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => Some(magnitude(one) / magnitude(all)),
                _ => None,
            };
            Ok(RopeScaling::Yarn {
                factor,
                original: original()?,
                beta_fast: optional("beta_fast")?.unwrap_or(32.0),
                beta_slow: optional("beta_slow")?.unwrap_or(1.0),
                attention_factor,
            })
        }
        other => {
            let name = if older == Some(other) { "type" } else { "rope_type" };
            Err(config.wrong(&key(name), format!("is {other:?}; default, linear, llama3 and yarn are supported")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn rope(json: &str) -> Result<RopeConfig, String> {
        let config = ConfigJson::parse(Path::new("config.json"), json.as_bytes()).expect("JSON");
        read(&config, 4096, 64, USUAL).map_err(|e| e.to_string())
    }

    #[test]
    fn both_spellings_of_the_configuration_mean_the_same() {
        let older = r#"{"rope_theta": 500000, "rope_scaling": {"type": "linear", "factor": 2.0}}"#;
        let newer = r#"{"rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 2}}"#;
        let want = RopeConfig { theta: 5e5, scaling: RopeScaling::Linear { factor: 2.0 }, ..Default::default() };
        assert_eq!(rope(older).as_ref(), Ok(&want));
        assert_eq!(rope(newer).as_ref(), Ok(&want));
        assert_eq!(rope("{}"), Ok(RopeConfig::default()));
    }

    #[test]
    fn yarns_attention_factor_is_given_or_the_ratio_of_two_scales() {
        let factor = |json: &str| match rope(json).expect("valid").scaling {
            RopeScaling::Yarn { attention_factor, original, .. } => (attention_factor, original),
            other => panic!("{other:?}"),
        };
        assert_eq!(factor(r#"{"rope_scaling": {"type": "yarn", "factor": 4}}"#), (None, 4096));
        let given = r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4, "attention_factor": 1.5, "mscale": 1,
            "mscale_all_dim": 1, "original_max_position_embeddings": 32}}"#;
        assert_eq!(factor(given), (Some(1.5), 32));
        let both = r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4, "mscale": 0.5, "mscale_all_dim": 1}}"#;
        let ratio = (0.05 * 4f64.ln() + 1.0) / (0.1 * 4f64.ln() + 1.0);
        assert!((factor(both).0.expect("a ratio") - ratio).abs() < 1e-15);
    }

    #[test]
    fn a_family_may_turn_a_part_of_each_head() {
        let usual = Usual { theta: 1e7, share: Some(0.25) };
        let read = |json: &str| {
            let config = ConfigJson::parse(Path::new("config.json"), json.as_bytes()).expect("JSON");
            read(&config, 4096, 64, usual).map_err(|e| e.to_string())
        };
        assert_eq!(read("{}"), Ok(RopeConfig { theta: 1e7, rotary_dim: Some(16), ..RopeConfig::default() }));
        let half = read(r#"{"rope_parameters": {"rope_theta": 2.0, "partial_rotary_factor": 0.5}}"#);
        assert_eq!(half, Ok(RopeConfig { theta: 2.0, rotary_dim: Some(32), ..RopeConfig::default() }));
        assert_eq!(read(r#"{"partial_rotary_factor": 1}"#).expect("all").rotary_dim, None);
        assert!(read(r#"{"partial_rotary_factor": 1.5}"#).expect_err("above 1").contains("partial_rotary_factor"));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (json, parts) in [
            (r#"{"rope_scaling": {"type": "dynamic", "factor": 2}}"#, ["rope_scaling.type", "dynamic"]),
            (r#"{"rope_parameters": {"rope_type": "longrope"}}"#, ["rope_parameters.rope_type", "longrope"]),
            (r#"{"rope_scaling": {"type": "linear"}}"#, ["rope_scaling.factor", "number"]),
            (r#"{"rope_scaling": {"type": "yarn", "factor": 2, "truncate": false}}"#, ["truncate", "false"]),
            (r#"{"partial_rotary_factor": 0.5}"#, ["partial_rotary_factor", "1 is"]),
            (r#"{"rope_scaling": 2}"#, ["rope_scaling", "object"]),
        ] {
            let error = rope(json).expect_err(json);
            assert!(parts.iter().all(|part| error.contains(part)), "{json}: {error}");
        }
    }
}
