//! Models as `flash-linear-attention` stores them: one frame for all families, with softmax attention in the layers that
//! the section `attn` lists.
//!
//! Source: fla-org/flash-linear-attention, `fla/models`, `fla/layers/attn.py`.

use std::collections::BTreeMap;

use memwall_formats::TensorInfo;
use serde_json::Value;

use super::super::CheckpointError;
use super::super::naming::Naming;
use super::config_json::ConfigJson;
use super::{activation, delta_net, gla, hgrn2, layers, linear_attention, retnet, without_group};
use crate::config::{Activation, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::attention::AttentionConfig;
use crate::rope::RopeConfig;

/// Tensor names; `ln_1`, `ln_2` are those of the first releases.
pub(super) const NAMING: Naming = Naming::of_folder(
    &[("model.embed_tokens.", "model.embeddings.")],
    &[
        ("input_layernorm.", "attn_norm."),
        ("input_layernorm.", "ln_1."),
        ("post_attention_layernorm.", "mlp_norm."),
        ("post_attention_layernorm.", "ln_2."),
        ("attn.g_norm.", "attn.g_norm_swish_gate."),
        // Which of the two mixers a layer has is not in the name; `adapt` goes by the configuration.
        ("attn.", "attn."),
        ("self_attn.", "attn."),
    ],
);

/// The hidden width of an MLP is a multiple of it.
const HIDDEN_MULTIPLE: usize = 256;

/// A family of this frame.
#[derive(Clone, Copy)]
pub(super) enum Family {
    Gla,
    RetNet,
    Hgrn2,
    DeltaNet,
    GatedDeltaNet,
    LinearAttention,
}

/// Where a mixer stands in its model.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Width of the model.
    pub d_model: usize,
    /// ε of all norms.
    pub norm_eps: f64,
    /// The layer's number.
    pub layer: usize,
    /// Layers of the model.
    pub layers: usize,
}

impl Family {
    /// The family that `config.json` names so.
    pub(super) fn of(model_type: &str) -> Option<Family> {
        Some(match model_type {
            "gla" => Family::Gla,
            "retnet" => Family::RetNet,
            "hgrn2" => Family::Hgrn2,
            "delta_net" => Family::DeltaNet,
            "gated_deltanet" => Family::GatedDeltaNet,
            "linear_attn" => Family::LinearAttention,
            _ => return None,
        })
    }

    /// Width of an MLP over that of the model, before the factor 2/3.
    fn hidden_ratio(self) -> f64 {
        if matches!(self, Family::RetNet) { 2.0 } else { 4.0 }
    }

    fn mixer(self, config: &ConfigJson, place: Place) -> Result<MixerConfig, CheckpointError> {
        match self {
            Family::Gla => gla::mixer(config, place).map(MixerConfig::Gla),
            Family::RetNet => retnet::mixer(config, place).map(MixerConfig::Retention),
            Family::Hgrn2 => hgrn2::mixer(config, place).map(MixerConfig::Hgrn2),
            Family::DeltaNet => delta_net::plain(config, place).map(MixerConfig::DeltaNet),
            Family::GatedDeltaNet => delta_net::gated(config, place).map(MixerConfig::DeltaNet),
            Family::LinearAttention => linear_attention::mixer(config, place).map(MixerConfig::LinearAttention),
        }
    }
}

