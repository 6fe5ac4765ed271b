//! RWKV-6 and RWKV-7 as flash-linear-attention stores them: a layer of the file is two of memwall's, a time mix and a channel
//! mix, with softmax attention for the time mix in the layers that the section `attn` lists.
//!
//! Source: fla-org/flash-linear-attention, `fla/models/rwkv6`, `fla/models/rwkv7`.

use memwall_formats::TensorInfo;

use super::super::CheckpointError;
use super::super::adapt::Adapt;
use super::super::naming::Naming;
use super::super::rwkv_cpp::{CONTEXT, flatten};
use super::config_json::ConfigJson;
use super::flash_linear_attention::{Place, attention};
use super::layers;
use crate::config::{ChannelConfig, LayerConfig, MixerConfig, ModelConfig, NormKind};
use crate::mixers::rwkv_channel_mix::RwkvChannelMixConfig;
use crate::mixers::token_shift::TokenMix;

/// What the two versions share beside the names of their weights.
pub(super) const TOP: &[(&str, &str)] =
    &[("model.embed_tokens.", "model.embeddings."), ("model.embed_norm.", "model.layers.0.pre_norm.")];

/// The hidden width of a channel mix is a multiple of it.
const HIDDEN_MULTIPLE: usize = 32;

/// A version of this frame.
pub(super) struct Version {
    pub naming: Naming,
    /// Width of a channel mix over that of the model.
    pub hidden_ratio: f64,
    /// The gate of the channel mix.
    pub receptance: bool,
    /// The time mix of a layer.
    pub mixer: fn(&ConfigJson, Place) -> Result<MixerConfig, CheckpointError>,
    /// Turns what the time mix called so holds into memwall's weights.
    pub adapt: fn(&mut Adapt, &str, &MixerConfig, usize) -> Result<(), CheckpointError>,
}

impl Version {
    pub(super) fn config(&self, config: &ConfigJson, tensors: usize) -> Result<ModelConfig, CheckpointError> {
        let d_model: usize = config.require("hidden_size")?;
        let norm_eps: f64 = config.find("norm_eps")?.unwrap_or(1e-5);
        let ratio: f64 = config.find("hidden_ratio")?.unwrap_or(self.hidden_ratio);
        let hidden = match config.find::<usize>("intermediate_size")? {
            Some(hidden) => hidden,
            // A width that overflows is refused as too wide.
            None => ((d_model as f64 * ratio) as usize).checked_next_multiple_of(HIDDEN_MULTIPLE).unwrap_or(usize::MAX),
        };
        config.only("hidden_act", &"sqrelu".into(), "another activation of the channel mix")?;
        // Forms and fused kernels compute the same; where code is that others would run.
        let same =
            ["attn_mode", "fuse_norm", "fuse_cross_entropy", "fuse_linear_cross_entropy", "use_l2warp", "auto_map"];
        for key in same {
            config.get(key);
        }
        let count = layers(config, tensors)?;
        let (attention_layers, attention) = attention(config, d_model, count)?;
        // No position enters a model without attention.
        let max_context = config.find("max_position_embeddings")?.unwrap_or(2048);
        let channel = RwkvChannelMixConfig { hidden, receptance: self.receptance, mix: TokenMix::Previous };
        let mut all = Vec::new();
        for layer in 0..count {
            let mixer = match &attention {
                Some(attention) if attention_layers.contains(&layer) => MixerConfig::Attention(attention.clone()),
                _ => (self.mixer)(config, Place { d_model, norm_eps, layer, layers: count })?,
            };
            all.extend([mixer, MixerConfig::RwkvChannelMix(channel.clone())]);
        }
        let biased = config.find("norm_bias")?.unwrap_or(true);
        let max_context = if attention.is_some() { max_context } else { CONTEXT };
        let layers = all.into_iter().map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None }).collect();
        Ok(ModelConfig {
            norm_eps,
            tie_embeddings: config.find("tie_word_embeddings")?.unwrap_or(false),
            norm: if biased { NormKind::Layer } else { NormKind::LayerWithoutBias },
            embedding_norm: config.find("norm_first")?.unwrap_or(true),
            ..ModelConfig::new(config.require("vocab_size")?, d_model, max_context, layers)
        })
    }

    /// Turns what such a file holds into memwall's weights.
    pub(super) fn adapt(&self, adapt: &mut Adapt, config: &ModelConfig) -> Result<(), CheckpointError> {
        for (i, layer) in config.layers.iter().enumerate() {
            let own = format!("model.layers.{i}.time_mix.");
            match &layer.mixer {
                // Which of the two a layer has is not in the name.
                MixerConfig::Attention(_) => {
                    let ours = format!("model.layers.{i}.self_attn.");
                    for (part, theirs) in [("key.", "k_proj."), ("value.", "v_proj."), ("output.", "o_proj."), ("", "")]
                    {
                        adapt.rename(&format!("{own}{part}"), &format!("{ours}{theirs}"));
                    }
                }
                MixerConfig::RwkvChannelMix(_) => {}
                time_mix => (self.adapt)(adapt, &own, time_mix, config.d_model)?,
            }
        }
        // Vectors of the token shift are stored as [1, 1, D].
        adapt.tensors.iter_mut().for_each(|(name, tensor)| flatten(name, &mut tensor.shape));
        Ok(())
    }
}

/// Cuts the tensor `stack` of the layer `own`, if it is there as [parts, D], into vectors `x_{part}`.
pub(super) fn cut_vectors<const N: usize>(adapt: &mut Adapt, own: &str, stack: &str, parts: [&str; N], d_model: usize) {
    let Some(whole) = adapt.tensors.get(&format!("{own}{stack}")).filter(|t| t.shape == [N, d_model]).cloned() else {
        return;
    };
    adapt.tensors.remove(&format!("{own}{stack}"));
    let bytes = whole.bytes / N as u64;
    for (i, part) in parts.into_iter().enumerate() {
        let offset = whole.offset + i as u64 * bytes;
        let one = TensorInfo { shape: vec![d_model], offset, bytes, ..whole.clone() };
        adapt.tensors.insert(format!("{own}x_{part}"), one);
    }
}
