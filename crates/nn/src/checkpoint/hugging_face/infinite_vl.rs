//! InfiniteVL's decoder (`infinite_vl`): each fourth layer attention with a sliding window, from the first on, the others Gated
//! DeltaNet. Its vision encoder is left out.
//!
//! Positions are those of text: of the three of multimodal RoPE all are the same, which is plain RoPE. Source: InfiniteVL
//! (2025), hustvl/InfiniteVL.

use serde_json::Value;

use super::super::CheckpointError;
use super::super::adapt::Adapt;
use super::config_json::ConfigJson;
use super::rope::Usual;
use super::{activation, head_dim, layers, rope, without_group};
use crate::config::{Activation, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::attention::AttentionConfig;
use crate::mixers::delta_net::DeltaNetConfig;

const ROPE: Usual = Usual { theta: 1e6, share: None };

const LINEAR: &str = "linear_attention";
const SLIDING: &str = "sliding_attention";

pub(super) fn config(config: &ConfigJson, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    without_effect(config);
    let d_model: usize = config.require("hidden_size")?;
    let max_context: usize = config.require("max_position_embeddings")?;
    let norm_eps: f64 = config.find("rms_norm_eps")?.unwrap_or(1e-5);
    let heads: usize = config.require("num_attention_heads")?;
    let head_dim = head_dim(config, heads, d_model)?;
    let sliding = config.find("use_sliding_window")?.unwrap_or(false);
    let window: Option<usize> = config.find("sliding_window")?;
    let attention = AttentionConfig {
        rope: Some(rope::read(config, max_context, head_dim, ROPE)?),
        window: if sliding { Some(window.unwrap_or(32_768)) } else { None },
        qkv_bias: true,
        ..AttentionConfig::new(heads, config.find("num_key_value_heads")?.unwrap_or(heads), head_dim)
    };
    let hidden = config.require("intermediate_size")?;
    if activation(config)? != Activation::Silu {
        return Err(config.wrong("hidden_act", "is not silu, which convolutions and gates of this family have"));
    }
    let channel = ChannelConfig::Glu { hidden, activation: Activation::Silu, bias: false };
    let delta = delta(config)?;
    let layer = |attends: bool| {
        let mixer = match attends {
            true => MixerConfig::Attention(attention.clone()),
            false => MixerConfig::DeltaNet(delta.clone()),
        };
        LayerConfig { mixer, channel: channel.clone() }
    };
    let layers = layers(config, tensors)?;
    Ok(ModelConfig {
        norm_eps,
        tie_embeddings: config.find("tie_word_embeddings")?.unwrap_or(false),
        ..ModelConfig::new(
            config.require("vocab_size")?,
            d_model,
            max_context,
            attends(config, layers)?.into_iter().map(layer).collect(),
        )
    })
}

/// Keys of images, which are not read, of how a layer is computed, and of positions that are all the same in text.
fn without_effect(config: &ConfigJson) {
    for key in [
        "auto_map",
        "image_token_id",
        "max_window_layers",
        "mode",
        "rope_scaling.mrope_section",
        "video_token_id",
        "vision_config",
        "vision_end_token_id",
        "vision_start_token_id",
        "vision_token_id",
    ] {
        config.get(key);
    }
}

fn delta(config: &ConfigJson) -> Result<DeltaNetConfig, CheckpointError> {
    config.only("use_short_conv", &Value::Bool(true), "layers without convolutions")?;
    config.only("conv_bias", &Value::Bool(false), "biases of convolutions")?;
    let heads: usize = config.find("num_linear_heads")?.unwrap_or(16);
    // The default is a number of its own, whatever the heads are.
    let kv_heads: usize = config.find("num_linear_key_value_heads")?.unwrap_or(16);
    if kv_heads != heads {
        let problem = format!("is {kv_heads} and num_linear_heads {heads}; as many are supported");
        return Err(config.wrong("num_linear_key_value_heads", problem));
    }
    let key_width: usize = config.find("linear_head_dim")?.unwrap_or(128);
    let expand: f64 = config.find("expand_v")?.unwrap_or(2.0);
    Ok(DeltaNetConfig {
        output_gate: config.find("use_gate")?.unwrap_or(true),
        short_conv: config.find("conv_size")?.unwrap_or(4),
        norm_eps: config.find("norm_eps")?.unwrap_or(1e-5),
        ..DeltaNetConfig::new(heads, key_width, (key_width as f64 * expand) as usize)
    })
}

/// Which layers are attention: as listed, or each fourth from the first on.
fn attends(config: &ConfigJson, layers: usize) -> Result<Vec<bool>, CheckpointError> {
    let Some(kinds) = config.find::<Vec<&str>>("layer_types")? else {
        return Ok((0..layers).map(|i| i.is_multiple_of(4)).collect());
    };
    if kinds.len() != layers {
        let problem = format!("has {} elements; num_hidden_layers is {layers}", kinds.len());
        return Err(config.wrong("layer_types", problem));
    }
    let kind = |kind: &str| match kind {
        SLIDING => Ok(true),
        LINEAR => Ok(false),
        other => Err(config.wrong("layer_types", format!("has {other:?}; {LINEAR} and {SLIDING} are supported"))),
    };
    kinds.into_iter().map(kind).collect()
}

/// Turns what such a file holds into memwall's weights: the decoder may stand beside an encoder, and both mixers are called
/// attention.
pub(super) fn adapt(adapt: &mut Adapt, config: &ModelConfig) {
    adapt.tensors.retain(|name, _| !name.starts_with("visual.") && !name.starts_with("model.visual."));
    adapt.rename("model.language_model.", "model.");
    for (i, layer) in config.layers.iter().enumerate() {
        let MixerConfig::DeltaNet(_) = layer.mixer else { continue };
        let own = format!("model.layers.{i}.{}.", layer.mixer.name());
        adapt.rename(&format!("model.layers.{i}.self_attn."), &own);
        for part in ["q", "k", "v"] {
            without_group(&mut adapt.tensors, &format!("{own}{part}_conv1d.weight"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(more: &str) -> Result<ModelConfig, String> {
        let json = format!(
            r#"{{"model_type": "infinite_vl", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 5,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 64,
            "sliding_window": 9, "use_sliding_window": true,
            "rope_scaling": {{"type": "default", "rope_type": "default", "mrope_section": [2, 1, 1]}} {more}}}"#
        );
        let json = ConfigJson::parse(Path::new("config.json"), json.as_bytes()).expect("JSON");
        config(&json, 100).map_err(|e| e.to_string())
    }

    #[test]
    fn each_fourth_layer_has_a_window_and_the_others_the_published_sizes() {
        let model = read("").expect("a model");
        let window = |l: &LayerConfig| match &l.mixer {
            MixerConfig::Attention(a) => a.window,
            _ => None,
        };
        assert_eq!(model.layers.iter().map(window).collect::<Vec<_>>(), [Some(9), None, None, None, Some(9)]);
        let MixerConfig::DeltaNet(delta) = &model.layers[1].mixer else { panic!("{:?}", model.layers[1]) };
        assert_eq!((delta.heads, delta.key_width, delta.value_width, delta.short_conv), (16, 128, 256, 4));
    }

    #[test]
    fn what_is_no_such_model_is_refused_by_name() {
        for (more, parts) in [
            (r#", "layer_types": ["linear_attention"]"#, ["layer_types", "1 elements"]),
            (r#", "num_hidden_layers": 1, "layer_types": ["full_attention"]"#, ["layer_types", "full_attention"]),
            (r#", "use_short_conv": false"#, ["use_short_conv", "false"]),
            (r#", "conv_bias": true"#, ["conv_bias", "true"]),
            (r#", "num_linear_heads": 8"#, ["num_linear_key_value_heads", "16"]),
        ] {
            let error = read(more).expect_err(more);
            assert!(parts.iter().all(|part| error.contains(part)), "{more}: {error}");
        }
    }
}
