//! The mixer of `GLAForCausalLM`.
//!
//! Source: fla-org/flash-linear-attention, `fla/layers/gla.py`.

use serde_json::Value;

use super::super::CheckpointError;
use super::config_json::ConfigJson;
use super::flash_linear_attention::{Place, head_width, short_conv};
use crate::mixers::gla::GlaConfig;

pub(super) fn mixer(config: &ConfigJson, place: Place) -> Result<GlaConfig, CheckpointError> {
    config.only("use_gk", &Value::Bool(true), "a layer without gates")?;
    config.only("use_gv", &Value::Bool(false), "gates of values")?;
    config.only("feature_map", &Value::Null, "a map of q and k")?;
    config.only("elementwise_affine", &Value::Bool(true), "norms without weights")?;
    let heads: usize = config.find("num_heads")?.unwrap_or(4);
    let width = |key, default| head_width(config, place.d_model, heads, key, default);
    Ok(GlaConfig {
        kv_heads: config.find("num_kv_heads")?,
        clamp_min: config.find("clamp_min")?,
        gate_low_rank: config.find("gate_low_rank_dim")?.unwrap_or(16),
        gate_logit_normalizer: config.find("gate_logit_normalizer")?.unwrap_or(16.0),
        output_gate: config.find("use_output_gate")?.unwrap_or(true),
        short_conv: short_conv(config, false)?,
        norm_eps: place.norm_eps,
        ..GlaConfig::new(heads, width("expand_k", 0.5)?, width("expand_v", 1.0)?)
    })
}
