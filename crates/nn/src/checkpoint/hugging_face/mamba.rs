//! `MambaForCausalLM` of transformers.

use std::collections::BTreeMap;

use memwall_formats::TensorInfo;

use super::super::CheckpointError;
use super::super::naming::Naming;
use super::super::rwkv_cpp::CONTEXT;
use super::config_json::ConfigJson;
use super::{activation, layers};
use crate::config::{Activation, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::mamba::MambaConfig;

pub(super) const NAMING: Naming = Naming::of_layers(
    &[("model.embed_tokens.", "backbone.embeddings."), ("model.norm.", "backbone.norm_f.")],
    "backbone.layers.",
    &[("input_layernorm.", "norm.")],
);

pub(super) fn config(config: &ConfigJson, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    let d_model: usize = config.require("hidden_size")?;
    if activation(config)? != Activation::Silu {
        return Err(config.wrong("hidden_act", "is not silu, which both the convolution and the gate have"));
    }
    let expand: f64 = config.find("expand")?.unwrap_or(2.0);
    let inner = match config.find("intermediate_size")? {
        Some(inner) => inner,
        None => (d_model as f64 * expand) as usize,
    };
    let dt_rank = match config.get("time_step_rank").and_then(|rank| rank.as_str()) {
        Some("auto") => d_model.div_ceil(16),
        _ => config.find("time_step_rank")?.unwrap_or(d_model.div_ceil(16)),
    };
    // Where numbers are kept and how they begin; and lists of a single kind of layer.
    for key in [
        "residual_in_fp32",
        "rescale_prenorm_residual",
        "time_step_scale",
        "time_step_min",
        "time_step_max",
        "time_step_init_scheme",
        "time_step_floor",
        "use_mambapy",
        "use_associative_scan",
        "layer_types",
    ] {
        config.get(key);
    }
    let mamba = MambaConfig {
        inner,
        state_size: config.find("state_size")?.unwrap_or(16),
        dt_rank,
        conv: config.find("conv_kernel")?.unwrap_or(4),
        bias: config.find("use_bias")?.unwrap_or(false),
        conv_bias: config.find("use_conv_bias")?.unwrap_or(true),
        ..MambaConfig::new(d_model)
    };
    let layer = LayerConfig { mixer: MixerConfig::Mamba(mamba), channel: ChannelConfig::None };
    Ok(ModelConfig {
        norm_eps: config.find("layer_norm_epsilon")?.unwrap_or(1e-5),
        tie_embeddings: config.find("tie_word_embeddings")?.unwrap_or(true),
        ..ModelConfig::new(config.require("vocab_size")?, d_model, CONTEXT, vec![layer; layers(config, tensors)?])
    })
}

/// Convolutions have a dimension of one group.
pub(super) fn adapt(tensors: &mut BTreeMap<String, TensorInfo>) {
    let convolutions = tensors.iter_mut().filter(|(name, _)| name.ends_with(".conv1d.weight"));
    for (_, tensor) in convolutions {
        if let [channels, 1, taps] = tensor.shape[..] {
            tensor.shape = vec![channels, taps];
        }
    }
}
