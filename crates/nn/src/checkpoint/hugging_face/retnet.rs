//! The mixer of `RetNetForCausalLM`.
//!
//! Source: fla-org/flash-linear-attention, `fla/layers/multiscale_retention.py`.

use serde_json::Value;

use super::super::CheckpointError;
use super::config_json::ConfigJson;
use super::flash_linear_attention::{Place, head_width, short_conv};
use crate::mixers::retention::RetentionConfig;

pub(super) fn mixer(config: &ConfigJson, place: Place) -> Result<RetentionConfig, CheckpointError> {
    config.only("feature_map", &Value::Null, "a map of q and k")?;
    config.only("elementwise_affine", &Value::Bool(true), "norms without weights")?;
    let heads: usize = config.find("num_heads")?.unwrap_or(8);
    let width = |key, default| head_width(config, place.d_model, heads, key, default);
    Ok(RetentionConfig {
        kv_heads: config.find("num_kv_heads")?,
        output_gate: config.find("use_output_gate")?.unwrap_or(true),
        short_conv: short_conv(config, false)?,
        norm_eps: place.norm_eps,
        ..RetentionConfig::new(heads, width("expand_k", 1.0)?, width("expand_v", 2.0)?)
    })
}
