//! `Mamba2ForCausalLM` as Hugging Face transformers stores it: blocks of a norm and a mixer, no MLP.
//!
//! Source: huggingface/transformers, `models/mamba2`.

use std::collections::BTreeMap;

use memwall_formats::TensorInfo;
use serde_json::Value;

use super::super::CheckpointError;
use super::super::naming::Naming;
use super::config_json::ConfigJson;
use super::{activation, layers, without_group};
use crate::config::{Activation, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::mamba2::Mamba2Config;

/// Tensor names; `embedding` is that of the first releases.
pub(super) const NAMING: Naming = Naming::of_layers(
    &[
        ("model.embed_tokens.", "backbone.embeddings."),
        ("model.embed_tokens.", "backbone.embedding."),
        ("model.norm.", "backbone.norm_f."),
    ],
    "backbone.layers.",
    &[("input_layernorm.", "norm.")],
);

/// The most tokens of a sequence: states do not grow, and the configuration has no bound.
const CONTEXT: usize = 1 << 20;

pub(super) fn config(config: &ConfigJson, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    let d_model: usize = config.require("hidden_size")?;
    if activation(config)? != Activation::Silu {
        return Err(config.wrong("hidden_act", "is not silu, which the convolution and the gate of the output have"));
    }
    // What a chunk has, how residuals are stored, and how time steps began.
    for key in [
        "chunk_size",
        "residual_in_fp32",
        "rescale_prenorm_residual",
        "time_step_rank",
        "time_step_min",
        "time_step_max",
        "time_step_floor",
        "rms_norm",
    ] {
        config.get(key);
    }
    let norm_eps: f64 = config.find("layer_norm_epsilon")?.unwrap_or(1e-5);
    let heads: usize = config.find("num_heads")?.unwrap_or(128);
    let head_width: usize = config.find("head_dim")?.unwrap_or(64);
    let expand: usize = config.find("expand")?.unwrap_or(2);
    if d_model.checked_mul(expand) != heads.checked_mul(head_width) {
        let problem = format!("is {heads}: with head_dim {head_width} not {expand} times hidden_size {d_model}");
        return Err(config.wrong("num_heads", problem));
    }
    let [time_step_min, time_step_max] = time_steps(config)?;
    let mixer = MixerConfig::Mamba2(Mamba2Config {
        groups: config.find("n_groups")?.unwrap_or(8),
        taps: config.find("conv_kernel")?.unwrap_or(4),
        conv_bias: config.find("use_conv_bias")?.unwrap_or(true),
        bias: config.find("use_bias")?.unwrap_or(false),
        time_step_min,
        time_step_max,
        norm_eps,
        ..Mamba2Config::new(heads, head_width, config.find("state_size")?.unwrap_or(128))
    });
    let layer = LayerConfig { mixer, channel: ChannelConfig::None };
    Ok(ModelConfig {
        norm_eps,
        tie_embeddings: config.find("tie_word_embeddings")?.unwrap_or(false),
        ..ModelConfig::new(config.require("vocab_size")?, d_model, CONTEXT, vec![layer; layers(config, tensors)?])
    })
}

/// The bounds of time steps, none where they bound nothing.
fn time_steps(config: &ConfigJson) -> Result<[Option<f64>; 2], CheckpointError> {
    const KEY: &str = "time_step_limit";
    let Some(limits) = config.get(KEY) else { return Ok([None, None]) };
    let found = match limits.as_array().map(Vec::as_slice) {
        Some([least, most]) => number(least).zip(number(most)),
        _ => None,
    };
    match found {
        Some((least, most)) => {
            Ok([Some(least).filter(|&least| least > 0.0), Some(most).filter(|most| most.is_finite())])
        }
        None => Err(config.wrong(KEY, format!("is {limits}; the least and the greatest time step are needed"))),
    }
}

/// A number, or infinity as the library writes it.
fn number(value: &Value) -> Option<f64> {
    let infinite = |value: &Value| value.as_str() == Some("Infinity");
    match value.get("__float__") {
        Some(inner) if infinite(inner) => Some(f64::INFINITY),
        _ if infinite(value) => Some(f64::INFINITY),
        _ => value.as_f64(),
    }
}

/// Turns what such a file holds into memwall's weights: convolutions have no dimension of one group.
pub(super) fn adapt(tensors: &mut BTreeMap<String, TensorInfo>, config: &ModelConfig) {
    for i in 0..config.layers.len() {
        without_group(tensors, &format!("model.layers.{i}.mixer.conv1d.weight"));
    }
}
