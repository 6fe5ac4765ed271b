//! Llama 2 and 3, Mistral, Qwen2, Qwen3 and BitNet b1.58: one decoder that differs in biases, norms of q and k, and windows.

use super::super::CheckpointError;
use super::config_json::ConfigJson;
use super::{activation_or, head_dim, layers, rope};
use crate::config::{ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::attention::AttentionConfig;

/// A family by its `model_type`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    BitNet,
}

impl Family {
    /// Rotary positions where nothing is said.
    fn rope(self) -> rope::Usual {
        match self {
            Family::BitNet => rope::Usual { theta: 500_000.0, ..rope::USUAL },
            _ => rope::USUAL,
        }
    }

    /// The activation where nothing is said.
    fn activation(self) -> &'static str {
        if self == Family::BitNet { "relu2" } else { "silu" }
    }
}

pub(super) fn config(config: &ConfigJson, family: Family, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    let d_model: usize = config.require("hidden_size")?;
    let max_context: usize = config.require("max_position_embeddings")?;
    let norm_eps: f64 = config.find("rms_norm_eps")?.unwrap_or(1e-6);
    let heads: usize = config.require("num_attention_heads")?;
    let kv_heads: usize = config.find("num_key_value_heads")?.unwrap_or(heads);
    let head_dim = head_dim(config, heads, d_model)?;
    let biases = match family {
        Family::Llama | Family::Qwen3 | Family::BitNet => config.find("attention_bias")?.unwrap_or(false),
        Family::Mistral | Family::Qwen2 => false,
    };
    let mlp_bias = family == Family::Llama && config.find("mlp_bias")?.unwrap_or(false);
    let attention = AttentionConfig {
        rope: Some(rope::read(config, max_context, head_dim, family.rope())?),
        qk_norm: family == Family::Qwen3,
        qk_norm_eps: norm_eps,
        qkv_bias: biases || family == Family::Qwen2,
        o_bias: biases,
        ..AttentionConfig::new(heads, kv_heads, head_dim)
    };
    let hidden = config.require("intermediate_size")?;
    let channel =
        ChannelConfig::Glu { hidden, activation: activation_or(config, family.activation())?, bias: mlp_bias };
    let layers = layers(config, tensors)?;
    let windows = windows(config, family, layers)?;
    let layer = |window| {
        let mixer = MixerConfig::Attention(AttentionConfig { window, ..attention.clone() });
        LayerConfig { mixer, channel: channel.clone() }
    };
    Ok(ModelConfig {
        norm_eps,
        tie_embeddings: config.find("tie_word_embeddings")?.unwrap_or(false),
        ..ModelConfig::new(
            config.require("vocab_size")?,
            d_model,
            max_context,
            windows.into_iter().map(layer).collect(),
        )
    })
}

/// The window of each layer.
fn windows(config: &ConfigJson, family: Family, layers: usize) -> Result<Vec<Option<usize>>, CheckpointError> {
    match family {
        Family::Llama | Family::BitNet => Ok(vec![None; layers]),
        Family::Mistral => Ok(vec![config.find("sliding_window")?; layers]),
        Family::Qwen2 | Family::Qwen3 => {
            let most: Option<usize> = config.find("sliding_window")?;
            let from: usize = config.find("max_window_layers")?.unwrap_or(28);
            let kinds: Option<Vec<&str>> = config.find("layer_types")?;
            if !config.find("use_sliding_window")?.unwrap_or(false) {
                if kinds.is_some_and(|kinds| kinds.contains(&SLIDING)) {
                    return Err(config.wrong("layer_types", format!("has {SLIDING}, but use_sliding_window is false")));
                }
                return Ok(vec![None; layers]);
            }
            let Some(window) = most else {
                return Err(config.wrong("use_sliding_window", "is true, but there is no sliding_window"));
            };
            let Some(kinds) = kinds else {
                return Ok((0..layers).map(|i| (i >= from).then_some(window)).collect());
            };
            if kinds.len() != layers {
                let problem = format!("has {} elements; num_hidden_layers is {layers}", kinds.len());
                return Err(config.wrong("layer_types", problem));
            }
            let window_of = |kind: &str| match kind {
                SLIDING => Ok(Some(window)),
                FULL => Ok(None),
                other => Err(config.wrong("layer_types", format!("has {other:?}; {FULL} and {SLIDING} are supported"))),
            };
            kinds.into_iter().map(window_of).collect()
        }
    }
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";
