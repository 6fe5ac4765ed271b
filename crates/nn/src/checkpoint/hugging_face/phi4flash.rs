//! Phi-4-mini-flash (`Phi4FlashForCausalLM`): SambaY with differential attention, layer norms and no positions.
//!
//! `Wqkv` holds queries, keys and values of a layer, or queries alone where they are another layer's; `mlp.fc1` holds gate and
//! values of the MLP, the gate first. Every mixer is called `attn`. Source: Ren et al. 2025 (arXiv 2507.06607), the published
//! configuration of Phi-4-mini-flash-reasoning.

use serde_json::Value;

use super::super::CheckpointError;
use super::super::adapt::Adapt;
use super::super::naming::Naming;
use super::config_json::ConfigJson;
use super::{activation, head_dim, layers, without_group};
use crate::config::{Activation, ChannelConfig, MixerConfig, ModelConfig, NormKind};
use crate::mixers::attention::AttentionConfig;
use crate::mixers::mamba::MambaConfig;
use crate::samba_y::SambaYConfig;

/// Tensor names; of those that are cut, the name of the first part.
pub(super) const NAMING: Naming = Naming::of_folder(
    &[("model.norm.", "model.final_layernorm.")],
    &[
        ("self_attn.q_proj.", "attn.Wqkv."),
        ("self_attn.", "attn.inner_cross_attn."),
        ("mixer.", "attn."),
        ("self_attn.o_proj.", "attn.out_proj."),
        ("gmu.", "attn."),
        ("mlp.gate_proj.", "mlp.fc1."),
        ("mlp.down_proj.", "mlp.fc2."),
    ],
);

pub(super) fn config(config: &ConfigJson, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    // Training's, and where code is that others would run.
    for key in ["auto_map", "embd_layer", "rope_theta", "rope_scaling"] {
        config.get(key);
    }
    let d_model: usize = config.require("hidden_size")?;
    if activation(config)? != Activation::Silu {
        return Err(config.wrong("hidden_act", "is not silu, which all gates of this family have"));
    }
    config.only("mb_per_layer", &Value::from(2), "another alternation of Mamba and attention")?;
    for key in ["mlp_bias", "lm_head_bias", "mamba_proj_bias"] {
        config.only(key, &Value::Bool(false), "a bias that layers of this family do not have")?;
    }
    let count = layers(config, tensors)?;
    let window = window(config, count)?;
    let heads: usize = config.require("num_attention_heads")?;
    let kv_heads = config.find("num_key_value_heads")?.unwrap_or(heads);
    let head_dim = head_dim(config, heads, d_model)?;
    let dt_rank = match config.get("mamba_dt_rank").and_then(Value::as_str) {
        Some("auto") => d_model.div_ceil(16),
        _ => config.find("mamba_dt_rank")?.unwrap_or(d_model.div_ceil(16)),
    };
    let expand: usize = config.find("mamba_expand")?.unwrap_or(2);
    let Some(inner) = d_model.checked_mul(expand) else {
        return Err(config.wrong("mamba_expand", format!("is {expand}, too many times hidden_size {d_model}")));
    };
    let mamba = MambaConfig {
        inner,
        state_size: config.find("mamba_d_state")?.unwrap_or(16),
        dt_rank,
        conv: config.find("mamba_d_conv")?.unwrap_or(4),
        conv_bias: config.find("mamba_conv_bias")?.unwrap_or(true),
        ..MambaConfig::new(d_model)
    };
    let plan = SambaYConfig {
        layers: count,
        mamba,
        attention: AttentionConfig { qkv_bias: true, o_bias: true, ..AttentionConfig::new(heads, kv_heads, head_dim) },
        window,
        full_window: None,
        differential: true,
        yoco: false,
        channel: ChannelConfig::Glu {
            hidden: config.require("intermediate_size")?,
            activation: Activation::Silu,
            bias: false,
        },
    };
    Ok(ModelConfig {
        norm_eps: config.find("layer_norm_eps")?.unwrap_or(1e-5),
        tie_embeddings: config.find("tie_word_embeddings")?.unwrap_or(true),
        norm: NormKind::Layer,
        ..ModelConfig::new(
            config.require("vocab_size")?,
            d_model,
            config.require("max_position_embeddings")?,
            plan.layers().map_err(|e| config.wrong("num_hidden_layers", e.problem))?,
        )
    })
}

/// The window of attention below the middle: one number, or one for each layer with null where there is none.
fn window(config: &ConfigJson, layers: usize) -> Result<usize, CheckpointError> {
    let Some(list) = config.get("sliding_window").and_then(Value::as_array) else {
        return config.require("sliding_window");
    };
    let has_window = |i: usize| i % 2 == 1 && i < layers / 2;
    let first = list.get(1).and_then(Value::as_u64);
    let fits = |(i, window): (usize, &Value)| if has_window(i) { window.as_u64() == first } else { window.is_null() };
    match first {
        Some(window) if list.len() == layers && list.iter().enumerate().all(fits) => Ok(window as usize),
        _ => {
            let problem = format!("is a list; of {layers} layers the odd ones below {} have one window", layers / 2);
            Err(config.wrong("sliding_window", format!("{problem}, and the others null")))
        }
    }
}

