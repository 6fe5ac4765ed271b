//! Qwen3-Next in GGUF: norms around 1 and rates as −exp(A_log), queries, keys and values in one tensor, β and the log-gates'
//! input in another, grouped by key head.

use std::collections::BTreeMap;

use memwall_formats::TensorInfo;
use memwall_formats::gguf::Metadata;

use super::super::CheckpointError;
use super::super::adapt::Adapt;
use super::super::assembly::Change;
use super::super::gated_delta::{cut_by_head, cut_queries, grouped};
use super::{experts, head_dim, layers, needed, number, rope, vocab_size};
use crate::channels::moe::{MoeConfig, SharedExpert};
use crate::config::{ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::attention::{AttentionConfig, GateConfig};
use crate::mixers::delta_net::DeltaNetConfig;

pub(super) fn config(
    m: &Metadata,
    arch: &str,
    tensors: &BTreeMap<String, TensorInfo>,
) -> Result<ModelConfig, CheckpointError> {
    let key = |name: &str| format!("{arch}.{name}");
    let d_model = needed(m, &key("embedding_length"))?;
    let heads = needed(m, &key("attention.head_count"))?;
    let head_dim = head_dim(m, arch, heads, d_model)?;
    let norm_eps = m.find::<f64>(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-6);
    let attention = AttentionConfig {
        rope: Some(rope(m, arch, head_dim, false, tensors)?),
        qk_norm: true,
        qk_norm_eps: norm_eps,
        gate: Some(GateConfig::default()),
        ..AttentionConfig::new(heads, number(m, &key("attention.head_count_kv"))?.unwrap_or(heads), head_dim)
    };
    let value_heads = needed(m, &key("ssm.time_step_rank"))?;
    let inner = needed(m, &key("ssm.inner_size"))?;
    if value_heads == 0 || !inner.is_multiple_of(value_heads) {
        let problem =
            format!("is {inner}, which {value_heads} heads of values ({}) do not divide", key("ssm.time_step_rank"));
        return Err(m.wrong(&key("ssm.inner_size"), problem).into());
    }
    let delta = DeltaNetConfig {
        key_heads: Some(needed(m, &key("ssm.group_count"))?),
        short_conv: needed(m, &key("ssm.conv_kernel"))?,
        norm_eps,
        ..DeltaNetConfig::new(value_heads, needed(m, &key("ssm.state_size"))?, inner / value_heads)
    };
    let interval = number(m, &key("full_attention_interval"))?.unwrap_or(4);
    if interval == 0 {
        return Err(m.wrong(&key("full_attention_interval"), "is 0, at least 1 is needed").into());
    }
    let shared = SharedExpert { hidden: needed(m, &key("expert_shared_feed_forward_length"))?, gate: true };
    let moe = ChannelConfig::Moe(MoeConfig { shared: Some(shared), ..experts(m, arch)? });
    let layer = |i: usize| {
        let mixer = match i.is_multiple_of(interval) {
            true => MixerConfig::Attention(attention.clone()),
            false => MixerConfig::DeltaNet(delta.clone()),
        };
        LayerConfig { mixer, channel: moe.clone() }
    };
    Ok(ModelConfig {
        norm_eps,
        tie_embeddings: !tensors.contains_key("lm_head.weight"),
        ..ModelConfig::new(
            vocab_size(m, arch, tensors)?,
            d_model,
            needed(m, &key("context_length"))?,
            (1..=layers(m, arch, tensors)?).map(layer).collect(),
        )
    })
}

/// Turns what such a file holds into memwall's weights.
pub(super) fn adapt(adapt: &mut Adapt, config: &ModelConfig) -> Result<(), CheckpointError> {
    let d = config.d_model;
    for (i, layer) in config.layers.iter().enumerate() {
        let own = format!("model.layers.{i}");
        match &layer.mixer {
            MixerConfig::DeltaNet(delta) => {
                let own = format!("{own}.attn");
                let (keys, values) =
                    (delta.key_heads.unwrap_or(delta.heads) * delta.key_width, delta.heads * delta.value_width);
                let both = adapt.require(&format!("{own}.q_proj.weight"), &[2 * keys + values, d])?;
                let parts = grouped(&both, 1, [keys, keys, values]);
                for ((part, rows), of_part) in [("q", keys), ("k", keys), ("v", values)].into_iter().zip(parts) {
                    adapt.put_rows(format!("{own}.{part}_proj.weight"), vec![rows, d], of_part)?;
                }
                cut_by_head(adapt, &own, delta, d)?;
                adapt.change(&format!("{own}.A_log"), Change::LogOfMinus);
            }
            MixerConfig::Attention(attention) => cut_queries(adapt, &format!("{own}.self_attn"), attention, d)?,
            _ => {}
        }
        // A row of one matrix is stored as a vector.
        adapt.reshape(&format!("{own}.mlp.shared_expert_gate.weight"), &[d], vec![1, d]);
    }
    Ok(())
}
