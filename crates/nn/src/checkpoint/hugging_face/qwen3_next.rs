//! Qwen3-Next (`Qwen3NextForCausalLM`): three layers of Gated DeltaNet to one of gated attention, mixtures of experts with a
//! shared one, norms stored around 0.
//!
//! One projection holds queries, keys, values and output gates, grouped by key head, another β and the log-gates' input; one
//! convolution runs over queries, keys and values; `q_proj` of attention holds query and gate of each head. All of them are
//! cut into memwall's weights. Source: transformers `models/qwen3_next`.

use super::super::CheckpointError;
use super::super::adapt::Adapt;
use super::super::assembly::Change;
use super::super::gated_delta::{cut_by_head, cut_queries, grouped};
use super::super::naming::Naming;
use super::config_json::ConfigJson;
use super::rope::Usual;
use super::{activation, experts, head_dim, layers, rope, without_group};
use crate::channels::moe::{MoeConfig, SharedExpert};
use crate::config::{Activation, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::attention::{AttentionConfig, GateConfig};
use crate::mixers::delta_net::DeltaNetConfig;

/// Tensor names; of those that are cut, the name of the first part.
pub(super) const NAMING: Naming = Naming::of_folder(
    &[],
    &[
        ("attn.q_proj.", "linear_attn.in_proj_qkvz."),
        ("attn.b_proj.", "linear_attn.in_proj_ba."),
        ("attn.q_conv1d.", "linear_attn.conv1d."),
        ("attn.o_norm.", "linear_attn.norm."),
        ("attn.o_proj.", "linear_attn.out_proj."),
        ("attn.", "linear_attn."),
    ],
);

const ROPE: Usual = Usual { theta: 10_000.0, share: Some(0.25) };

const LINEAR: &str = "linear_attention";
const ATTENTION: &str = "full_attention";

pub(super) fn config(config: &ConfigJson, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    // Training's; other ways to say how layers alternate are read below.
    for key in ["output_router_logits", "router_aux_loss_coef"] {
        config.get(key);
    }
    let d_model: usize = config.require("hidden_size")?;
    let max_context: usize = config.require("max_position_embeddings")?;
    let norm_eps: f64 = config.find("rms_norm_eps")?.unwrap_or(1e-6);
    if activation(config)? != Activation::Silu {
        return Err(config.wrong("hidden_act", "is not silu, which experts and convolutions of this family have"));
    }
    let heads: usize = config.require("num_attention_heads")?;
    let head_dim = head_dim(config, heads, d_model)?;
    let bias = config.find("attention_bias")?.unwrap_or(false);
    if bias {
        return Err(config.wrong("attention_bias", "is true; biases of gates are not supported"));
    }
    let attention = AttentionConfig {
        rope: Some(rope::read(config, max_context, head_dim, ROPE)?),
        qk_norm: true,
        qk_norm_eps: norm_eps,
        gate: Some(GateConfig::default()),
        ..AttentionConfig::new(heads, config.find("num_key_value_heads")?.unwrap_or(heads), head_dim)
    };
    let value_heads: usize = config.require("linear_num_value_heads")?;
    let (key_width, value_width) = (config.require("linear_key_head_dim")?, config.require("linear_value_head_dim")?);
    let delta = DeltaNetConfig {
        key_heads: Some(config.require("linear_num_key_heads")?),
        short_conv: config.find("linear_conv_kernel_dim")?.unwrap_or(4),
        norm_eps,
        ..DeltaNetConfig::new(value_heads, key_width, value_width)
    };
    let layers = layers(config, tensors)?;
    let channels = channels(config, layers)?;
    let layer = |(attends, channel): (bool, ChannelConfig)| {
        let mixer = match attends {
            true => MixerConfig::Attention(attention.clone()),
            false => MixerConfig::DeltaNet(delta.clone()),
        };
        LayerConfig { mixer, channel }
    };
    Ok(ModelConfig {
        norm_eps,
        tie_embeddings: config.find("tie_word_embeddings")?.unwrap_or(false),
        ..ModelConfig::new(
            config.require("vocab_size")?,
            d_model,
            max_context,
            attends(config, layers)?.into_iter().zip(channels).map(layer).collect(),
        )
    })
}

/// Which layers are attention: as listed, or each fourth.
fn attends(config: &ConfigJson, layers: usize) -> Result<Vec<bool>, CheckpointError> {
    let interval: usize = config.find("full_attention_interval")?.unwrap_or(4);
    let Some(kinds) = config.find::<Vec<&str>>("layer_types")? else {
        if interval == 0 {
            return Err(config.wrong("full_attention_interval", "is 0, at least 1 is needed"));
        }
        return Ok((1..=layers).map(|i| i.is_multiple_of(interval)).collect());
    };
    if kinds.len() != layers {
        let problem = format!("has {} elements; num_hidden_layers is {layers}", kinds.len());
        return Err(config.wrong("layer_types", problem));
    }
    let kind = |kind: &str| match kind {
        ATTENTION => Ok(true),
        LINEAR => Ok(false),
        other => Err(config.wrong("layer_types", format!("has {other:?}; {LINEAR} and {ATTENTION} are supported"))),
    };
    kinds.into_iter().map(kind).collect()
}

/// The channel layer of each layer: experts in each `decoder_sparse_step`th, but not in those that `mlp_only_layers` lists.
fn channels(config: &ConfigJson, layers: usize) -> Result<Vec<ChannelConfig>, CheckpointError> {
    let step: usize = config.find("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err(config.wrong("decoder_sparse_step", "is 0, at least 1 is needed"));
    }
    let only: Vec<usize> = config.find("mlp_only_layers")?.unwrap_or_default();
    if let Some(beyond) = only.iter().find(|&&i| i >= layers) {
        return Err(config.wrong("mlp_only_layers", format!("has layer {beyond}; num_hidden_layers is {layers}")));
    }
    let count: usize = config.require("num_experts")?;
    let sparse = |i: usize| count > 0 && (i + 1).is_multiple_of(step) && !only.contains(&i);
    let moe = || -> Result<ChannelConfig, CheckpointError> {
        Ok(ChannelConfig::Moe(MoeConfig {
            normalize: config.find("norm_topk_prob")?.unwrap_or(true),
            shared: Some(SharedExpert { hidden: config.require("shared_expert_intermediate_size")?, gate: true }),
            ..MoeConfig::new(count, config.require("num_experts_per_tok")?, config.require("moe_intermediate_size")?)
        }))
    };
    // Asked for where no layer has it too, so that nobody is told of a key that says nothing here.
    let hidden: Option<usize> = config.find("intermediate_size")?;
    let dense = || -> Result<ChannelConfig, CheckpointError> {
        let hidden = hidden.map_or_else(|| config.require("intermediate_size"), Ok)?;
        Ok(ChannelConfig::Glu { hidden, activation: Activation::Silu, bias: false })
    };
    (0..layers).map(|i| if sparse(i) { moe() } else { dense() }).collect()
}

/// Turns what such a file holds into memwall's weights.
pub(super) fn adapt(adapt: &mut Adapt, config: &ModelConfig) -> Result<(), CheckpointError> {
    adapt.tensors.retain(|name, _| !name.starts_with("mtp."));
    for (i, layer) in config.layers.iter().enumerate() {
        let own = format!("model.layers.{i}");
        match &layer.mixer {
            MixerConfig::DeltaNet(delta) => cut_delta(adapt, &format!("{own}.attn"), delta, config.d_model)?,
            MixerConfig::Attention(attention) => {
                cut_queries(adapt, &format!("{own}.self_attn"), attention, config.d_model)?;
                adapt.change(&format!("{own}.self_attn.q_norm.weight"), Change::OnePlus);
                adapt.change(&format!("{own}.self_attn.k_norm.weight"), Change::OnePlus);
            }
            _ => {}
        }
        adapt.change(&format!("{own}.input_layernorm.weight"), Change::OnePlus);
        adapt.change(&format!("{own}.post_attention_layernorm.weight"), Change::OnePlus);
    }
    adapt.change("model.norm.weight", Change::OnePlus);
    experts::adapt(adapt, config, ["gate_proj", "up_proj", "down_proj"])
}

fn cut_delta(adapt: &mut Adapt, own: &str, delta: &DeltaNetConfig, d_model: usize) -> Result<(), CheckpointError> {
    let key_heads = delta.key_heads.unwrap_or(delta.heads);
    let (keys, values) = (key_heads * delta.key_width, delta.heads * delta.value_width);
    let own_values = values / key_heads;
    let tensor = adapt.require(&format!("{own}.q_proj.weight"), &[2 * (keys + values), d_model])?;
    let parts = grouped(&tensor, key_heads, [delta.key_width, delta.key_width, own_values, own_values]);
    for ((part, rows), of_part) in [("q", keys), ("k", keys), ("v", values), ("g", values)].into_iter().zip(parts) {
        adapt.put_rows(format!("{own}.{part}_proj.weight"), vec![rows, d_model], of_part)?;
    }
    without_group(&mut adapt.tensors, &format!("{own}.q_conv1d.weight"));
    cut_by_head(adapt, own, delta, d_model)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(more: &str) -> Result<ModelConfig, String> {
        let json = format!(
            r#"{{"model_type": "qwen3_next", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 8,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64,
            "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
            "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
            "shared_expert_intermediate_size": 10, "intermediate_size": 48 {more}}}"#
        );
        let json = ConfigJson::parse(Path::new("config.json"), json.as_bytes()).expect("JSON");
        config(&json, 100).map_err(|e| e.to_string())
    }

    #[test]
    fn each_fourth_layer_is_attention_and_all_have_experts_unless_said_otherwise() {
        let kinds = |more: &str| -> (Vec<bool>, Vec<bool>) {
            let layers = read(more).expect("a model").layers;
            let attends = |l: &LayerConfig| matches!(l.mixer, MixerConfig::Attention(_));
            let sparse = |l: &LayerConfig| matches!(l.channel, ChannelConfig::Moe(_));
            (layers.iter().map(attends).collect(), layers.iter().map(sparse).collect())
        };
        let (attends, sparse) = kinds("");
        assert_eq!(attends, [false, false, false, true, false, false, false, true]);
        assert_eq!(sparse, [true; 8]);
        let (attends, sparse) =
            kinds(r#", "full_attention_interval": 3, "decoder_sparse_step": 2, "mlp_only_layers": [3]"#);
        assert_eq!(attends, [false, false, true, false, false, true, false, false]);
        assert_eq!(sparse, [false, true, false, false, false, true, false, true]);
    }

    #[test]
    fn what_is_no_such_model_is_refused_by_name() {
        for (more, parts) in [
            (r#", "layer_types": ["full_attention"]"#, ["layer_types", "1 elements"]),
            (r#", "num_hidden_layers": 1, "layer_types": ["sliding_attention"]"#, ["layer_types", "sliding_attention"]),
            (r#", "full_attention_interval": 0"#, ["full_attention_interval", "is 0"]),
            (r#", "mlp_only_layers": [8]"#, ["mlp_only_layers", "layer 8"]),
            (r#", "decoder_sparse_step": 0"#, ["decoder_sparse_step", "is 0"]),
            (r#", "attention_bias": true"#, ["attention_bias", "true"]),
            (r#", "hidden_act": "gelu""#, ["hidden_act", "silu"]),
            (r#", "partial_rotary_factor": 2"#, ["partial_rotary_factor", "is 2"]),
        ] {
            let error = read(more).expect_err(more);
            assert!(parts.iter().all(|part| error.contains(part)), "{more}: {error}");
        }
    }
}