/// Turns what such a file holds into memwall's weights.
pub(super) fn adapt(adapt: &mut Adapt, config: &ModelConfig) -> Result<(), CheckpointError> {
    let d_model = config.d_model;
    for (i, layer) in config.layers.iter().enumerate() {
        let own = format!("model.layers.{i}");
        match &layer.mixer {
            MixerConfig::Attention(attention) => {
                adapt.rename(&format!("{own}.mixer.out_proj."), &format!("{own}.self_attn.o_proj."));
                if attention.kv_source.is_none() {
                    let [q, kv] = [attention.heads, attention.kv_heads].map(|heads| heads * attention.head_dim);
                    let parts = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
                    cut(adapt, &format!("{own}.self_attn"), parts, Some(d_model))?;
                    cut(adapt, &format!("{own}.self_attn"), parts, None)?;
                }
            }
            MixerConfig::GatedMemoryUnit(_) => adapt.rename(&format!("{own}.mixer."), &format!("{own}.gmu.")),
            _ => without_group(&mut adapt.tensors, &format!("{own}.mixer.conv1d.weight")),
        }
        if let ChannelConfig::Glu { hidden, .. } = layer.channel {
            cut(adapt, &format!("{own}.mlp"), [("gate_proj", hidden), ("up_proj", hidden)], Some(d_model))?;
        }
    }
    Ok(())
}

/// Cuts a weight of rows of `width`, or a bias, that is called by its first part and holds all parts one after the other.
fn cut<const N: usize>(
    adapt: &mut Adapt,
    own: &str,
    parts: [(&str, usize); N],
    width: Option<usize>,
) -> Result<(), CheckpointError> {
    let kind = if width.is_some() { "weight" } else { "bias" };
    let shape = |rows: usize| [rows].into_iter().chain(width).collect::<Vec<usize>>();
    let all = parts.iter().map(|(_, rows)| rows).sum();
    let mut tensor = adapt.require(&format!("{own}.{}.{kind}", parts[0].0), &shape(all))?;
    // A bias is cut as a matrix of one column.
    let column = width.unwrap_or(1);
    tensor.shape = vec![all, column];
    let mut from = 0;
    for (part, rows) in parts {
        let name = format!("{own}.{part}.{kind}");
        adapt.put_rows(name.clone(), vec![rows, column], vec![(tensor.clone(), from..from + rows)])?;
        adapt.reshape(&name, &[rows, column], shape(rows));
        from += rows;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(more: &str) -> Result<ModelConfig, String> {
        let json = format!(
            r#"{{"model_type": "phi4flash", "vocab_size": 200064, "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 32, "num_attention_heads": 40, "num_key_value_heads": 20, "mb_per_layer": 2,
            "sliding_window": 512, "layer_norm_eps": 1e-5, "max_position_embeddings": 262144,
            "tie_word_embeddings": true, "hidden_act": "silu", "mlp_bias": false, "lm_head_bias": false {more}}}"#
        );
        let json = ConfigJson::parse(Path::new("config.json"), json.as_bytes()).expect("JSON");
        config(&json, 400)
            .and_then(|c| c.check().map_err(|e| json.wrong("", e.to_string())).map(|()| c))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_published_configuration_is_the_published_plan() {
        let model = read("").expect("a model");
        let MixerConfig::Mamba(mamba) = &model.layers[16].mixer else { panic!("{:?}", model.layers[16]) };
        assert_eq!((mamba.inner, mamba.dt_rank, mamba.state_size, mamba.conv), (5120, 160, 16, 4));
        let MixerConfig::Attention(full) = &model.layers[17].mixer else { panic!("{:?}", model.layers[17]) };
        assert_eq!((full.heads, full.kv_heads, full.head_dim, full.window), (40, 20, 64, None));
        assert_eq!(full.differential.map(|d| d.depth), Some(17));
        let of = |test: fn(&MixerConfig) -> bool| model.layers.iter().filter(|l| test(&l.mixer)).count();
        assert_eq!(of(|m| matches!(m, MixerConfig::Mamba(_))), 9);
        assert_eq!(of(|m| matches!(m, MixerConfig::Attention(a) if a.window == Some(512))), 8);
        assert_eq!(of(|m| matches!(m, MixerConfig::GatedMemoryUnit(g) if g.source == 16 && g.width == 5120)), 7);
        assert_eq!(of(|m| matches!(m, MixerConfig::Attention(a) if a.kv_source == Some(17))), 7);
    }

    #[test]
    fn windows_may_be_listed_by_layer() {
        let list = r#", "num_hidden_layers": 8, "sliding_window": [null, 7, null, 7, null, null, null, null]"#;
        let model = read(list).expect("a model");
        let MixerConfig::Attention(windowed) = &model.layers[3].mixer else { panic!("{:?}", model.layers[3]) };
        assert_eq!(windowed.window, Some(7));
    }

    #[test]
    fn what_is_no_such_model_is_refused_by_name() {
        for (more, parts) in [
            (r#", "num_hidden_layers": 30"#, ["num_hidden_layers", "multiple of 4"]),
            (r#", "num_attention_heads": 5, "num_key_value_heads": 5"#, ["heads: is 5", "even"]),
            (r#", "mb_per_layer": 4"#, ["mb_per_layer", "is 4"]),
            (r#", "sliding_window": null"#, ["sliding_window", "integer"]),
            (r#", "sliding_window": [null, 4]"#, ["sliding_window", "odd ones below 16"]),
            (r#", "mamba_proj_bias": true"#, ["mamba_proj_bias", "true"]),
            (r#", "mlp_bias": true"#, ["mlp_bias", "true"]),
            (r#", "hidden_act": "gelu""#, ["hidden_act", "silu"]),
        ] {
            let error = read(more).expect_err(more);
            assert!(parts.iter().all(|part| error.contains(part)), "{more}: {error}");
        }
    }
}
