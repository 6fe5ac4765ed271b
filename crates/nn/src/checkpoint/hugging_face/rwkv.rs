//! `RwkvForCausalLM` of transformers: RWKV-4.
//!
//! `rescale_every` halves hidden states and weights together, so that half precision holds them; what comes out is the
//! same, and it is not done here.

use std::collections::BTreeMap;

use memwall_formats::TensorInfo;
use serde_json::Value;

use super::super::CheckpointError;
use super::super::naming::Naming;
use super::super::rwkv_cpp::{CONTEXT, flatten};
use super::config_json::ConfigJson;
use super::layers;
use crate::config::{ChannelConfig, LayerConfig, MixerConfig, ModelConfig, NormKind};
use crate::mixers::decay::DecayForm;
use crate::mixers::rwkv_channel_mix::RwkvChannelMixConfig;
use crate::mixers::rwkv4::Rwkv4Config;
use crate::mixers::token_shift::TokenMix;

/// A layer of the file is two of memwall's.
pub(super) const NAMING: Naming = Naming::of_pairs(
    &[
        ("model.embed_tokens.", "rwkv.embeddings."),
        ("model.embed_norm.", "rwkv.blocks.0.pre_ln."),
        ("model.norm.", "rwkv.ln_out."),
        ("lm_head.", "head."),
    ],
    "rwkv.blocks.",
    &[
        ("input_layernorm.", "ln1."),
        ("time_mix.time_mix_k", "attention.time_mix_key"),
        ("time_mix.time_mix_v", "attention.time_mix_value"),
        ("time_mix.time_mix_r", "attention.time_mix_receptance"),
        ("time_mix.", "attention."),
    ],
    &[
        ("input_layernorm.", "ln2."),
        ("channel_mix.time_mix_k", "feed_forward.time_mix_key"),
        ("channel_mix.time_mix_r", "feed_forward.time_mix_receptance"),
        ("channel_mix.", "feed_forward."),
    ],
);

pub(super) fn config(config: &ConfigJson, tensors: usize) -> Result<ModelConfig, CheckpointError> {
    let d_model: usize = config.require("hidden_size")?;
    let width: usize = config.find("attention_hidden_size")?.unwrap_or(d_model);
    let hidden = config.find("intermediate_size")?.unwrap_or_else(|| d_model.saturating_mul(4));
    config.only("model_version", &Value::from(4), "another version of RWKV")?;
    // Neither says anything of what is computed.
    for key in ["context_length", "max_position_embeddings", "rescale_every"] {
        config.get(key);
    }
    let time = MixerConfig::Rwkv4(Rwkv4Config { width, decay: DecayForm::Exponent });
    let channel = RwkvChannelMixConfig { hidden, receptance: true, mix: TokenMix::Current };
    let pair = [time, MixerConfig::RwkvChannelMix(channel)];
    let count = layers(config, tensors)?;
    let layer = |mixer: &MixerConfig| LayerConfig { mixer: mixer.clone(), channel: ChannelConfig::None };
    Ok(ModelConfig {
        norm_eps: config.find("layer_norm_epsilon")?.unwrap_or(1e-5),
        tie_embeddings: config.find("tie_word_embeddings")?.unwrap_or(false),
        norm: NormKind::Layer,
        embedding_norm: true,
        ..ModelConfig::new(
            config.require("vocab_size")?,
            d_model,
            CONTEXT,
            (0..count).flat_map(|_| pair.iter().map(layer)).collect(),
        )
    })
}

/// Vectors of the token shift are stored as [1, 1, D].
pub(super) fn adapt(tensors: &mut BTreeMap<String, TensorInfo>) {
    tensors.iter_mut().for_each(|(name, tensor)| flatten(name, &mut tensor.shape));
}
