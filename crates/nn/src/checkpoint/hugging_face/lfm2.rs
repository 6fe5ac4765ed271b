//! LFM2 (`Lfm2ForCausalLM`) and LFM2-MoE (`Lfm2MoeForCausalLM`): gated short convolutions, and attention in some layers.
//!
//! Two dialects of `config.json` mean the same: the first releases list the layers of attention (`full_attn_idxs`) and
//! prefix the MLP's keys with `block_`; later ones name each layer's kind (`layer_types`). Source: LFM2 Technical Report
//! (arXiv 2511.23404), transformers `models/lfm2`.

use serde_json::Value;

use super::super::CheckpointError;
use super::super::adapt::Adapt;
use super::super::naming::Naming;
use super::config_json::ConfigJson;
use super::rope::Usual;
use super::{experts, head_dim, layers, rope, without_group};
use crate::channels::moe::{MoeConfig, Scores};
use crate::config::{Activation, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::attention::AttentionConfig;
use crate::mixers::short_conv::ShortConvConfig;

/// Tensor names. The norm that is called after the embedding comes after the last layer.
pub(super) const NAMING: Naming = Naming::of_folder(
    &[("model.norm.", "model.embedding_norm.")],
    &[
        ("input_layernorm.", "operator_norm."),
        ("post_attention_layernorm.", "ffn_norm."),
        ("self_attn.q_norm.", "self_attn.q_layernorm."),
        ("self_attn.k_norm.", "self_attn.k_layernorm."),
        ("self_attn.o_proj.", "self_attn.out_proj."),
        ("mlp.gate.", "feed_forward.gate."),
        ("mlp.expert_bias", "feed_forward.expert_bias"),
        ("mlp.experts.", "feed_forward.experts."),
        ("mlp.gate_proj.", "feed_forward.w1."),
        ("mlp.up_proj.", "feed_forward.w3."),
        ("mlp.down_proj.", "feed_forward.w2."),
    ],
);

/// The family's θ; all channels of a head are turned.
const ROPE: Usual = Usual { theta: 1e6, share: None };

/// What is added to the sum of the chosen experts' scores before they are divided by it.
const NORMALIZE_EPS: f64 = 1e-6;

const CONV: &str = "conv";
const ATTENTION: &str = "full_attention";

pub(super) fn config(config: &ConfigJson, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    without_effect(config);
    let d_model: usize = config.require("hidden_size")?;
    for key in ["block_dim", "conv_dim", "conv_dim_out"] {
        config.only(key, &Value::from(d_model), "another width than hidden_size")?;
    }
    config.only("conv_bias", &Value::Bool(false), "biases of the convolution's layers")?;
    config.only("block_use_swiglu", &Value::Bool(true), "an MLP without a gate")?;
    config.only("use_pos_enc", &Value::Bool(true), "attention without positions")?;
    let max_context: usize = config.require("max_position_embeddings")?;
    let norm_eps: f64 = config.find("norm_eps")?.unwrap_or(1e-5);
    // The first releases have a second ε for the same norms.
    config.only("block_norm_eps", &Value::from(norm_eps), "another ε than norm_eps")?;
    let taps: usize = config.find("conv_L_cache")?.unwrap_or(3);
    if taps < 2 {
        return Err(config.wrong("conv_L_cache", format!("is {taps}; a convolution has at least 2 taps")));
    }
    let heads: usize = config.require("num_attention_heads")?;
    config.only("num_heads", &Value::from(heads), "another number than num_attention_heads")?;
    let kv_heads: usize = config.find("num_key_value_heads")?.unwrap_or(heads);
    let head_dim = head_dim(config, heads, d_model)?;
    let attention = AttentionConfig {
        rope: Some(rope::read(config, max_context, head_dim, ROPE)?),
        qk_norm: true,
        qk_norm_eps: norm_eps,
        ..AttentionConfig::new(heads, kv_heads, head_dim)
    };
    let conv = MixerConfig::ShortConv(ShortConvConfig { taps, gated: true });
    let (hidden, moe, dense_layers) = match config.require::<&str>("model_type")? {
        "lfm2_moe" => (config.require("intermediate_size")?, Some(moe(config)?), config.find("num_dense_layers")?),
        _ => (hidden(config)?, None, None),
    };
    let dense_layers: usize = dense_layers.unwrap_or(2);
    let dense = ChannelConfig::Glu { hidden, activation: Activation::Silu, bias: false };
    let layer = |(i, attends): (usize, bool)| {
        let mixer = if attends { MixerConfig::Attention(attention.clone()) } else { conv.clone() };
        let channel = match &moe {
            Some(moe) if i >= dense_layers => ChannelConfig::Moe(moe.clone()),
            _ => dense.clone(),
        };
        LayerConfig { mixer, channel }
    };
    let layers = layers(config, tensors)?;
    Ok(ModelConfig {
        norm_eps,
        tie_embeddings: tied(config)?,
        ..ModelConfig::new(
            config.require("vocab_size")?,
            d_model,
            max_context,
            attends(config, layers)?.into_iter().enumerate().map(layer).collect(),
        )
    })
}

/// Keys of the first releases that say how weights were begun.
fn without_effect(config: &ConfigJson) {
    for key in ["block_use_xavier_init", "block_mlp_init_scale", "block_out_init_scale", "conv_use_xavier_init"] {
        config.get(key);
    }
}

/// The MLP's width: `block_ff_dim` goes before `intermediate_size`, and either is by default shrunk by a third,
/// multiplied, and rounded up.
fn hidden(config: &ConfigJson) -> Result<usize, CheckpointError> {
    let later: Option<usize> = config.find("intermediate_size")?;
    let hidden = match config.find("block_ff_dim")?.or(later) {
        Some(hidden) => hidden,
        None => config.require("intermediate_size")?,
    };
    let adjusts = config.find("block_auto_adjust_ff_dim")?.unwrap_or(true);
    let multiplier: f64 = config.find("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let multiple: usize = config.find("block_multiple_of")?.unwrap_or(256);
    if !adjusts {
        return Ok(hidden);
    }
    if multiple == 0 {
        return Err(config.wrong("block_multiple_of", "is 0, at least 1 is needed"));
    }
    let shrunk = (2.0 * hidden as f64 / 3.0) as usize;
    // A width that overflows is refused as too wide.
    Ok(((multiplier * shrunk as f64) as usize).checked_next_multiple_of(multiple).unwrap_or(usize::MAX))
}

/// The experts: by sigmoid, chosen with a bias.
fn moe(config: &ConfigJson) -> Result<MoeConfig, CheckpointError> {
    let experts = config.require("num_experts")?;
    Ok(MoeConfig {
        scores: Scores::Sigmoid,
        selection_bias: config.find("use_expert_bias")?.unwrap_or(true),
        normalize: config.find("norm_topk_prob")?.unwrap_or(true),
        normalize_eps: NORMALIZE_EPS,
        scaling: config.find("routed_scaling_factor")?.unwrap_or(1.0),
        ..MoeConfig::new(experts, config.require("num_experts_per_tok")?, config.require("moe_intermediate_size")?)
    })
}

/// Which layers are attention, whichever dialect says it.
fn attends(config: &ConfigJson, layers: usize) -> Result<Vec<bool>, CheckpointError> {
    let kinds: Option<Vec<&str>> = config.find("layer_types")?;
    let indices: Option<Vec<usize>> = config.find("full_attn_idxs")?;
    if let Some(beyond) = indices.iter().flatten().find(|&&i| i >= layers) {
        return Err(config.wrong("full_attn_idxs", format!("has layer {beyond}; num_hidden_layers is {layers}")));
    }
    let by_index = indices.map(|indices| (0..layers).map(|i| indices.contains(&i)).collect::<Vec<bool>>());
    let Some(kinds) = kinds else {
        return by_index.ok_or_else(|| {
            config
                .wrong("full_attn_idxs", "is missing, and layer_types too; one of them says which layers are attention")
        });
    };
    if kinds.len() != layers {
        let problem = format!("has {} elements; num_hidden_layers is {layers}", kinds.len());
        return Err(config.wrong("layer_types", problem));
    }
    let kind = |kind: &str| match kind {
        ATTENTION => Ok(true),
        CONV => Ok(false),
        other => Err(config.wrong("layer_types", format!("has {other:?}; {CONV} and {ATTENTION} are supported"))),
    };
    let by_kind: Vec<bool> = kinds.into_iter().map(kind).collect::<Result<_, _>>()?;
    if by_index.is_some_and(|by_index| by_index != by_kind) {
        return Err(config.wrong("full_attn_idxs", "names other layers than layer_types"));
    }
    Ok(by_kind)
}

fn tied(config: &ConfigJson) -> Result<bool, CheckpointError> {
    let later: Option<bool> = config.find("tie_word_embeddings")?;
    Ok(config.find("tie_embedding")?.or(later).unwrap_or(true))
}

/// Turns what such a file holds into memwall's weights.
pub(super) fn adapt(adapt: &mut Adapt, config: &ModelConfig) -> Result<(), CheckpointError> {
    for i in 0..config.layers.len() {
        without_group(&mut adapt.tensors, &format!("model.layers.{i}.conv.conv.weight"));
    }
    experts::adapt(adapt, config, ["w1", "w3", "w2"])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(json: &str) -> Result<ModelConfig, String> {
        let json = ConfigJson::parse(Path::new("config.json"), json.as_bytes()).expect("JSON");
        config(&json, 100).map_err(|e| e.to_string())
    }

    fn first(more: &str) -> String {
        format!(
            r#"{{"model_type": "lfm2", "vocab_size": 65536, "hidden_size": 1024, "block_dim": 1024, "conv_dim": 1024,
            "num_hidden_layers": 4, "num_attention_heads": 16, "num_heads": 16, "num_key_value_heads": 8,
            "max_position_embeddings": 128000, "norm_eps": 1e-05, "block_norm_eps": 1e-05, "conv_L_cache": 3,
            "rope_theta": 1000000.0, "tie_embedding": true, "use_pos_enc": true, {more}}}"#
        )
    }

    #[test]
    fn both_dialects_mean_the_same() {
        let older = read(&first(r#""block_ff_dim": 6656, "block_multiple_of": 256, "full_attn_idxs": [2]"#));
        let newer = read(
            r#"{"model_type": "lfm2", "vocab_size": 65536, "hidden_size": 1024, "intermediate_size": 6656,
            "num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 8,
            "max_position_embeddings": 128000, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
            "layer_types": ["conv", "conv", "full_attention", "conv"]}"#,
        );
        assert_eq!(older, newer);
        let model = older.expect("a model");
        let attends = |l: &LayerConfig| matches!(l.mixer, MixerConfig::Attention(_));
        assert_eq!(model.layers.iter().map(attends).collect::<Vec<_>>(), [false, false, true, false]);
        assert!(model.tie_embeddings && model.check().is_ok());
    }

    #[test]
    fn the_width_of_the_mlp_follows_the_published_rule() {
        for (given, more, hidden) in [
            (6656, "", 4608),
            (10240, "", 6912),
            (12288, "", 8192),
            (10752, r#""block_auto_adjust_ff_dim": false,"#, 10752),
            (1000, r#""block_ffn_dim_multiplier": 1.3, "block_multiple_of": 10,"#, 870),
        ] {
            let json =
                first(&format!(r#"{more} "block_ff_dim": {given}, "intermediate_size": 1, "full_attn_idxs": []"#));
            let channel = &read(&json).expect("a model").layers[0].channel;
            assert!(matches!(channel, ChannelConfig::Glu { hidden: h, .. } if *h == hidden), "{given}: {channel:?}");
        }
    }

    #[test]
    fn what_is_no_such_model_is_refused_by_name() {
        let mlp = r#""block_ff_dim": 6656"#;
        for (more, parts) in [
            (r#""full_attn_idxs": [1, 4]"#, ["full_attn_idxs", "layer 4"]),
            (r#""layer_types": ["conv", "conv", "conv", "conv", "conv"]"#, ["layer_types", "5 elements"]),
            (r#""layer_types": ["conv", "conv", "mamba", "conv"]"#, ["layer_types", "mamba"]),
            (r#""layer_types": ["conv", "conv", "conv", "conv"], "full_attn_idxs": [0]"#, ["full_attn_idxs", "other"]),
            (r#""bos_token_id": 1"#, ["full_attn_idxs", "missing"]),
            (r#""full_attn_idxs": [1], "conv_L_cache": 1"#, ["conv_L_cache", "is 1"]),
            (r#""full_attn_idxs": [1], "conv_bias": true"#, ["conv_bias", "true"]),
            (r#""full_attn_idxs": [1], "num_heads": 8"#, ["num_heads", "8"]),
            (r#""full_attn_idxs": [1], "num_attention_heads": 12, "num_heads": 12"#, ["num_attention_heads", "12"]),
            (r#""full_attn_idxs": [1], "block_use_swiglu": false"#, ["block_use_swiglu", "false"]),
        ] {
            let error = read(&first(&format!("{mlp}, {more}"))).expect_err(more);
            assert!(parts.iter().all(|part| error.contains(part)), "{more}: {error}");
        }
    }
}
