//! The mixer of `LinearAttentionForCausalLM`, with the feature maps that have no weights.
//!
//! Source: fla-org/flash-linear-attention, `fla/layers/linear_attn.py`.

use serde_json::Value;

use super::super::CheckpointError;
use super::config_json::ConfigJson;
use super::flash_linear_attention::{Place, head_width};
use crate::mixers::linear_attention::{FeatureMap, LinearAttentionConfig};

pub(super) fn mixer(config: &ConfigJson, place: Place) -> Result<LinearAttentionConfig, CheckpointError> {
    config.only("norm_q", &Value::Bool(false), "q divided by its sum")?;
    config.only("norm_k", &Value::Bool(false), "k divided by its sum")?;
    config.only("elementwise_affine", &Value::Bool(true), "norms without weights")?;
    // Maps without weights are the same for q and k.
    config.get("tie_feature_map_qk");
    let feature_map = match config.find("feature_map")?.unwrap_or("elementwise_product") {
        "identity" => FeatureMap::Identity,
        "elu" => FeatureMap::Elu,
        "relu" => FeatureMap::Relu,
        other => {
            let problem = format!("is {other:?}; identity, elu and relu are supported");
            return Err(config.wrong("feature_map", problem));
        }
    };
    let heads: usize = config.find("num_heads")?.unwrap_or(4);
    let width = |key| head_width(config, place.d_model, heads, key, 1.0);
    Ok(LinearAttentionConfig {
        kv_heads: config.find("num_kv_heads")?,
        feature_map,
        normalize: config.find("norm_feature_map")?.unwrap_or(false),
        norm_eps: place.norm_eps,
        ..LinearAttentionConfig::new(heads, width("expand_k")?, width("expand_v")?)
    })
}
