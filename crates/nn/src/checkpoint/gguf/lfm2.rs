//! LFM2 and LFM2-MoE in GGUF: a layer without KV heads is a gated short convolution.

use std::collections::BTreeMap;

use memwall_formats::TensorInfo;
use memwall_formats::gguf::Metadata;

use super::super::CheckpointError;
use super::{experts, head_dim, layers, needed, number, of_layers, rope, vocab_size};
use crate::channels::moe::{MoeConfig, Scores};
use crate::config::{Activation, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::attention::AttentionConfig;
use crate::mixers::short_conv::ShortConvConfig;

pub(super) fn config(
    m: &Metadata,
    arch: &str,
    tensors: &BTreeMap<String, TensorInfo>,
) -> Result<ModelConfig, CheckpointError> {
    let key = |name: &str| format!("{arch}.{name}");
    let d_model = needed(m, &key("embedding_length"))?;
    let heads = needed(m, &key("attention.head_count"))?;
    let head_dim = head_dim(m, arch, heads, d_model)?;
    let norm_eps = m.find::<f64>(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-5);
    let attention = AttentionConfig {
        rope: Some(rope(m, arch, head_dim, false, tensors)?),
        qk_norm: true,
        qk_norm_eps: norm_eps,
        ..AttentionConfig::new(heads, heads, head_dim)
    };
    let layers = layers(m, arch, tensors)?;
    let kv_heads = of_layers(m, &key("attention.head_count_kv"), layers)?.unwrap_or_else(|| vec![heads; layers]);
    let l_cache = key("shortconv.l_cache");
    let taps = if kv_heads.contains(&0) { needed(m, &l_cache)? } else { 0 };
    if kv_heads.contains(&0) && taps < 2 {
        return Err(m.wrong(&l_cache, format!("is {taps}; a convolution has at least 2 taps")).into());
    }
    let hidden = needed(m, &key("feed_forward_length"))?;
    let dense = ChannelConfig::Glu { hidden, activation: Activation::Silu, bias: false };
    let moe = if arch == "lfm2moe" { Some(moe(m, arch)?) } else { None };
    let dense_layers = number(m, &key("leading_dense_block_count"))?.unwrap_or(0);
    let mixer = |kv_heads: usize| match kv_heads {
        0 => MixerConfig::ShortConv(ShortConvConfig { taps, gated: true }),
        _ => MixerConfig::Attention(AttentionConfig { kv_heads, ..attention.clone() }),
    };
    let layer = |(i, kv_heads): (usize, usize)| {
        let channel = match &moe {
            Some(moe) if i >= dense_layers => ChannelConfig::Moe(moe.clone()),
            _ => dense.clone(),
        };
        LayerConfig { mixer: mixer(kv_heads), channel }
    };
    Ok(ModelConfig {
        norm_eps,
        tie_embeddings: !tensors.contains_key("lm_head.weight"),
        ..ModelConfig::new(
            vocab_size(m, arch, tensors)?,
            d_model,
            needed(m, &key("context_length"))?,
            kv_heads.into_iter().enumerate().map(layer).collect(),
        )
    })
}

/// What is added to the sum of the chosen experts' scores: GGUF has no key for it.
pub(in super::super) const NORMALIZE_EPS: f64 = 1e-6;

/// The experts: by sigmoid unless the file says softmax, chosen with a bias.
fn moe(m: &Metadata, arch: &str) -> Result<MoeConfig, CheckpointError> {
    let key = format!("{arch}.expert_gating_func");
    let scores = match number(m, &key)? {
        Some(1) => Scores::Softmax,
        None | Some(2) => Scores::Sigmoid,
        Some(other) => return Err(m.wrong(&key, format!("is {other}; 1 (softmax) and 2 (sigmoid) are known")).into()),
    };
    Ok(MoeConfig { scores, selection_bias: true, normalize_eps: NORMALIZE_EPS, ..experts(m, arch)? })
}