pub(super) fn config(config: &ConfigJson, family: Family, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    let d_model: usize = config.require("hidden_size")?;
    let max_context: usize = config.find("max_position_embeddings")?.unwrap_or(2048);
    let norm_eps: f64 = config.find("norm_eps")?.unwrap_or(1e-6);
    let ratio: f64 = config.find("hidden_ratio")?.unwrap_or(family.hidden_ratio());
    let hidden = match config.find::<usize>("intermediate_size")? {
        Some(hidden) => hidden,
        // A width that overflows is refused as too wide.
        None => {
            let least = (d_model as f64 * ratio * 2.0 / 3.0) as usize;
            least.checked_next_multiple_of(HIDDEN_MULTIPLE).unwrap_or(usize::MAX)
        }
    };
    let activation = activation(config)?;
    if activation != Activation::Silu {
        return Err(config.wrong("hidden_act", "is not swish, which the gate of the output is"));
    }
    let channel = ChannelConfig::Glu { hidden, activation, bias: false };
    // Forms and fused kernels compute the same.
    for key in
        ["attn_mode", "fuse_norm", "fuse_swiglu", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp"]
    {
        config.get(key);
    }
    let count = layers(config, tensors)?;
    let (attention_layers, attention) = attention(config, d_model, count)?;
    let layer = |layer| {
        let mixer = match &attention {
            Some(attention) if attention_layers.contains(&layer) => MixerConfig::Attention(attention.clone()),
            _ => family.mixer(config, Place { d_model, norm_eps, layer, layers: count })?,
        };
        Ok(LayerConfig { mixer, channel: channel.clone() })
    };
    let layers = (0..count).map(layer).collect::<Result<_, CheckpointError>>()?;
    Ok(ModelConfig {
        norm_eps,
        tie_embeddings: config.find("tie_word_embeddings")?.unwrap_or(false),
        ..ModelConfig::new(config.require("vocab_size")?, d_model, max_context, layers)
    })
}

/// The layers, of `count`, that have softmax attention instead, and what that is.
pub(super) fn attention(
    config: &ConfigJson,
    d_model: usize,
    count: usize,
) -> Result<(Vec<usize>, Option<AttentionConfig>), CheckpointError> {
    if config.get("attn").is_none() {
        return Ok((Vec::new(), None));
    }
    let layers: Vec<usize> = config.require("attn.layers")?;
    if let Some(beyond) = layers.iter().find(|&&i| i >= count) {
        return Err(config.wrong("attn.layers", format!("has layer {beyond}; num_hidden_layers is {count}")));
    }
    let heads: usize = config.require("attn.num_heads")?;
    if heads == 0 || !d_model.is_multiple_of(heads) {
        let problem = format!("is {heads}, which does not divide hidden_size {d_model}");
        return Err(config.wrong("attn.num_heads", problem));
    }
    config.only("attn.qk_norm", &Value::Bool(false), "norms of q and k")?;
    let theta = config.find("attn.rope_theta")?.unwrap_or(10_000.0);
    let attention = AttentionConfig {
        rope: Some(RopeConfig { theta, ..RopeConfig::default() }),
        window: config.find("attn.window_size")?,
        qkv_bias: config.find("attn.qkv_bias")?.unwrap_or(false),
        ..AttentionConfig::new(heads, config.find("attn.num_kv_heads")?.unwrap_or(heads), d_model / heads)
    };
    Ok((layers, Some(attention)))
}

/// Turns what such a file holds into memwall's weights: attention has a name of its own, stacked halves of the MLP are
/// two matrices, convolutions have no dimension of one group.
pub(super) fn adapt(tensors: &mut BTreeMap<String, TensorInfo>, config: &ModelConfig) {
    for (i, layer) in config.layers.iter().enumerate() {
        let own = format!("model.layers.{i}.attn.");
        if matches!(layer.mixer, MixerConfig::Attention(_)) {
            let theirs: Vec<String> = tensors.keys().filter(|name| name.starts_with(&own)).cloned().collect();
            for name in theirs {
                let ours = format!("model.layers.{i}.{}.{}", layer.mixer.name(), &name[own.len()..]);
                if let Some(tensor) = tensors.remove(&name) {
                    tensors.insert(ours, tensor);
                }
            }
        }
        for part in ["q", "k", "v", "f", "i"] {
            without_group(tensors, &format!("{own}{part}_conv1d.weight"));
        }
        let ChannelConfig::Glu { hidden, .. } = layer.channel else { continue };
        let (gate, up) =
            (format!("model.layers.{i}.mlp.gate_proj.weight"), format!("model.layers.{i}.mlp.up_proj.weight"));
        if let Some(stacked) = tensors.get(&gate)
            && !tensors.contains_key(&up)
            && let [rows, width] = stacked.shape[..]
            && hidden.checked_mul(2) == Some(rows)
        {
            let half = TensorInfo { shape: vec![hidden, width], bytes: stacked.bytes / 2, ..stacked.clone() };
            let second = TensorInfo { offset: half.offset + half.bytes, ..half.clone() };
            tensors.insert(gate, half);
            tensors.insert(up, second);
        }
    }
}

/// Shares of the model's width in heads: the width of one.
pub(super) fn head_width(
    config: &ConfigJson,
    d_model: usize,
    heads: usize,
    key: &str,
    default: f64,
) -> Result<usize, CheckpointError> {
    let share: f64 = config.find(key)?.unwrap_or(default);
    let all = (d_model as f64 * share) as usize;
    if heads == 0 || !all.is_multiple_of(heads) || all == 0 {
        let problem = format!("is {share}: num_heads {heads} does not divide a width of {all}");
        return Err(config.wrong(key, problem));
    }
    Ok(all / heads)
}

/// Taps of the short convolutions, if there are some.
pub(super) fn short_conv(config: &ConfigJson, default: bool) -> Result<Option<usize>, CheckpointError> {
    let taps: usize = config.find("conv_size")?.unwrap_or(4);
    Ok(config.find("use_short_conv")?.unwrap_or(default).then_some(taps))
}
