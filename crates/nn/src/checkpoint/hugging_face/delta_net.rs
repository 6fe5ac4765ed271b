//! The mixers of `DeltaNetForCausalLM` and `GatedDeltaNetForCausalLM`.
//!
//! Source: fla-org/flash-linear-attention, `fla/layers/{delta_net,gated_deltanet}.py`.

use serde_json::Value;

use super::super::CheckpointError;
use super::config_json::ConfigJson;
use super::flash_linear_attention::{Place, head_width, short_conv};
use crate::mixers::delta_net::{DeltaGate, DeltaNetConfig};

pub(super) fn plain(config: &ConfigJson, place: Place) -> Result<DeltaNetConfig, CheckpointError> {
    config.only("use_beta", &Value::Bool(true), "a rule that replaces all that a key holds")?;
    config.only("use_output_norm", &Value::Bool(true), "no norm of the output")?;
    config.only("qk_norm", &"l2".into(), "another norm of q and k")?;
    config.only("qk_activation", &"silu".into(), "another activation of q and k")?;
    let heads: usize = config.find("num_heads")?.unwrap_or(16);
    let width = |key| head_width(config, place.d_model, heads, key, 1.0);
    let common = common(config, place, heads, width("expand_k")?, width("expand_v")?)?;
    let output_gate = config.find("use_gate")?.unwrap_or(false);
    Ok(DeltaNetConfig { gate: DeltaGate::None, output_gate, ..common })
}

pub(super) fn gated(config: &ConfigJson, place: Place) -> Result<DeltaNetConfig, CheckpointError> {
    let key_heads: usize = config.find("num_heads")?.unwrap_or(6);
    let heads = config.find("num_v_heads")?.unwrap_or(key_heads);
    let key_width: usize = config.find("head_dim")?.unwrap_or(256);
    let share: f64 = config.find("expand_v")?.unwrap_or(2.0);
    let value_width = (key_width as f64 * share) as usize;
    let common = common(config, place, heads, key_width, value_width)?;
    let output_gate = config.find("use_gate")?.unwrap_or(true);
    let key_heads = (key_heads != heads).then_some(key_heads);
    Ok(DeltaNetConfig { key_heads, gate: DeltaGate::Head, output_gate, ..common })
}

fn common(
    config: &ConfigJson,
    place: Place,
    heads: usize,
    key_width: usize,
    value_width: usize,
) -> Result<DeltaNetConfig, CheckpointError> {
    let Some(short_conv) = short_conv(config, true)? else {
        return Err(config.wrong("use_short_conv", "is false; layers with short convolutions are supported"));
    };
    let allow_neg_eigval = config.find("allow_neg_eigval")?.unwrap_or(false);
    let norm_eps = place.norm_eps;
    Ok(DeltaNetConfig { allow_neg_eigval, short_conv, norm_eps, ..DeltaNetConfig::new(heads, key_width, value_width) })
}
